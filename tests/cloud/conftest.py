"""A stand-in for Shadeform whose clock moves whenever LanBot waits, and launches that use it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from shadeform_server import Server

from lanbot.cloud import launch, records, watch
from lanbot.cloud.launch import Cloud, Said
from lanbot.cloud.offers import Wanted, same_kind
from lanbot.cloud.providers import shadeform
from lanbot.cloud.providers.base import Offer
from lanbot.cloud.providers.shadeform import Shadeform
from lanbot.cloud.records import Node, Record
from lanbot.cloud.secrets import Secrets

TOKEN = "hf_a_secret_token"


@pytest.fixture(autouse=True)
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Named, because a machine could not install this checkout."""
    monkeypatch.setenv("LANBOT_PACKAGE", "lanbot")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server() as server:
        for module in (launch, watch, shadeform):
            monkeypatch.setattr(module, "sleep", server.advance)
        monkeypatch.setattr(records, "now", server.now)
        yield server


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
        job = {"run": run, "recipe": "", "phases": "sft", "store": "/store"}
        wanted = same_kind(Wanted(spot=bool(offer and offer.spot)), offer or self.provider.offers()[0])
        return Record(run, "shadeform", "sft", job, budget, wanted)

    def launch(self, run: str = "x", budget: float = 150.0, offer: Offer | None = None) -> Node:
        offer = offer or self.provider.offers()[0]
        return self.cloud().launch(self.record(run, budget, offer), offer)

    def saved(self, run: str = "x") -> Record:
        record = records.load(self.folder, run)
        assert record
        return record


@pytest.fixture
def client(server: Server, tmp_path: Path) -> Client:
    return Client(server, tmp_path / "runs" / ".cloud")
