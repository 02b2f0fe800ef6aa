"""The agent behind the server: its events, questions, memory, and a client that leaves."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from scripted_client import Scripted, calling, said

from lanbot.agent import session
from lanbot.config.recipe_file import load
from lanbot.config.run import Run
from lanbot.web.agent_host import AgentHost, Remembered

Play = Callable[..., str]
WRITE = calling("write_file('a.txt', 'tea')", words="I write. ")


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_engine, serve) -> Play:
    """play(*replies) -> the address of a server whose agent's model says these."""
    monkeypatch.setenv("LANBOT_RUNS", str(tmp_path / "runs"))
    run = Run.create(load("smoke", {"name": "my-bot"}))

    def start(*replies: Any) -> str:
        model = Scripted(*replies)
        monkeypatch.setattr(session, "open_model", lambda run, phase: model)
        memory = Remembered(run.folder / "agent" / "memory.db")
        host = AgentHost(lambda asks: session.open_session(run, session.Options(ask=["write"], asks=asks)), memory)
        return serve(make_engine(), agent=host)

    return start


def events(response: Any) -> Iterator[dict[str, Any]]:
    for line in response.iter_lines():
        if line.startswith("data: "):
            yield json.loads(line[6:])


def turn(url: str, request: str, number: int = 0, answer: str = "") -> list[dict[str, Any]]:
    """The events of a turn; `answer` is given to its questions."""
    made = []
    with httpx2.stream("POST", f"{url}/agent/turns", json={"request": request, "session": number}, timeout=20) as sent:
        if sent.status_code != 200:
            sent.read()
            return [{"status": sent.status_code, **sent.json()}]
        for one in events(sent):
            made.append(one)
            if one["event"] == "question":
                given = {"question": one["id"], "answer": answer}
                assert httpx2.post(f"{url}/agent/answers", json=given).status_code == 200
                assert httpx2.post(f"{url}/agent/answers", json=given).status_code in (200, 404)
    return made


def outputs(made: list[dict[str, Any]]) -> list[str]:
    return [one["output"] for one in made if one["event"] == "called"]


def test_a_turn_is_its_events_and_conversations_go_on(play: Play) -> None:
    url = play(calling("2+3", words="I count. "), said("It is 5."), said("Again 5."), said("Something else."))
    made = turn(url, "What is 2+3?")
    assert outputs(made) == ["5"]
    number = made[-1]["session"]
    assert made[-1] == {"event": "done", "session": number, "reason": "answered", "problem": ""}
    assert "".join(one["text"] for one in made if one["event"] == "streamed" and one["part"] == "text")
    assert turn(url, "Again?", number)[-1]["session"] == number
    assert turn(url, "Hello")[-1]["session"] != number
    assert "77" in turn(url, "Hello", 77)[-1]["problem"]


@pytest.mark.parametrize(("answer", "questions", "written"), [("once", 2, True), ("always", 1, True), ("no", 2, False)])
def test_calls_wait_for_the_users_answer(
    play: Play, tmp_path: Path, answer: str, questions: int, written: bool
) -> None:
    url = play(WRITE, WRITE, said("Done."))
    made = turn(url, "Write it twice.", answer=answer)
    asked = [one for one in made if one["event"] == "question"]
    assert len(asked) == questions
    assert asked[0]["tool"] == "write_file" and "file: a.txt" in asked[0]["text"]
    assert (tmp_path / "runs" / "my-bot" / "agent" / "files" / "a.txt").exists() == written
    assert all(("not allowed" in one) != written for one in outputs(made))


def test_whoever_leaves_says_no_and_the_next_is_served(play: Play, tmp_path: Path) -> None:
    url = play(WRITE, said("Hello."))
    with httpx2.stream("POST", f"{url}/agent/turns", json={"request": "Write it."}, timeout=20) as sent:
        heard = events(sent)
        next(one for one in heard if one["event"] == "question")
        assert turn(url, "Me too.")[0]["status"] == 409
    while httpx2.get(f"{url}/agent").json()["busy"]:
        time.sleep(0.02)
    assert not (tmp_path / "runs" / "my-bot" / "agent" / "files" / "a.txt").exists()
    assert turn(url, "Hello")[-1]["reason"] == "answered"


def test_a_server_that_stops_does_not_wait_for_an_answer(play: Play) -> None:
    url = play(WRITE)
    heard = threading.Event()

    def listen() -> None:
        with httpx2.stream("POST", f"{url}/agent/turns", json={"request": "Write it."}, timeout=20) as sent:
            for one in events(sent):
                if one["event"] == "question":
                    heard.set()
                    return

    threading.Thread(target=listen, daemon=True).start()
    assert heard.wait(10)  # the fixture stops the server now, and fails if it does not stop


def test_memory_is_read_and_changed(play: Play) -> None:
    url = play(calling("remember('The cat is Tom')"), said("Noted."))
    turn(url, "Remember: the cat is Tom", answer="once")

    def change(**body: Any) -> httpx2.Response:
        return httpx2.post(f"{url}/agent/memory", json=body)

    entries = httpx2.get(f"{url}/agent/memory").json()["entries"]
    assert [(one["number"], one["text"]) for one in entries] == [(1, "The cat is Tom")]
    assert [one["text"] for one in change(number=1, text="The cat is Tim").json()["entries"]] == ["The cat is Tim"]
    assert len(change(text="Tea is green").json()["entries"]) == 2
    assert [one["text"] for one in change(number=1).json()["entries"]] == ["Tea is green"]
    assert change(number=9).status_code == 400
    assert change().status_code == 400


def test_a_server_without_an_agent_has_none(make_engine, serve) -> None:
    url = serve(make_engine())
    assert httpx2.get(f"{url}/agent").json() == {"agent": False, "busy": False}
    assert httpx2.post(f"{url}/agent/turns", json={"request": "Hi"}).status_code == 404
