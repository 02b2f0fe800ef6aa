"""The client of Shadeform's API against the stand-in."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from shadeform_server import CREATE, Server, instance_type, schema_problem, spot

from lanbot.cloud.providers import shadeform
from lanbot.cloud.providers.base import Busy, Launch, NoFundsError, Offer, RefusedError, Unsettled
from lanbot.cloud.providers.shadeform import Shadeform
from lanbot.core.errors import UserError

READS = ("GET types", "GET list", "GET info")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture
def client(server: Server, monkeypatch: pytest.MonkeyPatch) -> Shadeform:
    monkeypatch.setattr(shadeform, "sleep", lambda seconds: None)
    return Shadeform(server.key, server.url)


def launch(offer: Offer, **changes: Any) -> Launch:
    script = "#!/bin/bash\n" + "echo 'a long line with \"quotes\" and ünïcode'\n" * 50
    envs = {"HF_TOKEN": 'hf_"secret"\\'}
    cap = datetime.now(UTC) + timedelta(hours=8)
    given: dict[str, Any] = {"name": "lanbot-x-0a0b0c", "offer": offer, "script": script, "envs": envs}
    return Launch(**given | {"spend_cap": 150.0, "date_cap": cap, "tags": ("lanbot", "run:x")} | changes)


def test_offers_read_the_gpus_from_the_configuration_and_every_price_as_dollars(
    server: Server, client: Shadeform
) -> None:
    here = {"region": "here", "available": True, "rental_type": "on_demand"}
    server.types = [
        instance_type("H100_sxm5", places=[here, spot("here", "9.60")]),
        instance_type("B200", places=[spot("there", "15.25")]),
        {"cloud": "odd", "gpu_type": "H100", "hourly_price": 1},
    ]
    one, two, three = client.offers()
    assert (one.gpu, one.count, one.dollars_per_hour, one.spot) == ("H100", 8, 24.0, False)
    assert (two.dollars_per_hour, two.spot, two.region) == (9.6, True, "here")
    assert (three.gpu, three.spot, three.dollars_per_hour) == ("B200", True, 15.25)


def test_a_pcie_card_is_told_from_the_faster_one(server: Server, client: Shadeform) -> None:
    item = instance_type()
    item["configuration"]["interconnect"] = "pcie"
    server.types = [item]
    assert client.offers()[0].gpu == "H100-PCIE"


def test_an_instance_is_made_listed_and_deleted(server: Server, client: Shadeform) -> None:
    id = client.create(launch(client.offers()[0]))
    assert client.list()[0].status == "pending"
    server.advance(200)
    made = client.info(id)
    assert made and (made.status, made.ip, made.name, made.ours) == ("active", "203.0.113.7", "lanbot-x-0a0b0c", True)
    server.advance(3_600 - 80)
    made = client.info(id)
    assert made and made.spent == pytest.approx(24.0, abs=0.005) and made.dollars_per_hour == 24.0
    client.delete(id)
    server.advance(60)
    assert client.list() == []


def test_the_body_follows_the_published_schema_and_keeps_script_and_secrets_whole(
    server: Server, client: Shadeform
) -> None:
    asked = launch(client.offers()[0])
    client.create(asked)
    (body,) = server.bodies()
    (made,) = server.alive
    assert schema_problem(body, CREATE) is None and body["shade_cloud"] is True
    assert made.script == asked.script and made.envs == asked.envs
    assert body["auto_delete"]["spend_threshold"] == "150.00"
    assert datetime.fromisoformat(body["auto_delete"]["date_threshold"]).tzinfo


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"name": None}, "name"),
        ({"gpu": "H100"}, "unknown"),
        ({"auto_delete": {"spend_limit_in_cents": 100}}, "unknown"),
        ({"auto_delete": {"spend_threshold": 3.14}}, "no string"),
        ({"launch_configuration": {"type": "script", "script_configuration": {"base64_script": "YQ==\nYQ=="}}}, "YQ"),
        ({"rental_type": "preemptible"}, "rental_type"),
    ],
)
def test_the_stand_in_refuses_a_wrong_body(client: Shadeform, change: dict[str, Any], problem: str) -> None:
    body = client.body(launch(client.offers()[0])) | change
    assert problem in str(schema_problem(body, CREATE))


@pytest.mark.parametrize(("cap", "date"), [(0.0, True), (-1.0, True), (float("nan"), True), (5.0, False)])
def test_there_is_no_launch_without_both_caps(client: Shadeform, cap: float, date: bool) -> None:
    when = datetime.now(UTC) if date else datetime.now()
    with pytest.raises(UserError, match=r"cap|date"):
        launch(client.offers()[0], spend_cap=cap, date_cap=when)


def test_the_preview_needs_no_key_and_shows_no_secret() -> None:
    offer = Offer("shadeform", "hyperstack", "canada-1", "H100x8", "H100", 8, 24.0)
    text = Shadeform("").preview(launch(offer, envs={"HF_TOKEN": "hf_verysecret"}))
    assert "hf_verysecret" not in text and '"value": "***"' in text
    assert json.loads(text.partition("\n")[2])["auto_delete"]["spend_threshold"] == "150.00"


@pytest.mark.parametrize("fault", ["429", "500", "503", "drop", "garbage"])
@pytest.mark.parametrize("route", READS)
def test_reads_are_tried_again(server: Server, client: Shadeform, route: str, fault: str) -> None:
    id = client.create(launch(client.offers()[0]))
    server.fail(route, fault, fault)
    found = {"GET types": client.offers, "GET list": client.list, "GET info": lambda: client.info(id)}[route]()
    assert found


def test_a_listing_that_fails_is_an_error_and_never_an_empty_list(server: Server, client: Shadeform) -> None:
    server.fail("GET list", *["503"] * shadeform.TRIES)
    with pytest.raises(UserError, match="503"):
        client.list()
    server.fail("GET list", "404")
    with pytest.raises(UserError, match="404"):
        client.list()


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        *(("500", Unsettled), ("503", Unsettled), ("drop", Unsettled), ("lost", Unsettled), ("garbage", Unsettled)),
        *(("429", Busy), ("funds", NoFundsError), ("422", RefusedError)),
    ],
)
def test_a_create_request_is_sent_once_and_its_failure_is_told(
    server: Server, client: Shadeform, fault: str, error: type[Exception]
) -> None:
    offer = client.offers()[0]
    server.fail("POST create", fault)
    with pytest.raises(error):
        client.create(launch(offer))
    assert len(server.bodies()) == 1


def test_without_a_server_nothing_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadeform, "sleep", lambda seconds: None)
    client = Shadeform("key", "http://127.0.0.1:9/v1")
    with pytest.raises(Busy):
        client.create(launch(Offer("shadeform", "c", "r", "t", "H100", 8, 24.0)))
    with pytest.raises(UserError, match="no answer"):
        client.list()


def test_a_wrong_key_is_named_but_not_shown(server: Server) -> None:
    with pytest.raises(UserError) as raised:
        Shadeform("wrong-key-9", server.url).list()
    assert "401" in raised.value.problem and "SHADEFORM_API_KEY" in raised.value.remedy
    assert "wrong-key-9" not in str(raised.value)


def test_a_deletion_that_is_refused_is_told(server: Server, client: Shadeform) -> None:
    server.refuses_early_delete = True
    id = client.create(launch(client.offers()[0]))
    with pytest.raises(Busy, match="once it is active"):
        client.delete(id)
    server.advance(200)
    client.delete(id)
    assert not server.alive
    client.delete("no-such-id")  # gone is gone


def test_a_reclaimed_spot_instance_is_told_from_a_deleted_one(server: Server, client: Shadeform) -> None:
    server.types = [instance_type(places=[spot("here", "9.60")])]
    id = client.create(launch(client.offers()[0]))
    assert server.bodies()[0]["rental_type"] == "spot"
    server.advance(3_600 + 120)
    server.reclaim(server.instances[id])
    found = client.info(id)
    assert found and found.preempted and found.status == "deleting" and found.spent == pytest.approx(9.6, abs=0.005)


def test_the_stand_in_deletes_at_either_cap(server: Server, client: Shadeform) -> None:
    offer, soon = client.offers()[0], server.now() + timedelta(hours=1)
    client.create(launch(offer, spend_cap=12.0))
    client.create(launch(offer, name="lanbot-x-111111", date_cap=soon))
    server.advance(10 * 3_600)
    one, two = server.instances.values()
    assert one.dollars(server.seconds) == pytest.approx(12.0)
    assert two.dollars(server.seconds) == pytest.approx(24.0 * (3_600 - 120) / 3_600, abs=0.01)
