"""Launches against the stand-in: what is rented, what it costs, and that nothing goes on costing."""

import threading
from collections.abc import Callable
from datetime import datetime

import pytest
from conftest import TOKEN, Desk
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


def test_offers_are_ranked_by_what_the_run_costs_and_not_by_the_hour(desk: Desk) -> None:
    desk.server.types = [
        instance_type("H100", 8, 2_400),
        instance_type("B200", 8, 3_360),
        instance_type("A100", 8, 1_000),
        instance_type("H200", 8, 100),
    ]
    ranked = rank(desk.provider.offers(), Wanted(), hours)
    assert [(offer.gpu, dollars) for offer, dollars in ranked] == [("B200", 33.6), ("H100", 48.0)]


def test_spot_and_on_demand_are_never_mixed_up(desk: Desk) -> None:
    here = {"region": "here", "available": True, "rental_type": "on_demand"}
    gone = {"region": "gone", "available": False, "rental_type": "on_demand"}
    desk.server.types = [instance_type(places=[gone, here, spot("cheap", "9.60"), spot("none", "1.00", False)])]
    offers = desk.provider.offers()
    assert [offer.region for offer, _ in rank(offers, Wanted(), hours)] == ["here"]
    assert [offer.region for offer, _ in rank(offers, Wanted(spot=True), hours)] == ["cheap"]
    assert not desk.launch(offer=rank(offers, Wanted(), hours)[0][0]).offer.spot
    assert desk.server.bodies()[0]["rental_type"] == "on_demand"


def test_wishes_narrow_the_offers(desk: Desk) -> None:
    desk.server.types = [
        instance_type("H100", 8),
        instance_type("H100", 4, 1_200, cloud="other", type="special"),
        instance_type("B200", 8, 3_360),
    ]
    offers = desk.provider.offers()

    def found(wanted: Wanted) -> list[str]:
        return sorted(f"{offer.count}x{offer.gpu}" for offer in offers if wanted.takes(offer))

    assert found(Wanted()) == ["8xB200", "8xH100"]
    assert found(Wanted(count=None)) == ["4xH100", "8xB200", "8xH100"]
    assert found(Wanted("b200")) == ["8xB200"]
    assert found(Wanted(count=None, cloud="other")) == ["4xH100"]
    assert found(Wanted(type="special")) == ["4xH100"]


# -- launching ---------------------------------------------------------------------------------------------


def test_a_launch_is_recorded_before_it_is_asked_for(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    create = Server._create
    monkeypatch.setattr(Server, "_create", lambda *given: (seen.append(desk.saved().node.state), create(*given))[1])
    node = desk.launch()
    assert seen == ["requested"] and desk.saved().node == node and node.id
    assert TOKEN not in records.path_of(desk.folder, "x").read_text()


def test_every_machine_has_caps_a_unique_name_and_tags(desk: Desk) -> None:
    one, two = desk.launch("x", 50.0), desk.launch("y")
    body = desk.server.bodies()[0]
    assert one.name != two.name and one.name.startswith("lanbot-x-") and body["name"] == one.name
    assert set(body["tags"]) == {"lanbot", "run:x"}
    ends = datetime.fromisoformat(body["auto_delete"]["date_threshold"])
    assert body["auto_delete"]["spend_threshold"] == "50.00"
    assert 0 < (ends - desk.server.now()).total_seconds() <= (50 / 24 + 0.5) * 3_600
    assert [made.envs for made in desk.server.alive] == [{"HF_TOKEN": TOKEN}] * 2  # and not the account's key


def test_without_a_budget_nothing_is_rented(desk: Desk) -> None:
    with pytest.raises(UserError, match="cap"):
        desk.launch(budget=0)
    assert not desk.server.bodies()


@pytest.mark.parametrize("fault", ["lost", "late"])
def test_a_lost_answer_is_settled_by_the_list(desk: Desk, fault: str) -> None:
    desk.server.fail("POST create", fault)
    node = desk.launch()
    assert [made.id for made in desk.server.alive] == [node.id] and len(desk.server.bodies()) == 1


@pytest.mark.parametrize("fault", ["500", "drop"])
def test_a_failed_request_is_repeated_only_after_listing(desk: Desk, fault: str) -> None:
    desk.server.fail("POST create", fault)
    node = desk.launch()
    routes = [route for route, _ in desk.server.requests]
    first = routes.index("POST create")
    assert "GET list" in routes[first + 1 : routes.index("POST create", first + 1)]
    assert [made.id for made in desk.server.alive] == [node.id]


def test_a_request_is_not_repeated_if_the_list_cannot_be_read(desk: Desk) -> None:
    cloud, record, offer = desk.cloud(), desk.record(), desk.provider.offers()[0]
    desk.server.fail("GET list", "")  # that of the check before it
    desk.server.fail("POST create", "lost")
    desk.server.fail("GET list", *["500"] * 6)
    with pytest.raises(UserError, match="500"):
        cloud.launch(record, offer)
    assert len(desk.server.bodies()) == 1 and desk.saved().live
    assert desk.cloud().down("x").spent == 0 and not desk.server.alive


def test_too_many_requests_wait_and_too_little_money_does_not(desk: Desk) -> None:
    desk.server.fail("POST create", "429")
    desk.launch()
    desk.server.fail("POST create", "funds")
    with pytest.raises(UserError, match="INSUFFICIENT_FUNDS"):
        desk.launch("poor")
    assert len(desk.server.bodies()) == 3 and not desk.saved("poor").live


@pytest.mark.parametrize("when", ["before", "after"])
def test_ctrl_c_during_a_launch_leaves_a_record_that_down_ends(
    desk: Desk, when: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud, record, offer = desk.cloud(), desk.record(), desk.provider.offers()[0]

    def interrupted(asked: object) -> str:
        if when == "after":
            desk.provider.create(asked)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(cloud.provider, "create", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cloud.launch(record, offer)
    assert "lanbot cloud down x" in capsys.readouterr().err
    assert len(desk.server.alive) == (when == "after")
    assert not desk.cloud().down("x").live and not desk.server.alive


def test_a_run_is_launched_once_at_a_time(desk: Desk) -> None:
    results: list[str] = []

    def attempt() -> None:
        try:
            results.append(desk.launch().name)
        except UserError as error:
            results.append(error.problem)

    threads = [threading.Thread(target=attempt) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(desk.server.alive) == 1 and sum("launched already" in result for result in results) == 1


def test_a_machine_of_the_run_from_elsewhere_stops_a_launch(desk: Desk) -> None:
    desk.launch()
    records.path_of(desk.folder, "x").unlink()
    with pytest.raises(UserError, match="there already"):
        desk.launch()
    assert len(desk.server.alive) == 1


def test_a_run_can_be_launched_again_once_its_machine_is_gone(desk: Desk) -> None:
    desk.launch()
    desk.server.advance(3_600 + 120)
    desk.cloud().down("x")
    desk.launch()
    assert desk.saved().before == pytest.approx(24, abs=0.2) and desk.saved().spent == 0


# -- the end -----------------------------------------------------------------------------------------------


def test_down_waits_until_the_machine_is_gone_and_says_what_it_cost(desk: Desk) -> None:
    desk.launch()
    desk.server.advance(2 * 3_600 + 120)
    record = desk.cloud().down("x")
    assert not desk.provider.list() and not record.live
    assert record.spent == pytest.approx(desk.server.spent, abs=0.005) and record.spent == pytest.approx(48, abs=0.01)


def test_down_asks_again_while_the_cloud_refuses(desk: Desk) -> None:
    desk.server.refuses_early_delete = True
    desk.launch()
    desk.cloud().down("x")
    (made,) = desk.server.instances.values()
    assert made.refused_deletes > 1 and not desk.server.alive


def test_down_deletes_both_machines_of_one_name(desk: Desk) -> None:
    desk.launch()
    (body,) = desk.server.bodies()
    desk.server.add(body)
    assert len(desk.server.alive) == 2
    desk.cloud().down("x")
    assert not desk.server.alive


def test_down_does_not_take_a_failed_listing_for_an_empty_one(desk: Desk) -> None:
    desk.launch()
    desk.server.fail("GET list", *["500"] * 6)
    with pytest.raises(UserError, match="500"):
        desk.cloud().down("x")
    assert desk.saved().live
    desk.cloud().down("x")
    assert not desk.server.alive


def test_down_gives_up_with_an_error_if_the_machine_stays(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.server.refuses_early_delete, desk.server.boot = True, 1e6
    desk.launch()
    with pytest.raises(UserError, match=r"still there after .* once it is active"):
        desk.cloud().down("x")


def test_orphans_are_what_no_record_holds(desk: Desk) -> None:
    desk.launch()
    assert desk.cloud().orphans() == []
    body = desk.server.bodies()[0]
    desk.server.add(body | {"name": machine_name("lost", "0a0b0c"), "tags": []})
    desk.server.add(body | {"name": "renamed-by-hand"})
    desk.server.add(body | {"name": "of-somebody-else", "tags": ["other"]})
    assert [orphan.name for orphan in desk.cloud().orphans()] == ["lanbot-lost-0a0b0c", "renamed-by-hand"]


def test_a_machine_that_a_record_thinks_is_gone_is_an_orphan(desk: Desk) -> None:
    node = desk.launch()
    with records.updating(desk.folder, "x") as record:
        record.node.close("gone from the list")
    (orphan,) = desk.cloud().orphans()
    assert orphan.id == node.id
    launch.delete_orphan(desk.provider, orphan.id)
    assert not desk.server.alive and desk.cloud().orphans() == []


def test_orphans_fail_if_the_list_does(desk: Desk) -> None:
    desk.server.fail("GET list", *["429"] * 6)
    with pytest.raises(UserError, match="429"):
        desk.cloud().orphans()


# -- watching ----------------------------------------------------------------------------------------------


def watch(desk: Desk, events: dict[int, Callable[[], None]], recover: bool = True) -> records.Record:
    """Watches with events at the looks of these numbers; the last one should end it."""
    looks = iter(range(10_000))

    def show(record: records.Record) -> None:
        events.get(next(looks), lambda: None)()

    return desk.cloud().watch("x", recover, show)


def finish(desk: Desk, outcome: str = "done") -> Callable[[], None]:
    return lambda: setattr(desk, "outcome", outcome)


def the_one(desk: Desk) -> Made:
    (made,) = desk.server.alive
    return made


def test_a_finished_run_is_deleted_at_once(desk: Desk) -> None:
    desk.launch()
    record = watch(desk, {20: finish(desk)})
    assert not desk.server.alive and record.spent == pytest.approx(desk.server.spent, abs=0.005)
    assert record.spent < 1


def test_a_failed_run_is_deleted_and_not_started_again(desk: Desk) -> None:
    desk.launch()
    with pytest.raises(FinalError, match="the run failed: why"):
        watch(desk, {20: finish(desk, "failed: why")})
    assert not desk.server.alive and len(desk.server.bodies()) == 1


@pytest.mark.parametrize("loss", ["reclaim", "vanish", "break", "by hand"])
def test_a_lost_machine_is_replaced_within_one_budget(desk: Desk, loss: str) -> None:
    desk.launch(budget=100.0)

    server = desk.server
    ways = {"reclaim": server.reclaim, "vanish": server.vanish, "break": server.break_down, "by hand": server.end}

    def lose() -> None:
        ways[loss](the_one(desk))

    events = {3: lambda: desk.server.advance(3_600), 5: lose, 60: finish(desk)}
    record = watch(desk, events)
    assert not desk.server.alive and len(record.nodes) == 2 and not record.live
    first, second = desk.server.bodies()
    caps = [float(body["auto_delete"]["spend_threshold"]) for body in (first, second)]
    assert caps[0] == 100.0 and caps[1] == pytest.approx(100.0 - record.nodes[0].spent, abs=0.011)
    assert record.nodes[0].spent > 22 and record.spent < 100
    if loss != "vanish":
        assert record.spent == pytest.approx(desk.server.spent, abs=0.005)


def test_without_recover_a_lost_machine_ends_the_watch_and_recover_goes_on_later(desk: Desk) -> None:
    desk.launch()
    with pytest.raises(FinalError, match=r"lost.*preempted"):
        watch(desk, {20: lambda: desk.server.reclaim(the_one(desk))}, recover=False)
    assert not desk.server.alive
    assert len(watch(desk, {20: finish(desk)}).nodes) == 2


def test_the_cap_ends_the_machine_and_nothing_is_left_for_another(desk: Desk) -> None:
    desk.launch(budget=30.0)
    with pytest.raises(FinalError, match="too little is left"):
        watch(desk, {4: lambda: desk.server.advance(5 * 3_600)})
    assert desk.server.spent <= 30.005 and len(desk.server.bodies()) == 1 and not desk.server.alive


def test_machines_that_are_lost_again_and_again_never_exceed_the_budget(desk: Desk) -> None:
    desk.launch(budget=40.0)
    events = {look: lambda: [desk.server.advance(1_500), *map(desk.server.reclaim, desk.server.alive)] for look in
              range(30, 3_000, 30)}  # fmt: skip
    with pytest.raises(FinalError, match="too little is left"):
        watch(desk, events)
    assert desk.server.spent <= 40.005 and len(desk.server.bodies()) > 2 and not desk.server.alive


def test_down_elsewhere_ends_a_watch_that_would_recover(desk: Desk) -> None:
    desk.launch()
    record = watch(desk, {20: lambda: desk.cloud().down("x")})
    assert record.closing and not desk.server.alive and len(desk.server.bodies()) == 1


def test_a_watch_outlives_failing_lists_and_missing_offers(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.launch()
    types = desk.server.types

    def lose() -> None:
        desk.server.types = []
        desk.server.reclaim(the_one(desk))

    def restock() -> None:
        desk.server.types = types

    events = {5: lambda: desk.server.fail("GET list", *["503"] * 13), 20: lose, 40: restock, 80: finish(desk)}
    assert len(watch(desk, events).nodes) == 2
    said = capsys.readouterr().err
    assert "looking again" in said and "no offer" in said


def test_out_of_money_ends_the_watch(desk: Desk) -> None:
    desk.launch()

    def lose() -> None:
        desk.server.fail("POST create", "funds")
        desk.server.reclaim(the_one(desk))

    with pytest.raises(UserError, match="INSUFFICIENT_FUNDS"):
        watch(desk, {20: lose})
    assert not desk.server.alive


def test_a_spot_machine_is_replaced_by_a_spot_machine(desk: Desk) -> None:
    desk.server.types = [instance_type(places=[spot("here", "9.60")]), instance_type("H100", 8, 100, cloud="cheap")]
    offer = next(offer for offer in desk.provider.offers() if offer.spot)
    desk.launch(offer=offer)
    watch(desk, {20: lambda: desk.server.reclaim(the_one(desk)), 60: finish(desk)})
    assert [body["rental_type"] for body in desk.server.bodies()] == ["spot", "spot"]


def test_a_double_is_deleted_by_the_watch(desk: Desk) -> None:
    desk.launch()
    body = desk.server.bodies()[0]
    watch(desk, {5: lambda: desk.server.add(body), 40: finish(desk)})
    assert len(desk.server.instances) == 2 and not desk.server.alive


def test_the_stand_in_tells_when_a_script_would_run(desk: Desk) -> None:
    events: list[tuple[str, str]] = []
    desk.server.on_active = lambda made: events.append(("active", made.script.split()[0]))
    desk.server.on_gone = lambda made: events.append(("gone", made.envs["HF_TOKEN"]))
    desk.launch()
    assert not events
    desk.server.advance(200)
    desk.cloud().down("x")
    assert events == [("active", "#!/bin/bash"), ("gone", TOKEN)]
