"""lanbot identity: preview, generate offline, validate and stats; for endpoints see test_identity_endpoint.py."""

import json
import re
from pathlib import Path

import pytest

from lanbot.cli import identity as commands
from lanbot.core.errors import UsageError, UserError


def test_generate_stats_validate_and_preview(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "who.jsonl"
    commands.generate("demo", out=out, count=40)
    rows = [json.loads(line) for line in out.read_text().split("\n") if line]
    assert len(rows) == 40 and rows[0]["messages"]
    assert [path.name for path in tmp_path.iterdir()] == ["who.jsonl"]
    commands.stats(out)
    commands.validate(out, recipe="demo")
    commands.preview("demo", count=2)
    said = capsys.readouterr().out
    assert re.search(r"conversations +40\n", said) and "40 rows, all fit" in said
    assert re.search(r"^  LanBot: ", said, re.M) and "different 4-grams" in said


def test_a_language_without_greetings_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('[identity]\ngreetings = ["english", "French", "Klingon"]\n')
    commands.preview(str(recipe), count=1)
    assert capsys.readouterr().out.startswith("No greetings are known in Klingon: ")


def test_validate_lists_what_is_bad(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bad.jsonl"
    good = {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I am LanBot."}]}
    bad = {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I am Siri."}]}
    file.write_text(f"{json.dumps(good)}\n{json.dumps(bad)}\nnonsense\n{json.dumps(bad['messages'])}\n")
    with pytest.raises(UserError, match="3 of 4 rows are bad"):
        commands.validate(file, recipe="demo")
    said = capsys.readouterr().out
    assert "line 2: " in said and "line 3: not JSON" in said and "line 4: " in said and "line 1: " not in said


def test_wrong_options_are_reported_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        commands.generate("demo", out=tmp_path / "no" / "who.jsonl")
    with pytest.raises(UserError, match=r"not a \.jsonl"):
        commands.generate("demo", out=tmp_path / "who.txt")
    with pytest.raises(UsageError, match="out of range"):
        commands.generate("demo", out=tmp_path / "who.jsonl", count=0)
    for option in ({"model": "x"}, {"kinds": "tool_use"}, {"max_cost": 0.5}, {"price_in": 1.0}, {"concurrency": 2}):
        with pytest.raises(UsageError, match=f"--{next(iter(option)).replace('_', '-')} is for an endpoint"):
            commands.generate("demo", out=tmp_path / "who.jsonl", **option)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="needs a model"):
        commands.generate("demo", out=tmp_path / "who.jsonl", base_url="http://127.0.0.1:1/v1")
    with pytest.raises(UsageError, match="prices"):
        commands.generate("demo", out=tmp_path / "who.jsonl", base_url="http://127.0.0.1:1/v1", model="x")
    assert list(tmp_path.iterdir()) == []


def test_generate_appends_to_its_own_rows_and_overwrites_no_others(tmp_path: Path) -> None:
    out = tmp_path / "who.jsonl"
    commands.generate("demo", out=out, count=20)
    before = out.read_text()
    commands.generate("demo", out=out, count=30)
    assert out.read_text().startswith(before) and out.read_text().count("\n") == 30
    for changed in ({"count": 20}, {"count": 40, "seed": 1}):
        with pytest.raises(UserError, match="other rows") as refused:
            commands.generate("demo", out=out, **changed)
        assert "Delete it, or name another" in refused.value.remedy


def test_validate_and_stats_read_the_layouts_that_jsonl_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "other.jsonl"
    sharegpt = {"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "I am LanBot."}]}
    alpaca = {"instruction": "Who are you?", "input": "", "output": "I am LanBot, a small model."}
    file.write_text(f"{json.dumps(sharegpt)}\n{json.dumps(alpaca)}\n")
    commands.validate(file, recipe="demo")
    commands.stats(file)
    said = capsys.readouterr().out
    assert "2 rows, all fit" in said and re.search(r"conversations +2\n", said)
