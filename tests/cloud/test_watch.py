"""Watches against the stand-in: a run ends, its machine is lost, the cap is reached, a look fails."""

import os
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from renting import TOKEN, Client
from shadeform_server import Made, instance_type, spot

from lanbot.cloud import storage
from lanbot.cloud.launch import FinalError, Said
from lanbot.cloud.records import Record
from lanbot.cloud.watch import Watch
from lanbot.core.errors import UserError


def watch(client: Client, events: dict[int, Callable[[], None]], recover: bool = True) -> Record:
    """Watches with events at the looks of these numbers; the last one should end it."""
    looks = iter(range(10_000))

    def show(record: Record, said: Said) -> None:
        events.get(next(looks), lambda: None)()

    return Watch(client.cloud(), "x", recover, show).wait()


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
        watch(client, {20: finish(client, "why")})
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
    if loss != "vanish":  # each bill is in whole cents
        assert record.spent == pytest.approx(client.server.spent, abs=0.01)


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
    assert "looking again" in said and said.count("no offer") == 1


def test_a_watch_outlives_hours_without_a_list_and_says_what_to_do(
    client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    client.launch()
    before = client.server.now()

    def fail() -> None:
        client.server.fail("GET list", *["503"] * 300)  # six for each look

    assert not watch(client, {5: fail, 20: finish(client)}).live and not client.server.alive
    assert client.server.now() - before > timedelta(hours=3)
    said = capsys.readouterr().err
    cap = f"{datetime.fromisoformat(client.saved().node.ends):%Y-%m-%d %H:%M} UTC"
    assert "lanbot cloud down x" in said and cap in said and said.count("looking again") == 50


def test_a_watch_gives_up_once_the_cap_must_have_ended_the_machine(client: Client) -> None:
    client.launch()
    cap = datetime.fromisoformat(client.saved().node.ends)
    with pytest.raises(FinalError, match=r"503.*time ended at") as raised:
        watch(client, {5: lambda: client.server.fail("GET list", *["503"] * 1_200)})
    assert client.server.now() > cap and not client.server.alive
    assert "lanbot cloud down x" in raised.value.remedy


def test_a_wrong_key_is_told_at_once(client: Client) -> None:
    client.launch()
    client.server.key = "another"
    cloud = client.cloud()
    cloud.provider.key = "wrong"  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="401"):
        Watch(cloud, "x").wait()
    assert client.server.now() == client.server.start


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


@pytest.mark.parametrize("late", [600, 1_500])
def test_a_second_machine_of_one_request_is_deleted_whenever_it_is_listed_and_paid(client: Client, late: int) -> None:
    client.server.fail("POST create", f"late {late}")
    node = client.launch()
    assert len(client.server.alive) == 2
    events: dict[int, Callable[[], None]] = {150: finish(client)}
    if late > 1_000:  # it is listed when the first machine has been replaced
        events[20] = lambda: client.server.reclaim(client.server.instances[node.id])
    record = watch(client, events)
    twin = client.server.instances["id-1"]
    assert not client.server.alive and (twin.ended or 0) - twin.created < late + 30
    assert {other.id for other in record.nodes} == set(client.server.instances)
    assert record.spent == pytest.approx(client.server.spent, abs=0.02)


# -- a machine that says nothing ---------------------------------------------------------------------------


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Machines that let nobody in; a test may put another script there."""
    stub = tmp_path / "bin" / "ssh"
    stub.parent.mkdir()
    stub.write_text("#!/bin/sh\necho 'Permission denied (publickey).' >&2\nexit 255\n")
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stub.parent}:{os.environ['PATH']}")
    return stub


def test_a_machine_that_never_reports_is_deleted_and_its_log_is_kept(client: Client, ssh: Path) -> None:
    ssh.write_text(f"#!/bin/sh\necho 'ERROR: Could not find a version that satisfies lanbot; {TOKEN}'\n")
    client.reports = False
    node = client.launch()
    with pytest.raises(FinalError, match="active for 45 minutes and no status") as raised:
        watch(client, {})
    log = client.folder / f"{node.name}.log"
    assert str(log) in raised.value.remedy
    assert "Could not find a version" in log.read_text() and TOKEN not in log.read_text()
    assert not client.server.alive and len(client.server.bodies()) == 1
    assert 18 <= client.saved().spent < 19


@pytest.mark.usefixtures("ssh")
def test_a_machine_that_never_reports_and_lets_nobody_in_is_deleted(client: Client) -> None:
    client.reports = False
    client.launch()
    with pytest.raises(FinalError, match="--package"):
        watch(client, {})
    assert not client.server.alive


@pytest.mark.usefixtures("ssh")
def test_what_a_lost_machine_wrote_does_not_count_for_its_replacement(client: Client) -> None:
    client.launch()

    def lose() -> None:
        client.reports = False
        client.server.reclaim(the_one(client))

    with pytest.raises(FinalError, match="no status"):
        watch(client, {20: lose})
    assert len(client.saved().nodes) == 2 and not client.server.alive


def test_a_store_that_cannot_be_seen_from_here_does_not_end_the_machine(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store, hidden = tmp_path / "store", tmp_path / "hidden"
    cloud, record = client.cloud(), client.record()
    cloud.said, cloud.clear, record.job["store"] = storage.said, storage.clear, str(store)
    cloud.launch(record, client.provider.offers()[0])
    store.rename(hidden)  # as the hub hides a private repository from a token without access

    def wait(seconds: float) -> None:
        client.server.advance(seconds)
        if client.server.seconds > 2 * 3_600 and hidden.exists():
            hidden.rename(store)
            (store / "runs/x/node/done.json").write_text("{}")

    monkeypatch.setattr("lanbot.cloud.watch.sleep", wait)
    assert Watch(cloud, "x").wait().spent > 40 and not client.server.alive
    said = capsys.readouterr().err
    assert "cannot be read from here" in said and "lanbot cloud down x" in said


def test_a_store_that_cannot_be_written_is_told_before_renting(client: Client, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("not a folder")
    cloud, record = client.cloud(), client.record()
    cloud.clear, record.job["store"] = storage.clear, str(tmp_path / "store")
    with pytest.raises(UserError, match="cannot be used"):
        cloud.launch(record, client.provider.offers()[0])
    assert not client.server.bodies()


def test_a_failure_is_told_even_if_the_machine_is_not_deleted_at_once(client: Client) -> None:
    client.launch()

    def fail() -> None:
        client.outcome = "why"
        client.server.fail("GET list", "", *["503"] * 6)

    with pytest.raises(FinalError, match="the run failed: why"):
        watch(client, {20: fail})
    assert not client.server.alive


def test_a_machine_that_falls_silent_is_told_once_and_kept(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    client.launch()

    def fall_silent() -> None:
        client.reports = False
        client.server.advance(31 * 60)

    watch(client, {20: fall_silent, 60: finish(client)})
    said = capsys.readouterr().err
    assert said.count("may be stuck") == 1 and "lanbot cloud logs x" in said
    assert len(client.server.bodies()) == 1


def test_the_stand_in_tells_when_a_script_would_run(client: Client) -> None:
    events: list[tuple[str, str]] = []
    client.server.on_active = lambda made: events.append(("active", made.script.split()[0]))
    client.server.on_gone = lambda made: events.append(("gone", made.envs["HF_TOKEN"]))
    client.launch()
    assert not events
    client.server.advance(200)
    client.cloud().down("x")
    assert events == [("active", "#!/bin/bash"), ("gone", TOKEN)]
