"""lanbot sessions: conversations with an agent are listed, shown, copied, exported and deleted."""

import json
from pathlib import Path

import pytest

from lanbot.agent.events import Asked, Called, Calling, Ended, Event, Replied
from lanbot.agent.sessions import Sessions
from lanbot.chat.messages import python, text
from lanbot.cli import main
from lanbot.config.recipe_file import load
from lanbot.config.run import Run

HOSTILE = "<script>alert(1)</script>\x1b[2J</pre>"
FIRST: list[Event] = [
    Asked("Read a.txt."),
    Replied([python("read_file('a.txt')")], "call", 120, 40, 9, 0.5),
    Calling(1, "read_file('a.txt')"),
    Called(1, HOSTILE, 0.25),
    Replied([text("It is odd.")], "stop", 150, 129, 5, 0.25),
    Ended("answered"),
]
SECOND: list[Event] = [Asked("again\x1b[2J " * 20), Replied([text("no")], "stop", 300, 0, 1, 0.1), Ended("step limit")]


@pytest.fixture(autouse=True)
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LANBOT_RUNS", "runs")
    return Run.create(load("smoke", {"name": "demo"}))


@pytest.fixture
def kept(run: Run) -> Sessions:
    """Session 1 has two turns, session 2 was cut off."""
    sessions = Sessions(run.folder / "agent" / "sessions.db")
    for events in ([*FIRST, *SECOND], FIRST[:3]):
        with sessions.create("demo rl", "Be brief.") as session:
            for event in events:
                session.append(event)
    return sessions


def lanbot(*arguments: str, command: str = "sessions") -> int:
    with pytest.raises(SystemExit) as stopped:
        main([command, *(["demo"] if command == "sessions" else []), *arguments])
    return int(stopped.value.code or 0)


def test_sessions_are_listed_with_how_they_ended(kept: Sessions, capsys: pytest.CaptureFixture[str]) -> None:
    assert lanbot() == lanbot("list") == 0
    lines = capsys.readouterr().out.split("\n")
    assert lines[0].split() == ["id", "begun", "ended", "turns", "tokens", "first", "request"]
    assert lines[2].split()[0] == "1" and "step limit   2      15" in lines[2] and lines[2].endswith("Read a.txt.")
    assert lines[3].split()[0] == "2" and "interrupted" in lines[3]
    assert len({line.index("Read") for line in lines[2:4]}) == 1


def test_a_session_is_shown_step_by_step(kept: Sessions, capsys: pytest.CaptureFixture[str]) -> None:
    assert lanbot("show", "1") == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "session 1 | demo rl | 20" in out
    lines = {line.split("  ")[0].strip() or line.strip().split("  ")[0]: line for line in out.split("\n")}
    assert lines["1"].split() == ["1", "(calls)", "120", "40", "9", "0.50"]
    assert lines["2"].split() == ["2", "It", "is", "odd.", "150", "129", "5", "0.25"]
    assert lines[">>> read_file('a.txt')"].endswith("0.25") and "answered after 1.00 s" in lines
    assert "step limit after 0.10 s" in lines and any(
        "turn 2, 20" in line and "again␛[2J" in line and line.endswith(" ...") for line in lines
    )
    assert "prompt tokens 570, of these cached 169, tokens written 15, in the model 0.85 s, in calls 0.25 s" in out
    ends = {len(line.rstrip()) for line in out.split("\n") if line.startswith(("1 ", "2 ", "3 "))}
    assert len(ends) == 1  # aligned


def test_a_trace_is_one_page_in_which_nothing_a_tool_said_is_markup(
    kept: Sessions, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lanbot("trace", "1", "--html", "trace.html") == 0
    page = Path("trace.html").read_text()
    assert capsys.readouterr().out == "trace.html\n"
    assert "&lt;script&gt;alert(1)&lt;/script&gt;␛[2J&lt;/pre&gt;" in page
    assert "<script" not in page and "default-src 'none'" in page
    assert not any(sign in page for sign in ("http://", "https://", "src=", "@import", "url("))
    bars = [part.split("</svg>")[0] for part in page.split('<svg class="bar time"')[1:]]
    assert 'x="0.00%" width="50.00%"' in bars[0] and 'x="50.00%" width="25.00%"' in bars[0]  # the model, then the call
    assert 'x="75.00%" width="25.00%"' in bars[1]
    assert page.count("<pre") == page.count("</pre>")


def test_a_session_is_forked_and_deleted(kept: Sessions, capsys: pytest.CaptureFixture[str]) -> None:
    assert lanbot("fork", "1", "--at", "1") == lanbot("fork", "last") == 0
    assert capsys.readouterr().out == "session 3\nsession 4\n"
    assert lanbot("show", "4") == 0
    assert "forked from 3" in capsys.readouterr().out
    assert lanbot("delete", "1", "9") == 1  # all or none
    assert lanbot("delete", "1", "last") == 0
    assert capsys.readouterr().out == "deleted 1\ndeleted 4\n"
    assert [one.id for one in kept.listing()] == [2, 3]


def test_an_export_is_training_data(kept: Sessions, capsys: pytest.CaptureFixture[str]) -> None:
    assert lanbot("export", "all", "--out", "chats.jsonl") == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("chats.jsonl: 1 conversation;")
    assert captured.err == "left out: session 2: no turn was answered\n"
    assert lanbot("show", "jsonl:chats.jsonl", command="data") == 0
    shown = capsys.readouterr().out
    assert "«<|python_start|>read_file('a.txt')<|python_end|>»<|output_start|><script>" in shown
    assert "«It is odd.<|assistant_end|>»" in shown and "«<script" not in shown
    assert lanbot("export", "1") == 0
    row = json.loads(capsys.readouterr().out)
    assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant"]  # without the bad turn


def test_a_damaged_session_does_not_keep_the_others_from_being_exported(
    kept: Sessions, capsys: pytest.CaptureFixture[str]
) -> None:
    with kept.create() as session:
        session.append(Asked("more"))
    kept.database.execute("update events set json = '{' where session = 3")
    assert lanbot("list") == lanbot("export", "all") == 0
    captured = capsys.readouterr()
    assert "damaged" in captured.out and "It is odd." in captured.out and "session 3 is damaged" in captured.err
    assert lanbot("show", "3") == lanbot("export", "3") == 1


def test_a_run_without_sessions_gets_none_by_looking(capsys: pytest.CaptureFixture[str]) -> None:
    assert lanbot() == 0
    assert capsys.readouterr().out == "no sessions yet\n"
    assert lanbot("show", "last") == 1
    assert "Its agent makes them: lanbot agent demo." in capsys.readouterr().err
    assert not Path("runs/demo/agent").exists()


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        (["show"], 2, "Write lanbot sessions RUN show ID."),
        (["trace", "1"], 2, "Write lanbot sessions RUN trace ID --html FILE."),
        (["show", "1", "--at", "2"], 2, "Write lanbot sessions RUN fork ID [--at TURN]."),
        (["show", "7"], 1, "There are: 1, 2."),
        (["show", "cheese"], 1, "There are: 1, 2."),
        (["fork", "1", "--at", "3"], 1, "It has 2 turns."),
        (["export", "2"], 1, "Only a turn that was answered is training data."),
        (["trace", "1", "--html", "no/where.html"], 1, "run the same command again."),
    ],
)
def test_mistakes_are_answered_in_two_lines(
    kept: Sessions, given: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lanbot(*given) == code
    lines = capsys.readouterr().err.strip().split("\n")
    assert lines[-1].endswith(said) and lines[-2].startswith("lanbot: ")
