"""lanbot memory: what an agent remembers is seen and changed."""

from pathlib import Path

import pytest

from lanbot.cli import main
from lanbot.config.recipe_file import load
from lanbot.config.run import Run
from lanbot.tools.memory import Memory


@pytest.fixture(autouse=True)
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LANBOT_RUNS", "runs")
    return Run.create(load("smoke", {"name": "demo"}))


def lanbot(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(["memory", "demo", *arguments])
    return int(stopped.value.code or 0)


def test_texts_are_added_listed_shown_edited_and_forgotten(capsys: pytest.CaptureFixture[str]) -> None:
    with_path = Memory(Path("runs/demo/agent/memory.db"), source="a1b2c3d4")
    with_path.remember("my cat is Tom\x1b[2J")
    assert lanbot("add", "my", "dog", "is Rex") == 0
    assert lanbot("add", "word " * 60) == 0
    assert capsys.readouterr().out == "remembered as 2\nremembered as 3\n"
    assert lanbot() == lanbot("list") == 0
    lines = capsys.readouterr().out.split("\n")
    assert lines[0].split() == ["number", "time", "conversation", "text"]
    assert "a1b2c3d4" in lines[2] and lines[2].endswith("my cat is Tom␛[2J")
    assert "lanbot memory" in lines[3] and lines[3].endswith("my dog is Rex") and lines[4].endswith(" ...")
    assert lanbot("edit", "2", "my dog is Pip") == 0
    assert lanbot("show", "2") == 0
    out = capsys.readouterr().out
    assert out.startswith("edited 2\nmy dog is Pip\nremembered 20") and out.endswith(" in lanbot memory\n")
    assert lanbot("search", "which", "cat") == 0
    assert "Tom" in capsys.readouterr().out
    assert lanbot("forget", "1", "9") == 1  # all or nothing
    assert with_path.recall("cat").startswith("1: ")
    assert lanbot("forget", "1", "2") == 0
    assert with_path.all() == [(3, ("word " * 60).strip())]


def test_a_run_without_a_memory_gets_none_by_looking(capsys: pytest.CaptureFixture[str]) -> None:
    assert lanbot("list") == lanbot("search", "tea") == 0
    assert capsys.readouterr().out == "nothing is remembered\n" * 2
    assert not Path("runs/demo/agent").exists()


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        (["show"], 2, "Write lanbot memory RUN show NUMBER."),
        (["show", "one"], 2, "Write lanbot memory RUN show NUMBER."),
        (["edit", "1"], 2, "Write lanbot memory RUN edit NUMBER TEXT."),
        (["add"], 2, "Write lanbot memory RUN add TEXT."),
        (["add", " "], 1, "nothing to remember"),
        (["show", "7"], 1, "demo: nothing is remembered as 7"),
        (["forget", "7"], 1, "demo: nothing is remembered as 7"),
        (["forgot", "7"], 2, "forget"),
    ],
)
def test_what_is_wrong_is_two_lines(given: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert lanbot(*given) == code
    assert said in capsys.readouterr().err
