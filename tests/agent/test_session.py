"""An agent that is open: the Python API, notes and skills, what is kept and what is not."""

from collections.abc import Callable
from pathlib import Path

import pytest
from scripted_client import Scripted, calling, said

from lanbot.agent import open_agent, session
from lanbot.agent.events import Ended, Event
from lanbot.agent.limits import Limits
from lanbot.agent.sessions import Session, Sessions
from lanbot.config.recipe_file import load
from lanbot.config.run import Run
from lanbot.core.errors import UserError
from lanbot.tools.permissions import Answer
from lanbot.tools.question import Question

Play = Callable[..., "Closable"]


class Closable(Scripted):
    def __init__(self, *replies) -> None:  # type: ignore[no-untyped-def]
        super().__init__(*replies)
        self.ended: list[str] = []

    def close(self) -> None:
        self.ended.append("closed")


@pytest.fixture(autouse=True)
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    """A run "my-bot" and a workspace "notes"; play(*replies) sets what its model says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LANBOT_RUNS", "runs")
    run = Run.create(load("smoke", {"name": "my-bot", "identity.name": "Robi"}))
    run.phase("sft").mkdir()
    (run.phase("sft") / "evals.json").write_text('{"checkpoint": "step_000007"}')
    Path("notes").mkdir()

    def script(*replies) -> Closable:  # type: ignore[no-untyped-def]
        model = Closable(*replies)
        monkeypatch.setattr(session, "open_model", lambda run, phase: model)
        return model

    return script


def test_five_lines_of_python(play: Play) -> None:
    Path("notes/tea.txt").write_text("Tea is green.")
    play(calling('search_files("tea")', words="I look. "), said("In tea.txt."))
    with open_agent("my-bot", workspace="notes") as agent:
        turn = agent.ask("Which of my notes is about tea?")
    assert (turn.answer, turn.ended) == ("In tea.txt.", "answered")


def test_what_would_be_asked_is_refused_unless_allowed_or_answered(play: Play) -> None:
    write = 'write_file("a.txt", "b")'
    play(*[calling(write), said("Hm.")] * 3)
    asked: list[str] = []
    for options, there in (({}, False), ({"allow": ["write_file(*.txt)"]}, True)):
        with open_agent("my-bot", "notes", **options) as agent:  # type: ignore[arg-type]
            agent.ask("Write it.")
        assert Path("notes/a.txt").exists() == there
    Path("notes/a.txt").unlink()
    with open_agent("my-bot", "notes", asks=lambda question: asked.append(question.text) or "once") as agent:  # type: ignore[func-returns-value]
        agent.ask("Write it.")
    assert Path("notes/a.txt").read_text() == "b" and "file: a.txt" in asked[0]


def test_every_event_is_kept_before_it_is_told(play: Play) -> None:
    play(calling("2+3"), said("5."))
    told: list[Event] = []

    def look(event: Event) -> None:
        with Sessions(Path("runs/my-bot/agent/sessions.db")) as kept:
            assert not event.stored or kept.events(1)[-1][1] == event
        told.append(event)

    with open_agent("my-bot") as agent:
        agent.ask("2+3?", look)
        assert agent.number == 1 and agent.memory.source == "session 1"
    assert told[-1] == Ended("answered")


def test_a_conversation_without_a_request_is_not_kept(play: Play) -> None:
    play()
    with open_agent("my-bot") as agent:
        agent.new()
        assert agent.sessions and agent.sessions.listing() == []
    with open_agent("my-bot") as agent, pytest.raises(UserError, match="Send a shorter one"):
        agent.ask("word " * 2_000)
    with Sessions(Path("runs/my-bot/agent/sessions.db")) as kept:
        assert kept.listing() == []


def test_notes_and_skills_are_in_the_system_message(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    model = play(calling('read_skill("brew")'), said("Hot water."))
    with open_agent("my-bot", "notes") as agent:
        assert agent.agent.system == "" and "read_skill" not in agent.tools.toolset
    Path("notes/AGENTS.md").write_text("Answer in French.")
    for folder in ("notes/.agents/skills/brew", "runs/my-bot/agent/skills/pour"):
        Path(folder).mkdir(parents=True)
        head = f"name: {Path(folder).name}\ndescription: How to make tea."
        Path(folder, "SKILL.md").write_text(f"---\n{head}\n---\nBoil water.\n")
    with open_agent("my-bot", "notes") as agent:
        agent.ask("How do I brew?")
    read = str(model.read[-1])
    assert read.index("You are Robi") < read.index("- brew: How to make tea.") < read.index("Answer in French.")
    assert "- pour:" in read and "Boil water." in read
    assert "AGENTS.md was read, 1 lines" in capsys.readouterr().err


def test_the_runs_own_files_have_nothing_to_do_with_the_repository_around_them(play: Play) -> None:
    Path(".git").mkdir()
    Path("AGENTS.md").write_text("Answer in French.")
    play()
    for workspace, told in ((None, False), ("notes", True)):
        with open_agent("my-bot", workspace) as agent:
            assert ("French" in agent.agent.system) == told


def test_compaction_makes_room_and_is_kept(play: Play) -> None:
    play(*[said("a long answer " * 20)] * 3, said("The sum."))
    with open_agent("my-bot") as agent:
        for request in "abc":
            agent.ask(request)
        before = agent.agent.context_use().messages
        assert "turn" in agent.compact() or "shortened" in agent.compact()
        after = agent.agent.context_use().messages
        assert after < before
    with open_agent("my-bot") as agent:
        agent.resume()
        assert agent.agent.context_use().messages == after and not agent.cut_off


def test_what_is_wrong_is_said_in_two_lines_and_nothing_stays_open(play: Play) -> None:
    with pytest.raises(UserError, match="no such run"):
        open_agent("nope")
    with pytest.raises(UserError, match="no such folder"):
        open_agent("my-bot", "nowhere")
    recipe = Path("runs/my-bot/recipe.toml")
    recipe.write_text(recipe.read_text().replace("tools = []", 'tools = ["nothing"]'))
    model = play()
    with pytest.raises(UserError, match="nothing is no tool"):
        open_agent("my-bot")
    assert model.ended == ["closed"]


def test_what_fails_while_it_is_closed_leaves_nothing_open(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    model = play(said("ok"))
    agent = open_agent("my-bot")
    agent.ask("?")

    def full(session: object) -> None:
        raise UserError("the disk is full", "Make room.")

    monkeypatch.setattr(Session, "close", full)
    with pytest.raises(UserError, match="the disk is full"):
        agent.close()
    assert model.ended == ["closed"]


def test_the_time_a_user_takes_to_answer_does_not_count(play: Play) -> None:
    play(calling('write_file("a.txt", "b")'), said("Done."))
    now = [0.0]

    def late(question: Question) -> Answer:
        now[0] += 3_600
        return "once"

    with open_agent("my-bot", "notes", asks=late) as opened:
        opened.agent.limits, opened.agent.clock = Limits(max_seconds=60), lambda: now[0]
        assert opened.ask("Write it.").ended == "answered"


def test_a_skill_does_not_take_the_place_of_a_tool(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    skill = Path("notes/.agents/skills/tea/SKILL.md")
    skill.parent.mkdir(parents=True)
    skill.write_text("---\nname: tea\ndescription: About tea.\n---\nBoil it.")
    Path("own.py").write_text('def read_skill(name: str) -> str:\n    """Reads."""\n    return name\n')
    monkeypatch.syspath_prepend(".")
    recipe = Path("runs/my-bot/recipe.toml")
    recipe.write_text(recipe.read_text().replace("tools = []", 'tools = ["own:read_skill"]'))
    play()
    with pytest.raises(UserError, match="two tools are called read_skill"):
        open_agent("my-bot", "notes")
