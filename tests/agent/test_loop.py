from types import SimpleNamespace

import pytest

from lanbot.agent.loop import REPEATS, Agent, bounded
from lanbot.chat.conversation import output, parts, python, spoken, text
from lanbot.chat.lanbot_format import render_prompt
from lanbot.engine.engine import Completion
from lanbot.errors import UserError
from lanbot.tokenizer import QWEN2_PATTERN, Tokenizer

BYTES = Tokenizer({bytes([b]): b for b in range(256)}, QWEN2_PATTERN)


class ScriptedEngine:
    """Says what it is told to: each turn a list of parts, of which the calls are answered by the tool."""

    def __init__(self, *turns: list, context: int = 1_000) -> None:
        self.turns, self.tokenizer = list(turns), BYTES
        self.model = SimpleNamespace(config=SimpleNamespace(context=context))
        self.tool = self.ask
        self.prompts: list[list[int]] = []
        self.asked: list[str] = []

    def ask(self, code: str) -> str:
        self.asked.append(code)
        return f"={code}"

    def generate(self, prompts, sampling, seed=0, on_token=None, keys=None):
        assert all(len(prompt) < self.model.config.context for prompt in prompts)
        self.prompts += prompts
        ids: list[int] = []
        for part in self.turns.pop(0):
            ids += BYTES.encode(part["text"]) if part["type"] == "text" else self._call(part["text"])
        ids.append(BYTES.special["<|assistant_end|>"])
        for token in ids if on_token else []:
            on_token(0, token)
        return [Completion(prompts[0], ids)]

    def _call(self, code: str) -> list[int]:
        pieces = [
            "<|python_start|>",
            code,
            "<|python_end|>",
            "<|output_start|>",
            self.tool(code),
            "<|output_end|>",
        ]
        special = BYTES.special
        return [token for piece in pieces for token in ([special[piece]] if piece in special else BYTES.encode(piece))]


def outputs(message) -> list[str]:
    return [part["text"] for part in parts(message) if part["type"] == "output"]


def test_a_turn_is_kept_with_its_calls_and_outputs() -> None:
    engine = ScriptedEngine([text("So "), python("2+2"), text("4.")], [text("bye")])
    agent = Agent(engine)
    message = agent.turn("2+2?")
    assert message["content"] == [text("So "), python("2+2"), output("=2+2"), text("4.")]
    assert agent.messages == [{"role": "user", "content": "2+2?"}, message]
    assert spoken(agent.turn("ciao")) == "bye"
    assert [m["role"] for m in agent.messages] == ["user", "assistant"] * 2
    assert engine.prompts[1] == render_prompt(agent.messages[:3], BYTES)


def test_each_token_is_told_as_it_comes() -> None:
    told: list[int] = []
    Agent(ScriptedEngine([text("yes")])).turn("?", told.append)
    assert told == [*BYTES.encode("yes"), BYTES.special["<|assistant_end|>"]]


def test_the_same_call_made_over_and_over_is_answered_by_an_error() -> None:
    engine = ScriptedEngine([python("1+1")] * (REPEATS + 2) + [python("1+2")])
    results = outputs(Agent(engine).turn("count"))
    assert results[:REPEATS] == ["=1+1"] * REPEATS
    assert all(result.startswith("error: the same call again") for result in results[REPEATS:-1])
    assert results[-1] == "=1+2"
    assert engine.asked == ["1+1"] * REPEATS + ["1+2"]


def test_calls_beyond_the_limit_are_answered_by_an_error() -> None:
    engine = ScriptedEngine([python(str(i)) for i in range(5)])
    results = outputs(Agent(engine, max_steps=3).turn("count"))
    assert results[:3] == ["=0", "=1", "=2"]
    assert all(result.startswith("error: no more than 3 calls") for result in results[3:])
    assert engine.asked == ["0", "1", "2"]


def test_limits_are_those_of_one_turn() -> None:
    engine = ScriptedEngine(*[[python("1")] * 2] * 3)
    agent = Agent(engine, max_steps=2)
    assert [outputs(agent.turn("again")) for _ in range(3)] == [["=1", "=1"]] * 3
    assert engine.tool == engine.ask


def test_the_tool_is_given_back_when_a_turn_fails() -> None:
    engine = ScriptedEngine()
    with pytest.raises(IndexError):
        Agent(engine).turn("no turn is scripted")
    assert engine.tool == engine.ask


def test_bounded_counts_calls_that_the_tool_never_saw() -> None:
    tool = bounded(lambda code: code, 2)
    assert [tool("a"), tool("b")] == ["a", "b"]
    assert tool("c").startswith("error: no more than 2 calls")


# -- a conversation longer than the context ----------------------------------------------------------------


def test_the_oldest_turns_are_left_out_and_the_system_message_stays() -> None:
    engine = ScriptedEngine(*[[text(f"answer {i}")] for i in range(12)], context=120)
    system = {"role": "system", "content": "Be brief."}
    agent = Agent(engine, messages=[system])
    for i in range(12):
        agent.turn(f"question {i}")
        assert agent.messages[0] == system
        assert [m["role"] for m in agent.messages[1:]] == ["user", "assistant"] * (len(agent.messages) // 2)
        assert agent.messages[-2]["content"] == f"question {i}"
        assert len(engine.prompts[-1]) + 120 // 4 <= 120
        assert engine.prompts[-1] == render_prompt(agent.messages[:-1], BYTES)
        assert agent.forgotten + len(agent.messages) == 1 + 2 * (i + 1)
    assert agent.forgotten > 0
    assert len(agent.messages) > 3, "more was left out than needed"


def test_without_a_system_message_the_oldest_turn_goes_whole() -> None:
    engine = ScriptedEngine(*[[text("x" * 20)] for _ in range(8)], context=100)
    agent = Agent(engine)
    for i in range(8):
        agent.turn(f"question {i}")
        assert agent.messages[0]["role"] == "user"
    assert 0 < agent.forgotten < 16 and agent.forgotten % 2 == 0


def test_nothing_is_left_out_while_there_is_room() -> None:
    agent = Agent(ScriptedEngine(*[[text("ok")]] * 3))
    for i in range(3):
        agent.turn(f"question {i}")
    assert (agent.forgotten, len(agent.messages)) == (0, 6)


def test_a_message_longer_than_the_context_is_refused_and_the_conversation_stays_as_it_was() -> None:
    engine = ScriptedEngine([text("ho")], [text("still here")], context=60)
    agent = Agent(engine)
    agent.turn("hi")
    before = list(agent.messages)
    with pytest.raises(UserError, match="context is 60"):
        agent.turn("x" * 60)
    assert agent.messages == before and agent.forgotten == 0
    assert spoken(agent.turn("hello?")) == "still here"


def test_a_message_that_leaves_little_room_is_answered_all_the_same() -> None:
    engine = ScriptedEngine([text("ok")], context=60)
    agent = Agent(engine)
    agent.turn("x" * 55)
    assert len(engine.prompts[0]) == 59
    with pytest.raises(UserError):
        agent.turn("x" * 56)
