"""Launches against the stand-in: what is rented, what it costs, and that nothing goes on costing."""

import threading
from datetime import datetime

import pytest
from renting import TOKEN, Client
from shadeform_server import Server, instance_type, spot

from lanbot.cloud import launch, records
from lanbot.cloud.offers import Wanted, rank
from lanbot.cloud.providers.base import Offer, machine_name
from lanbot.cloud.secrets import LINE
from lanbot.core.errors import UserError


def hours(offer: Offer) -> float:
    """A plan: a B200 is twice as fast; others than these two do not fit."""
    if offer.gpu not in ("H100", "B200"):
        raise UserError("no such GPUs")
    return 16 / offer.count / (2 if offer.gpu == "B200" else 1)


# -- offers ------------------------------------------------------------------------------------------------


def test_offers_are_ranked_by_what_the_run_costs_and_not_by_the_hour(client: Client) -> None:
    client.server.types = [
        instance_type("H100", 8, 2_400),
        instance_type("B200", 8, 3_360),
        instance_type("A100", 8, 1_000),
        instance_type("H200", 8, 100),
    ]
    ranked = rank(client.provider.offers(), Wanted(), hours)
    assert [(offer.gpu, dollars) for offer, dollars in ranked] == [("B200", 33.6), ("H100", 48.0)]


def test_spot_and_on_demand_are_never_mixed_up(client: Client) -> None:
    here = {"region": "here", "available": True, "rental_type": "on_demand"}
    gone = {"region": "gone", "available": False, "rental_type": "on_demand"}
    client.server.types = [instance_type(places=[gone, here, spot("cheap", "9.60"), spot("none", "1.00", False)])]
    offers = client.provider.offers()
    assert [offer.region for offer, _ in rank(offers, Wanted(), hours)] == ["here"]
    assert [offer.region for offer, _ in rank(offers, Wanted(spot=True), hours)] == ["cheap"]
    assert not client.launch(offer=rank(offers, Wanted(), hours)[0][0]).offer.spot
    assert client.server.bodies()[0]["rental_type"] == "on_demand"


def test_wishes_narrow_the_offers(client: Client) -> None:
    client.server.types = [
        instance_type("H100", 8),
        instance_type("H100", 4, 1_200, cloud="other", type="special"),
        instance_type("B200", 8, 3_360),
    ]
    offers = client.provider.offers()

    def found(wanted: Wanted) -> list[str]:
        return sorted(f"{offer.count}x{offer.gpu}" for offer in offers if wanted.takes(offer))

    assert found(Wanted()) == ["8xB200", "8xH100"]
    assert found(Wanted(count=None)) == ["4xH100", "8xB200", "8xH100"]
    assert found(Wanted("b200")) == ["8xB200"]
    assert found(Wanted(count=None, cloud="other")) == ["4xH100"]
    assert found(Wanted(type="special")) == ["4xH100"]


# -- launching ---------------------------------------------------------------------------------------------


def test_a_launch_is_recorded_before_it_is_asked_for(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    create = Server._create
    monkeypatch.setattr(Server, "_create", lambda *given: (seen.append(client.saved().node.state), create(*given))[1])
    node = client.launch()
    assert seen == ["requested"] and client.saved().node == node and node.id
    assert TOKEN not in records.path_of(client.folder, "x").read_text()


def test_every_machine_has_caps_a_unique_name_and_tags(client: Client) -> None:
    one, two = client.launch("x", 50.0), client.launch("y")
    body = client.server.bodies()[0]
    assert one.name != two.name and one.name.startswith("lanbot-x-") and body["name"] == one.name
    assert set(body["tags"]) == {"lanbot", "run:x"}
    ends = datetime.fromisoformat(body["auto_delete"]["date_threshold"])
    assert body["auto_delete"]["spend_threshold"] == "50.00"
    assert 0 < (ends - client.server.now()).total_seconds() <= (50 / 24 + 0.5) * 3_600
    assert [made.envs for made in client.server.alive] == [{"HF_TOKEN": TOKEN}] * 2  # and not the account's key


def test_without_a_budget_nothing_is_rented(client: Client) -> None:
    with pytest.raises(UserError, match="cap"):
        client.launch(budget=0)
    assert not client.server.bodies()


@pytest.mark.parametrize("fault", ["lost", "late 150"])
def test_a_lost_answer_is_settled_by_the_list(client: Client, fault: str) -> None:
    client.server.fail("POST create", fault)
    node = client.launch()
    assert [made.id for made in client.server.alive] == [node.id] and len(client.server.bodies()) == 1


def test_a_machine_that_is_listed_only_after_the_second_request_is_deleted_and_paid(client: Client) -> None:
    client.server.fail("POST create", "late 240")
    node = client.launch()
    assert len(client.server.bodies()) == 2 and [made.id for made in client.server.alive] == [node.id]
    first = client.server.instances["id-1"]
    assert 60 < (first.ended or 0) - first.created < 260
    record = client.cloud().down("x")
    assert len(record.nodes) == 2 and record.nodes[0].spent > 0.5
    assert record.spent == pytest.approx(client.server.spent, abs=0.01)


@pytest.mark.parametrize("fault", ["500", "drop"])
def test_a_failed_request_is_repeated_only_after_listing(client: Client, fault: str) -> None:
    client.server.fail("POST create", fault)
    node = client.launch()
    routes = [route for route, _ in client.server.requests]
    first = routes.index("POST create")
    assert "GET list" in routes[first + 1 : routes.index("POST create", first + 1)]
    assert [made.id for made in client.server.alive] == [node.id]


def test_a_request_is_not_repeated_if_the_list_cannot_be_read(client: Client) -> None:
    cloud, record, offer = client.cloud(), client.record(), client.provider.offers()[0]
    client.server.fail("GET list", "")  # that of the check before it
    client.server.fail("POST create", "lost")
    client.server.fail("GET list", *["500"] * 6)
    with pytest.raises(UserError, match="500"):
        cloud.launch(record, offer)
    assert len(client.server.bodies()) == 1 and client.saved().live
    assert client.cloud().down("x").spent == 0 and not client.server.alive


def test_too_many_requests_wait_and_too_little_money_does_not(client: Client) -> None:
    client.server.fail("POST create", "429")
    client.launch()
    client.server.fail("POST create", "funds")
    with pytest.raises(UserError, match="INSUFFICIENT_FUNDS"):
        client.launch("poor")
    assert len(client.server.bodies()) == 3 and not client.saved("poor").live


@pytest.mark.parametrize("when", ["before", "after"])
def test_ctrl_c_during_a_launch_leaves_a_record_that_down_ends(
    client: Client, when: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud, record, offer = client.cloud(), client.record(), client.provider.offers()[0]

    def interrupted(asked: object) -> str:
        if when == "after":
            client.provider.create(asked)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(cloud.provider, "create", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cloud.launch(record, offer)
    assert "lanbot cloud down x" in capsys.readouterr().err
    assert len(client.server.alive) == (when == "after")
    assert not client.cloud().down("x").live and not client.server.alive


def test_a_run_is_launched_once_at_a_time(client: Client) -> None:
    results: list[str] = []

    def attempt() -> None:
        try:
            results.append(client.launch().name)
        except UserError as error:
            results.append(error.problem)

    threads = [threading.Thread(target=attempt) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(client.server.alive) == 1 and sum("launched already" in result for result in results) == 1


def test_a_machine_of_the_run_from_elsewhere_stops_a_launch(client: Client) -> None:
    client.launch()
    records.path_of(client.folder, "x").unlink()
    with pytest.raises(UserError, match="there already"):
        client.launch()
    assert len(client.server.alive) == 1


def test_a_run_can_be_launched_again_once_its_machine_is_gone(client: Client) -> None:
    client.launch()
    client.server.advance(3_600 + 120)
    client.cloud().down("x")
    client.launch()
    assert client.saved().before == pytest.approx(24, abs=0.2) and client.saved().spent == 0


# -- the end -----------------------------------------------------------------------------------------------


def test_down_waits_until_the_machine_is_gone_and_says_what_it_cost(client: Client) -> None:
    client.launch()
    client.server.advance(2 * 3_600 + 120)
    record = client.cloud().down("x")
    assert not client.provider.list() and not record.live
    assert record.spent == pytest.approx(client.server.spent, abs=0.005) and record.spent == pytest.approx(48, abs=0.01)


def test_down_asks_again_while_the_cloud_refuses(client: Client) -> None:
    client.server.refuses_early_delete = True
    client.launch()
    client.cloud().down("x")
    (made,) = client.server.instances.values()
    assert made.refused_deletes > 1 and not client.server.alive


def test_down_deletes_both_machines_of_one_name(client: Client) -> None:
    client.launch()
    (body,) = client.server.bodies()
    client.server.add(body)
    assert len(client.server.alive) == 2
    client.cloud().down("x")
    assert not client.server.alive


def test_down_does_not_take_a_failed_listing_for_an_empty_one(client: Client) -> None:
    client.launch()
    client.server.fail("GET list", *["500"] * 6)
    with pytest.raises(UserError, match="500"):
        client.cloud().down("x")
    assert client.saved().live
    client.cloud().down("x")
    assert not client.server.alive


def test_down_gives_up_with_an_error_if_the_machine_stays(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    client.server.refuses_early_delete, client.server.boot = True, 1e6
    client.launch()
    with pytest.raises(UserError, match=r"still there after .* once it is active"):
        client.cloud().down("x")


def test_orphans_are_what_no_record_holds(client: Client) -> None:
    client.launch()
    assert client.cloud().orphans() == []
    body = client.server.bodies()[0]
    client.server.add(body | {"name": machine_name("lost", "0a0b0c"), "tags": []})
    client.server.add(body | {"name": "renamed-by-hand"})
    client.server.add(body | {"name": "of-somebody-else", "tags": ["other"]})
    assert [orphan.name for orphan in client.cloud().orphans()] == ["lanbot-lost-0a0b0c", "renamed-by-hand"]


def test_a_machine_that_a_record_thinks_is_gone_is_an_orphan(client: Client) -> None:
    node = client.launch()
    with records.updating(client.folder, "x") as record:
        record.node.close("gone from the list")
    (orphan,) = client.cloud().orphans()
    assert orphan.id == node.id
    launch.delete_orphan(client.provider, orphan.id)
    assert not client.server.alive and client.cloud().orphans() == []


def test_orphans_fail_if_the_list_does(client: Client) -> None:
    client.server.fail("GET list", *["429"] * 6)
    with pytest.raises(UserError, match="429"):
        client.cloud().orphans()


def test_a_settings_file_keeps_what_follows_a_number_sign_in_a_word() -> None:
    lines = {"LANBOT_SOURCE=hf:me/bot#mid/813": "hf:me/bot#mid/813", "A=b # a comment": "b", "A= # a comment": ""}
    for line, value in lines.items():
        match = LINE.fullmatch(line)
        assert match is not None and next((group for group in match.groups()[1:] if group), "") == value
