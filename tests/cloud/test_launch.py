"""Launches against the stand-in: what is rented, what it costs, and that nothing goes on costing."""

import threading
from collections.abc import Callable
from datetime import datetime

import pytest
from conftest import TOKEN, Client
from shadeform_server import Made, Server, instance_type, spot

from lanbot.cloud import launch, records
from lanbot.cloud.launch import FinalError, Wanted, rank
from lanbot.cloud.providers.base import Offer, machine_name
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


@pytest.mark.parametrize("fault", ["lost", "late"])
def test_a_lost_answer_is_settled_by_the_list(client: Client, fault: str) -> None:
    client.server.fail("POST create", fault)
    node = client.launch()
    assert [made.id for made in client.server.alive] == [node.id] and len(client.server.bodies()) == 1


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


# -- watching ----------------------------------------------------------------------------------------------


def watch(client: Client, events: dict[int, Callable[[], None]], recover: bool = True) -> records.Record:
    """Watches with events at the looks of these numbers; the last one should end it."""
    looks = iter(range(10_000))

    def show(record: records.Record) -> None:
        events.get(next(looks), lambda: None)()

    return client.cloud().watch("x", recover, show)


def finish(client: Client, outcome: str = "done") -> Callable[[], None]:
    return lambda: setattr(client, "outcome", outcome)


def the_one(client: Client) -> Made:
    (made,) = client.server.alive
    return made


def test_a_finished_run_is_deleted_at_once(client: Client) -> None:
    client.launch()
    record = watch(client, {20: finish(client)})
    assert not client.server.alive and record.spent == pytest.approx(client.server.spent, abs=0.005)
    assert record.spent < 1


def test_a_failed_run_is_deleted_and_not_started_again(client: Client) -> None:
    client.launch()
    with pytest.raises(FinalError, match="the run failed: why"):
        watch(client, {20: finish(client, "failed: why")})
    assert not client.server.alive and len(client.server.bodies()) == 1


@pytest.mark.parametrize("loss", ["reclaim", "vanish", "break", "by hand"])
def test_a_lost_machine_is_replaced_within_one_budget(client: Client, loss: str) -> None:
    client.launch(budget=100.0)

    server = client.server
    ways = {"reclaim": server.reclaim, "vanish": server.vanish, "break": server.break_down, "by hand": server.end}

    def lose() -> None:
        ways[loss](the_one(client))

    events = {3: lambda: client.server.advance(3_600), 5: lose, 60: finish(client)}
    record = watch(client, events)
    assert not client.server.alive and len(record.nodes) == 2 and not record.live
    first, second = client.server.bodies()
    caps = [float(body["auto_delete"]["spend_threshold"]) for body in (first, second)]
    assert caps[0] == 100.0 and caps[1] == pytest.approx(100.0 - record.nodes[0].spent, abs=0.011)
    assert record.nodes[0].spent > 22 and record.spent < 100
    if loss != "vanish":
        assert record.spent == pytest.approx(client.server.spent, abs=0.005)


def test_without_recover_a_lost_machine_ends_the_watch_and_recover_goes_on_later(client: Client) -> None:
    client.launch()
    with pytest.raises(FinalError, match=r"lost.*preempted"):
        watch(client, {20: lambda: client.server.reclaim(the_one(client))}, recover=False)
    assert not client.server.alive
    assert len(watch(client, {20: finish(client)}).nodes) == 2


def test_the_cap_ends_the_machine_and_nothing_is_left_for_another(client: Client) -> None:
    client.launch(budget=30.0)
    with pytest.raises(FinalError, match="too little is left"):
        watch(client, {4: lambda: client.server.advance(5 * 3_600)})
    assert client.server.spent <= 30.005 and len(client.server.bodies()) == 1 and not client.server.alive


def test_machines_that_are_lost_again_and_again_never_exceed_the_budget(client: Client) -> None:
    client.launch(budget=40.0)
    events = {look: lambda: [client.server.advance(1_500), *map(client.server.reclaim, client.server.alive)] for look in
              range(30, 3_000, 30)}  # fmt: skip
    with pytest.raises(FinalError, match="too little is left"):
        watch(client, events)
    assert client.server.spent <= 40.005 and len(client.server.bodies()) > 2 and not client.server.alive


def test_down_elsewhere_ends_a_watch_that_would_recover(client: Client) -> None:
    client.launch()
    record = watch(client, {20: lambda: client.cloud().down("x")})
    assert record.closing and not client.server.alive and len(client.server.bodies()) == 1


def test_a_watch_outlives_failing_lists_and_missing_offers(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    client.launch()
    types = client.server.types

    def lose() -> None:
        client.server.types = []
        client.server.reclaim(the_one(client))

    def restock() -> None:
        client.server.types = types

    events = {5: lambda: client.server.fail("GET list", *["503"] * 13), 20: lose, 40: restock, 80: finish(client)}
    assert len(watch(client, events).nodes) == 2
    said = capsys.readouterr().err
    assert "looking again" in said and "no offer" in said


def test_out_of_money_ends_the_watch(client: Client) -> None:
    client.launch()

    def lose() -> None:
        client.server.fail("POST create", "funds")
        client.server.reclaim(the_one(client))

    with pytest.raises(UserError, match="INSUFFICIENT_FUNDS"):
        watch(client, {20: lose})
    assert not client.server.alive


def test_a_spot_machine_is_replaced_by_a_spot_machine(client: Client) -> None:
    client.server.types = [instance_type(places=[spot("here", "9.60")]), instance_type("H100", 8, 100, cloud="cheap")]
    offer = next(offer for offer in client.provider.offers() if offer.spot)
    client.launch(offer=offer)
    watch(client, {20: lambda: client.server.reclaim(the_one(client)), 60: finish(client)})
    assert [body["rental_type"] for body in client.server.bodies()] == ["spot", "spot"]


def test_a_double_is_deleted_by_the_watch(client: Client) -> None:
    client.launch()
    body = client.server.bodies()[0]
    watch(client, {5: lambda: client.server.add(body), 40: finish(client)})
    assert len(client.server.instances) == 2 and not client.server.alive


def test_the_stand_in_tells_when_a_script_would_run(client: Client) -> None:
    events: list[tuple[str, str]] = []
    client.server.on_active = lambda made: events.append(("active", made.script.split()[0]))
    client.server.on_gone = lambda made: events.append(("gone", made.envs["HF_TOKEN"]))
    client.launch()
    assert not events
    client.server.advance(200)
    client.cloud().down("x")
    assert events == [("active", "#!/bin/bash"), ("gone", TOKEN)]
