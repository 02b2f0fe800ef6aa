"""`lanbot chat` and `lanbot agent` with scripted answers."""

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scripted_client import Scripted, said

from lanbot.agent import session
from lanbot.agent.commands import COMMANDS
from lanbot.agent.events import INTERRUPTED, Asked, Calling, Replied, Turn, from_json, to_json
from lanbot.agent.keyboard import Keyboard
from lanbot.agent.live import Live
from lanbot.agent.local import LocalModel
from lanbot.agent.loop import Agent
from lanbot.agent.sessions import Sessions
from lanbot.chat.display import DIM, RESET
from lanbot.chat.messages import Part, output, python, readable, text
from lanbot.cli import main
from lanbot.config.recipe_file import load
from lanbot.config.run import Run
from lanbot.tools.memory import Memory

Script = Callable[..., None]


@pytest.fixture(autouse=True)
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scripted) -> Script:
    """A run "demo" whose sft is done; script(*turns) sets the answers of its model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LANBOT_RUNS", "runs")
    for name in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    run = Run.create(load("smoke", {"name": "demo", "agent.max_steps": "2", "agent.max_tokens": "200"}))
    run.phase("sft").mkdir()
    (run.phase("sft") / "evals.json").write_text('{"checkpoint": "step_000007"}')

    def play(*turns: list[Part]) -> None:
        model = scripted(*turns)
        monkeypatch.setattr(session, "open_model", lambda run, phase: model)

    return play


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the model is given to read each time, as text."""
    seen: list[str] = []
    stream = LocalModel.stream

    def noted(model, messages, *given):  # type: ignore[no-untyped-def]
        seen.append("\n".join(readable(message) for message in messages))
        return stream(model, messages, *given)

    monkeypatch.setattr(LocalModel, "stream", noted)
    return seen


def lanbot(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    return int(stopped.value.code or 0)


def types(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """Lines typed on a terminal, then Ctrl-D."""
    rest = iter(lines)

    def typed(prompt: str) -> str:
        try:
            return next(rest)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", typed)
    monkeypatch.setattr(Keyboard, "_set_up", lambda keyboard: True)


# -- agent ---------------------------------------------------------------------------------------------------


def test_a_task_is_streamed(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    script([python('write_file("list.txt", "milk\\nbread")'), python('read_file("list.txt")'), text("I wrote it.")])
    assert lanbot("agent", "demo", "Write my list.") == 0
    captured = capsys.readouterr()
    assert captured.out == (
        '    >>> write_file("list.txt", "milk\\nbread")\n'
        "    wrote list.txt\n"
        '    >>> read_file("list.txt")\n'
        "    milk\n"
        "    bread\n"
        "I wrote it.\n"
    )
    assert captured.err == ""


def test_files_and_memory_are_kept_in_the_run(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    script([python('write_file("list.txt", "milk")'), python('remember("my cat is Tom")'), text("Done.")])
    assert lanbot("agent", "demo", "Note it.") == 0
    assert Path("runs/demo/agent/files/list.txt").read_text() == "milk"
    assert Memory(Path("runs/demo/agent/memory.db")).all() == [(1, "my cat is Tom")]
    script([python("list_files()"), python('recall("cat")'), text("Tom.")])
    assert lanbot("agent", "demo", "Who is my cat?") == 0
    assert capsys.readouterr().out.endswith('list.txt\n    >>> recall("cat")\n    1: my cat is Tom\nTom.\n')


def test_a_custom_workspace(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine").mkdir()
    script([python('write_file("list.txt", "milk")'), python('read_file("../recipe.toml")'), text("Done.")])
    assert lanbot("agent", "demo", "Write it.", "--workspace", "mine", "--allow", "write_file") == 0
    assert [path.name for path in Path("mine").iterdir()] == ["list.txt"]
    assert "outside the workspace" in capsys.readouterr().out
    assert lanbot("agent", "demo", "Write it.", "--workspace", "yours") == 1
    assert capsys.readouterr().err.startswith("lanbot: --workspace yours: no such folder\n")
    assert not Path("yours").exists()


def test_the_step_limit_ends_it_with_exit_code_1(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    script([python(str(i)) for i in range(9)])
    assert lanbot("agent", "demo", "Count.", "--transcript", "t.md") == 1
    captured = capsys.readouterr()
    first, second = captured.err.rstrip("\n").split("\n")
    assert first == "lanbot: stopped by the step limit: no answer after 2 calls" and "agent.max_steps" in second
    assert captured.out.endswith(
        "    >>> 2\n    error: no more than 2 calls; answer now\n    >>> 3\n    error: not run: step limit\n"
    )
    assert Path("t.md").read_text().endswith("    error: not run: step limit\n\n(ended by the step limit)\n")


def test_the_token_limit_ends_it_with_exit_code_1(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    script([text("on and on " * 30)])
    assert lanbot("agent", "demo", "Talk.") == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("lanbot: stopped by the token limit: a turn of 200 tokens")
    assert captured.out == ("on and on " * 30)[:200] + "\n"


def test_the_transcript_is_written(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    script([python("12*7"), text("It is 84.")])
    assert lanbot("agent", "demo", "What is 12*7?", "--transcript", "t.md") == 0
    said = "## user\n\nWhat is 12*7?\n\n## assistant\n\n    >>> 12*7\n    84\n\nIt is 84.\n"
    assert Path("t.md").read_text() == said
    for wrong in ("nowhere/t.md", "runs"):
        capsys.readouterr()
        assert lanbot("agent", "demo", "?", "--transcript", wrong) == 1
        assert capsys.readouterr().err.startswith(f"lanbot: --transcript {wrong}: cannot be written\n")


def test_a_damaged_memory_is_an_error_of_two_lines(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs/demo/agent").mkdir()
    Path("runs/demo/agent/memory.db").write_text("no database" * 100)
    script([text("hi")])
    assert lanbot("agent", "demo", "?") == 1
    lines = capsys.readouterr().err.rstrip("\n").split("\n")
    assert len(lines) == 2 and "memory.db: cannot be used as a memory" in lines[0]


def test_events_are_lines_of_json_and_nothing_else(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    script([python('write_file("a.txt", "hi")'), python("roll()"), text("Done é.")])
    assert lanbot("agent", "demo", "Write it.", "--json", "--deny", "write_file") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    events = [from_json(row) for row in rows]
    assert [to_json(event) for event in events] == rows
    told = [row["event"] for row in rows if row["event"] != "streamed"]
    turn = ["asked", "replied", "calling", "permission", "called", "replied", "calling", "called", "replied", "ended"]
    assert told == turn
    assert rows[0] == {"event": "asked", "text": "Write it."} and rows[-1]["reason"] == "answered"
    assert next(row for row in rows if row["event"] == "permission")["answer"] == "deny"
    script([python(str(i)) for i in range(9)])
    assert lanbot("agent", "demo", "Count.", "--json") == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out.splitlines()[-1]) == {"event": "ended", "reason": "step limit"}
    assert captured.err.startswith("lanbot: stopped by the step limit")


def test_a_conversation_is_gone_on_with(script: Script, capsys: pytest.CaptureFixture[str], read: list[str]) -> None:
    script([text("Hello, Tom.")])
    assert lanbot("agent", "demo", "I am Tom.") == 0
    script([text("Tom.")])
    assert lanbot("agent", "demo", "Who am I?", "--resume", "last") == 0
    assert "I am Tom." in read[-1] and "Hello, Tom." in read[-1]
    script([text("Nobody.")])
    assert lanbot("agent", "demo", "Who am I?") == 0
    assert "Tom" not in read[-1]
    assert lanbot("agent", "demo", "Who am I?", "--resume", "7") == 1
    assert "7: no such session" in capsys.readouterr().err


def test_a_turn_that_was_killed_is_continued_and_no_call_is_run_twice(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Sessions(Path("runs/demo/agent/sessions.db")) as kept, kept.create("demo") as killed:
        for event in (
            Asked("Note it."),
            Replied([python('write_file("a.txt", "again")')], "call"),
            Calling(1, 'write_file("a.txt", "again")'),
        ):
            killed.append(event)
    model = Scripted(said("It may have been written."))
    monkeypatch.setattr(session, "open_model", lambda run, phase: model)
    types(monkeypatch, "/continue", "/continue")
    assert lanbot("agent", "demo", "--resume", "last") == 0
    captured = capsys.readouterr()
    assert "It may have been written.\n" in captured.out and not Path("runs/demo/agent/files/a.txt").exists()
    assert "/continue goes on with it" in captured.err and "no turn was interrupted" in captured.err
    assert INTERRUPTED in readable(model.read[0][-1])


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--json"], "--json needs a task"),
        (["task", "--mcp"], "--mcp takes no task"),
        (["task", "--allow", "no rule!"], "--allow 'no rule!' is no rule"),
        (["task", "--key-env", "KEY"], "has no endpoint"),
    ],
)
def test_wrong_usage(script: Script, capsys: pytest.CaptureFixture[str], arguments: list[str], why: str) -> None:
    script([text("hi")])
    assert lanbot("agent", "demo", *arguments) == 2
    assert why in capsys.readouterr().err


# -- chat ----------------------------------------------------------------------------------------------------


def test_commands_of_a_chat(
    script: Script, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script(
        [python('write_file("a.txt", "hi")'), python('remember("my cat is Tom")'), text("Done.")],
        [text("Again.")],
        [text("never said")],
    )
    types(
        monkeypatch, "/files", "/memory", "Note it.", "/files", "/memory", "/new", "/nope", "/help", "Hi", "/quit", "?"
    )
    assert lanbot("chat", "demo") == 0
    captured = capsys.readouterr()
    assert "/help" in captured.err.split("\n")[0]
    assert all(f"\n{command} " in captured.out for command in COMMANDS if command != "/help")
    assert captured.out.startswith("\n(empty)\n\n(empty)\n\n    >>> write_file")
    assert "Done.\n\na.txt\n\n1: my cat is Tom\n\n\n\n/help" in captured.out
    assert captured.out.endswith("Again.\n\n")
    assert "(a new conversation)" in captured.err and "no command /nope" in captured.err


def test_conversations_are_listed_resumed_and_copied(
    script: Script, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, read: list[str]
) -> None:
    script([text("one")], [text("two")], [text("three")], [text("four")])
    first = ("First?", "Second?", "/fork 1", "Third?", "/new", "/resume 1", "Fourth?", "/sessions", "/resume 9")
    types(monkeypatch, "/resume", *first)
    assert lanbot("chat", "demo") == 0
    captured = capsys.readouterr()
    assert "First?" in read[2] and "Second?" not in read[2]
    assert "Second?" in read[3] and "Third?" not in read[3]
    table = captured.out[captured.out.index("session  ") :].splitlines()
    assert re.fullmatch(r"1 \* +\S+ \S+ +3 +answered +First\?", table[2])
    assert re.fullmatch(r"2 +\S+ \S+ +2 +answered +First\?", table[3])
    assert "(session 2 is the copy)" in captured.err and "(session 1, 2 requests so far)" in captured.err
    assert captured.err.count("no such session") == 1 and "no sessions yet" in captured.err
    assert "--resume 1 goes on with it" in captured.err


def test_what_an_agent_is_made_of_is_shown(
    script: Script, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script([text("a long answer " * 9)], [text("sum")])
    types(monkeypatch, "/tools", "/permissions", "Talk.", "/context", "/compact", "/help me")
    assert lanbot("agent", "demo", "--deny", "forget", "--ask", "write_file(a/**)") == 0
    out = capsys.readouterr().out
    assert re.search(r"^read_file +read +Reads a text file", out, re.M)
    assert re.search(r"^deny +forget$", out, re.M) and re.search(r"^ask +write_file\(a/\*\*\)$", out, re.M)
    assert re.search(r"^\[t*c+.*\] 1,000 tokens$", out, re.M) and re.search(r"^c +conversation +\d+$", out, re.M)


def test_a_new_conversation_starts_empty(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []

    turn = Agent.turn

    def noted(agent: Agent, *given) -> Turn:  # type: ignore[no-untyped-def]
        kept.append(len(agent.messages))
        return turn(agent, *given)

    monkeypatch.setattr(Agent, "turn", noted)
    script(*[[text("ok")]] * 3)
    types(monkeypatch, "one", "two", "/new", "three")
    assert lanbot("chat", "demo") == 0
    assert kept == [0, 2, 0]


def test_each_question_of_ask_is_a_separate_conversation_and_a_limit_is_reported(
    script: Script, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("never read\n"))
    script([python("2+3"), text("5.")], [text("x" * 300)])
    assert lanbot("chat", "demo", "--ask", "2+3?", "--ask", "x?") == 0
    captured = capsys.readouterr()
    assert captured.out == "> 2+3?\n    >>> 2+3\n    5\n5.\n> x?\n" + "x" * 200 + "\n"
    assert captured.err.startswith("(stopped by the token limit")


def test_piped_input_is_answered_line_by_line_and_empty_lines_are_skipped(
    script: Script, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\n\n/memory\n  \ntwo\n"))
    script([text("1")], [text("2")])
    assert lanbot("chat", "demo") == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("1\n(empty)\n2\n", "")


@pytest.fixture
def read_only_runs(script: Script) -> Iterator[None]:
    """The runs, which cannot be written; root is not stopped by a mode, so the folder is mounted read-only."""
    Memory(Path("runs/demo/agent/memory.db")).remember("my cat is Tom")
    mounted = subprocess.run(["mount", "--bind", "-o", "ro", "runs", "runs"], capture_output=True, text=True)
    try:
        Path("runs/demo/new").touch()
    except OSError:
        yield
    else:
        Path("runs/demo/new").unlink()
        pytest.skip(f"may not mount a folder read-only: {mounted.stderr.strip()}")
    finally:
        if not mounted.returncode:
            subprocess.run(["umount", "--lazy", "runs"], check=True)  # the memory may still be open


@pytest.mark.usefixtures("read_only_runs")
def test_chat_works_on_a_read_only_runs_folder(
    script: Script, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [python('recall("cat")'), python('remember("x")'), python('write_file("a.txt", "b")'), text("Tom.")]
    script(calls[:2] + calls[3:], calls[2:])
    types(monkeypatch, "Who is my cat?", "Write it.", "/memory", "/files")
    assert lanbot("chat", "demo") == 0
    captured = capsys.readouterr()
    assert "    1: my cat is Tom\n" in captured.out and "error: the memory is read-only" in captured.out
    assert "error: a.txt cannot be written: Read-only file system" in captured.out
    assert captured.out.count("Tom.\n") == 2 and captured.out.endswith("\n1: my cat is Tom\n\n(empty)\n\n")


def test_a_question_may_start_with_a_slash(
    script: Script, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    turn = Agent.turn
    monkeypatch.setattr(Agent, "turn", lambda agent, request, *given: (asked.append(request), turn(agent, request))[1])
    script(*[[text("ok")]] * 4)
    types(monkeypatch, "/etc/hosts is what?", "//help", "/help me", "/etc/hosts", "/nope", "", "  ", "/quit")
    assert lanbot("chat", "demo") == 0
    assert asked == ["/etc/hosts is what?", "/help", "/help me", "/etc/hosts"]
    assert "no command /nope" in capsys.readouterr().err


def test_an_empty_task_is_refused(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    assert lanbot("agent", "demo", "") == lanbot("agent", "demo", " \n") == 2
    assert capsys.readouterr().err.startswith("lanbot: the task is empty\n")


def test_an_empty_answer_is_an_error(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    for answer in ([], [text(" ")]):
        script(answer)
        assert lanbot("agent", "demo", "Do it.") == 1
        assert capsys.readouterr().err.startswith("lanbot: the model answered nothing\n")


def test_a_call_that_is_never_closed_is_an_error(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    begun = python("2+") | {"open": True}
    script([begun, begun])
    assert lanbot("agent", "demo", "Compute.", "--transcript", "t.md") == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("lanbot: the answer ended inside a call that was never closed\n")
    warned, ended = "    error: the call was not closed; write it again\n", "    error: not run: unfinished call\n"
    assert captured.out == f"    >>> 2+\n{warned}    >>> 2+\n{ended}"
    assert Path("t.md").read_text().endswith(f"    >>> 2+\n{ended}\n(ended by the unfinished call)\n")


def test_bytes_that_are_not_utf8_are_replaced(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["chat", "demo", "--ask"], ["agent", "demo", "--transcript", "t.md"]):
        script([text("ok")])
        assert lanbot(*arguments, "Caf\udce9?") == 0
    assert "Caf\ufffd?" in Path("t.md").read_text() and "> Caf\ufffd?" in capsys.readouterr().out


def test_a_transcript_keeps_the_mode_of_its_file_and_follows_a_link(script: Script) -> None:
    Path("private.md").touch(0o600)
    Path("link.md").symlink_to("private.md")
    script([text("ok")])
    assert lanbot("agent", "demo", "Do it.", "--transcript", "link.md") == 0
    assert Path("link.md").is_symlink() and Path("private.md").stat().st_mode & 0o777 == 0o600
    assert "ok" in Path("private.md").read_text()


def test_a_tool_from_outside_the_package_is_used(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    Path("dice.py").write_text(
        'def roll(sides: int) -> str:\n    """Rolls a die."""\n    return f"{sides} of {sides}"\n'
    )
    recipe = Path("runs/demo/recipe.toml")
    lines = recipe.read_text().split("\n")
    recipe.write_text("\n".join('tools = ["dice:roll"]' if line.startswith("tools = ") else line for line in lines))
    script([python("roll(6)"), text("A six.")])
    assert lanbot("agent", "demo", "Roll.", "--allow", "roll") == 0
    assert capsys.readouterr().out == "    >>> roll(6)\n    6 of 6\nA six.\n"


def test_a_program_and_its_variables(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = Path("runs/demo/recipe.toml")
    lines = recipe.read_text().split("\n")
    recipe.write_text("\n".join('tools = ["python"]' if line.startswith("tools = ") else line for line in lines))
    script([python("x = [3, 4]\nfor n in x:\n    print(n)"), python("write_file('sum.txt', str(sum(x)))"), text("7.")])
    if lanbot("agent", "demo", "Add them."):
        assert "no sandbox holds" in capsys.readouterr().err
        pytest.skip("no sandbox holds on this machine")
    out = capsys.readouterr().out
    assert out.endswith("\n    3\n    4\n    >>> write_file('sum.txt', str(sum(x)))\n    wrote sum.txt\n7.\n")
    assert Path("runs/demo/agent/files/sum.txt").read_text() == "7"
    script([python("x"), text("Gone.")])
    assert lanbot("agent", "demo", "What is x?") == 0
    assert "NameError: name 'x' is not defined" in capsys.readouterr().out


# -- a turn as lines -----------------------------------------------------------------------------------------


def shown(*parts: Part, scripted, colour: bool = False, monkeypatch: pytest.MonkeyPatch) -> str:  # type: ignore[no-untyped-def]
    if colour:
        monkeypatch.setenv("FORCE_COLOR", "1")
    out = io.StringIO()
    engine = scripted(list(parts))
    live = Live(out)
    Agent(engine).turn("?", live)
    live.close()
    return out.getvalue()


def test_text_around_calls_and_the_lines_of_an_output(scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [text("é is "), python("'a\\nb'"), text("two 😀"), python("1"), python("2")]
    assert (
        shown(*parts, scripted=scripted, monkeypatch=monkeypatch)
        == "é is \n    >>> 'a\\nb'\n    a\n    b\ntwo 😀\n    >>> 1\n    1\n    >>> 2\n    2\n"
    )


def test_calls_are_dim_and_answers_are_not(scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    said = shown(python("1+1"), text("So 2."), scripted=scripted, colour=True, monkeypatch=monkeypatch)
    assert said == f"{DIM}    >>> 1+1{RESET}\n{DIM}    2{RESET}\nSo 2.\n"


def test_an_output_does_not_steer_the_terminal(scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    said = shown(python("'\\x1b[2J'"), scripted=scripted, monkeypatch=monkeypatch)
    assert "\x1b" not in said and "    ␛[2J\n" in said


def test_an_output_that_the_model_wrote_itself_is_shown_as_text(scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    said = shown(text("It is "), output("42"), text("."), scripted=scripted, monkeypatch=monkeypatch)
    assert said == "It is \n42\n.\n"


def test_text_that_reorders_a_line_is_made_visible(scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    said = shown(text("safe\u202egnp.exe"), scripted=scripted, monkeypatch=monkeypatch)
    assert said == "safe[U+202E]gnp.exe\n"
