"""A launch at the stand-in for Shadeform, whose machines really run: reclaimed midway, replaced, paid to the cent."""

import json
import time
from pathlib import Path

import pytest
from machines import Machine
from shadeform_server import Made, Server, instance_type
from test_end_to_end import RECIPE, done, tree

from lanbot.cloud import launch, records, watch
from lanbot.cloud.launch import Cloud, Said
from lanbot.cloud.offers import Wanted, same_kind
from lanbot.cloud.providers import shadeform
from lanbot.cloud.providers.shadeform import Shadeform
from lanbot.cloud.records import Record
from lanbot.cloud.secrets import Secrets
from lanbot.cloud.watch import Watch


def test_a_reclaimed_machine_is_replaced_within_the_budget(
    existing_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tree(existing_checkpoint, tmp_path / "store")
    machines: dict[str, Machine] = {}

    def begin(made: Made) -> None:
        machines[made.id] = Machine(tmp_path / "machines" / made.id, made.script, made.envs)

    def end(made: Made) -> None:
        if made.id in machines and machines[made.id].root.exists():
            machines[made.id].vanish()

    with Server(types=[instance_type(count=1, cents=300)], on_active=begin, on_gone=end) as server:

        def wait(seconds: float) -> None:
            time.sleep(0.1)
            server.advance(seconds)

        for module in (launch, watch, shadeform):
            monkeypatch.setattr(module, "sleep", wait)
        monkeypatch.setattr(records, "now", server.now)
        reclaimed: list[str] = []

        def show(record: Record, said: Said) -> None:
            if not reclaimed and list((store / "runs/bot/sft").glob("step_*/manifest.json")):
                reclaimed.append(server.alive[0].id)
                server.reclaim(server.alive[0])

        provider = Shadeform(server.key, server.url)
        cloud = Cloud(tmp_path / ".cloud", provider, Secrets({"SHADEFORM_API_KEY": server.key}))
        offer = provider.offers()[0]
        job = {"run": "bot", "recipe": RECIPE, "phases": "sft", "store": f"file:{store}", "source": "#mid"}
        record = Record("bot", "shadeform", "sft", job | {"push_seconds": 0.2}, 150.0, same_kind(Wanted(), offer))
        cloud.launch(record, offer)
        ended = Watch(cloud, "bot", True, show).wait()

        assert len(reclaimed) == 1 and len(machines) == 2 and not server.alive
        assert ended.spent == pytest.approx(server.spent, abs=0.01) and ended.spent < 150.0
        assert all(body["auto_delete"]["spend_threshold"] for body in server.bodies())
        assert server.key not in json.dumps(server.bodies())
    said, _ = done(store)
    assert said["phase"] == "sft"
