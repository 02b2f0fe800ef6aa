"""Launches at the stand-in for Shadeform, as calls and as typed."""

import json
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from shadeform_server import Server

from lanbot.cli import main
from lanbot.cloud import records, storage
from lanbot.cloud.launch import Cloud, Said
from lanbot.cloud.offers import Wanted, same_kind
from lanbot.cloud.providers.base import Offer
from lanbot.cloud.providers.shadeform import Shadeform
from lanbot.cloud.records import Node, Record
from lanbot.cloud.secrets import Secrets

TOKEN = "hf_a_secret_token"
STORE = ("--store", "hf:me/bot")
CLEAR, LISTED = storage.clear, storage.listed
"""The real ones, which the fixture `place` replaces."""


@dataclass
class Client:
    """The machine that launches: its records, and its account at the stand-in."""

    server: Server
    folder: Path
    outcome: str = ""
    """What the node said last: done, or why it failed."""
    reports: bool = True
    """Whether the node of an active machine writes its status."""
    reported: str = ""

    @property
    def provider(self) -> Shadeform:
        return Shadeform(self.server.key, self.server.url)

    def cloud(self) -> Cloud:
        secrets = Secrets({"SHADEFORM_API_KEY": self.server.key, "HF_TOKEN": TOKEN})
        script = lambda job: f"#!/bin/bash\n: {json.dumps(job)}\n"  # noqa: E731
        return Cloud(self.folder, self.provider, secrets, script, self.said, lambda record: None)

    def said(self, record: Record) -> Said:
        if self.outcome == "done":
            return {"done.json": {}}
        if self.outcome:
            return {"failed.json": {"reason": self.outcome}}
        if self.reports and record.node.state == "active":
            self.reported = self.server.now().isoformat()
        return {"status.json": {"time": self.reported}} if self.reported else {}

    def record(self, run: str = "x", budget: float = 150.0, offer: Offer | None = None) -> Record:
        job = {"run": run, "recipe": "", "phases": "sft", "store": "hf:me/bot"}
        wanted = same_kind(Wanted(spot=bool(offer and offer.spot)), offer or self.provider.offers()[0])
        return Record(run, "shadeform", "sft", job, budget, wanted)

    def launch(self, run: str = "x", budget: float = 150.0, offer: Offer | None = None) -> Node:
        offer = offer or self.provider.offers()[0]
        return self.cloud().launch(self.record(run, budget, offer), offer)

    def saved(self, run: str = "x") -> Record:
        record = records.load(self.folder, run)
        assert record
        return record


def stubs() -> dict[str, Any]:
    """Stand-ins for the plan and the start-up script: one hour on eight H100s, half of it on B200s."""

    class GPUs:
        def __init__(self, text: str) -> None:
            count, _, self.kind = text.partition("x")
            self.hours = 8 / int(count) / (2 if self.kind == "B200" else 1)

        parse = classmethod(lambda cls, text: cls(text))

    class Plan:
        phases = ()

        def __init__(self, recipe: Any, options: Any, phases: str, gpus: GPUs, price: float) -> None:
            self.dollars = gpus.hours * price * len(phases.split("+"))

        def json(self) -> dict[str, Any]:
            return {"dollars": {"expected": self.dollars}}

        def table(self) -> str:
            return f"the plan: ${self.dollars:.2f}"

    class Job:
        def __init__(self, **values: Any) -> None:
            self.values = values

    gpus, plan, script = (types.ModuleType(name) for name in ("gpus", "plan", "script"))
    gpus.GPUs, plan.plan, plan.cost, script.Job = GPUs, Plan, lambda plan: plan.dollars, Job  # type: ignore
    script.startup = lambda job: f"#!/bin/bash\n: {json.dumps(job.values)}\n"  # type: ignore
    return {"gpus": gpus, "plan": plan, "script": script}


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    """What it prints, stdout and stderr."""
    with pytest.raises(SystemExit) as stopped:
        main(["cloud", *arguments])
    captured = capsys.readouterr()
    assert stopped.value.code == code, captured
    return captured.out + captured.err
