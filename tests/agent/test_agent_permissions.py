"""Rules from a recipe and the command line, the user at the terminal, and what is told to whom."""

import io
import os
import pty
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scripted_client import Scripted, calling, said

from lanbot.agent.events import Event, Permission, from_json, to_json
from lanbot.agent.loop import Agent
from lanbot.agent.permissions import ask_on_terminal, merged, permit, terminal_ask
from lanbot.config.agent import Agent as Settings
from lanbot.config.agent import Permissions
from lanbot.config.recipe_file import dump, load
from lanbot.core.errors import UsageError, UserError
from lanbot.tools.memory import Memory
from lanbot.tools.python_call import PythonCalls
from lanbot.tools.question import Question
from lanbot.tools.toolbox import Toolbox
from lanbot.tools.workspace import Workspace

QUESTION = Question("fetch", "network", "fetch (network)\n  GET https://a.example/", "fetch(a.example)")


def test_a_recipe_has_rules_and_keeps_them(tmp_path: Path) -> None:
    rules = '[agent.permissions]\ndeny = ["network"]\nallow = ["write_file(notes/**)", "fetch(a.example)"]\n'
    (tmp_path / "a.toml").write_text(f'name = "a"\n{rules}')
    recipe = load(str(tmp_path / "a.toml"))
    assert recipe.agent.permissions == Permissions(("network",), (), ("write_file(notes/**)", "fetch(a.example)"))
    (tmp_path / "b.toml").write_text(dump(recipe))
    assert load(str(tmp_path / "b.toml")) == recipe
    recipe = load(str(tmp_path / "a.toml"), {"agent.permissions.deny": "fetch(b.example), write"})
    assert recipe.agent.permissions.deny == ("fetch(b.example)", "write")
    (tmp_path / "a.toml").write_text('name = "a"\n[agent.permissions]\ndeny = ["write_file("]\n')
    with pytest.raises(UserError, match="'write_file\\('"):
        load(str(tmp_path / "a.toml"))


def test_the_command_line_adds_rules_and_cannot_allow_what_the_recipe_denies() -> None:
    rules = merged(Permissions(deny=("write_file(a.txt)",)), ["remember"], [], ["write", "remember"])
    files = Workspace({})
    with Toolbox(Settings(), files, Memory()) as box:
        permit(box, files, rules, Path("nowhere"), None)
        calls = PythonCalls(box.toolset)
        assert calls('write_file("b.txt", "x")') == "wrote b.txt"
        for code in ('write_file("a.txt", "x")', 'remember("x")'):
            assert "was not allowed: the rule deny" in calls(code)
    with pytest.raises(UsageError, match="--allow 'write file'"):
        merged(Permissions(), [], [], ["write file"])


def test_without_a_terminal_what_would_be_asked_is_refused_and_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files, events = Workspace(tmp_path), list[Event]()
    with Toolbox(Settings(), files, Memory()) as box:
        permit(box, files, Permissions(allow=("wirte",)), tmp_path / "run", None, events.append)
        calls = PythonCalls(box.toolset)
        for _ in range(2):
            said = calls('write_file("notes/a.txt", "x")')
            assert said.startswith("error: write_file was not allowed: no rule allows it (kind write), and nobody")
        assert calls("read_file('b.txt')") == "error: no file b.txt; there are no files"
    assert not list(tmp_path.iterdir())
    told = capsys.readouterr().err
    assert "warning: allow wirte can never match: there is no such tool. Did you mean write?" in told
    assert told.count("write_file was not allowed") == 1
    assert "--allow 'write_file(notes/**)'" in told
    assert [(one.tool, one.answer) for one in events if isinstance(one, Permission)] == [
        *[("write_file", "deny")] * 2,
        ("read_file", "allow"),
    ]
    assert [from_json(to_json(event)) for event in events] == events


def test_decisions_stand_among_the_events_of_a_conversation() -> None:
    files, made = Workspace({"a.txt": "tea"}), list[Agent]()
    with Toolbox(Settings(), files, Memory()) as box:
        permit(box, files, Permissions(deny=("recall",)), Path("nowhere"), None, lambda event: made[0].emit(event))
        model = Scripted(calling("read_file('a.txt') + recall('x')"), said("done"))
        made.append(Agent(model, PythonCalls(box.toolset)))
        made[0].turn("What is there?")
    kinds = [type(event).__name__ for event in made[0].events]
    assert kinds == ["Asked", "Replied", "Calling", "Permission", "Permission", "Called", "Replied", "Ended"]
    assert [event.answer for event in made[0].events if isinstance(event, Permission)] == ["allow", "deny"]
    assert Agent(Scripted(), PythonCalls(), events=list(made[0].events)).messages == made[0].messages


def test_the_agents_own_files_are_written_without_asking(tmp_path: Path) -> None:
    files = Workspace(tmp_path / "agent" / "files")
    with Toolbox(Settings(), files, Memory()) as box:
        permit(box, files, Permissions(), tmp_path, None)
        calls = PythonCalls(box.toolset)
        assert calls('write_file("a.txt", "x")') == "wrote a.txt"
        assert calls('remember("tea")') == "remembered as 1"
        assert "tells agents what to do" in calls('write_file("AGENTS.md", "obey")')


def test_no_tool_takes_the_name_and_the_permissions_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "outside_reader.py").write_text("def read_file(path: str) -> str:\n    return ''\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match="two tools are called read_file"):
        Toolbox(Settings(tools=("outside_reader:read_file",)), Workspace({}), Memory())


# -- the terminal --------------------------------------------------------------------------------------------


class Screen(io.StringIO):
    """stderr: types an answer at each prompt."""

    def __init__(self, keyboard: int, answers: list[str]) -> None:
        super().__init__()
        self.keyboard, self.answers = keyboard, answers

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if "Allow?" in text:
            os.write(self.keyboard, self.answers.pop(0).encode())
        return super().write(text)


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """typed(answers, before): what is shown to and answered by somebody who types at each prompt."""
    master, slave = pty.openpty()

    def play(*answers: str, before: str = "") -> tuple[str, str]:
        screen = Screen(master, list(answers))
        monkeypatch.setattr(sys, "stderr", screen)
        os.write(master, before.encode())
        ask = terminal_ask()
        assert ask is not None
        return ask(QUESTION), screen.getvalue()

    with os.fdopen(slave, "r") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield play  # type: ignore[misc]
    os.close(master)


@pytest.mark.parametrize(
    ("answers", "meant"),
    [
        *((["o\n"], "once"), (["Always\n"], "always"), (["n\n"], "no"), (["\n"], "no"), (["\x04"], "no")),
        *((["yes\n", "what?\n", "a\n"], "always"), (["x\n"] * 3, "no")),
    ],
)
def test_answers_at_a_terminal(answers: list[str], meant: str, typed: Callable[..., tuple[str, str]]) -> None:
    answer, screen = typed(*answers)
    assert answer == meant
    assert screen.startswith(f"\n{QUESTION.text}\nAllow? [o]nce, [a]lways fetch(a.example), [n]o: ")
    assert screen.count("Allow?") == len(answers)


def test_what_was_typed_before_the_question_is_no_answer(typed: Callable[..., tuple[str, str]]) -> None:
    assert typed("n\n", before="always\no\n")[0] == "no"


def test_nobody_is_asked_where_no_terminal_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("always\n"))
    assert terminal_ask() is None
    assert ask_on_terminal is not None
