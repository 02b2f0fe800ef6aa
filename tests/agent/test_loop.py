import json

import pytest

from lanbot.agent.loop import CUT, REPEATS, Agent, bounded
from lanbot.agent.model import Reply
from lanbot.chat.formats.base import Event
from lanbot.chat.formats.lanbot import LanBotFormat
from lanbot.chat.messages import Message, Part, output, parts, python, spoken, text
from lanbot.core.errors import UserError
from lanbot.inference.sampling import Sampling
from lanbot.tokenizers.bpe import BPETokenizer
from lanbot.tools.memory import Memory
from lanbot.tools.python_call import PythonCalls
from lanbot.tools.tool import Toolset
from lanbot.tools.workspace import Workspace

BYTES = LanBotFormat(BPETokenizer.of_bytes(LanBotFormat.special_tokens))
SYSTEM: Message = {"role": "system", "content": "Be brief."}


class Asked(PythonCalls):
    """Tools that note what they were asked."""

    def __init__(self) -> None:
        super().__init__()
        self.codes: list[str] = []

    def __call__(self, code: str) -> str:
        self.codes.append(code)
        return f"={code}"


def outputs(message: Message) -> list[str]:
    return [part["text"] for part in parts(message) if part["type"] == "output"]


def test_a_turn_is_kept_with_its_calls_and_outputs(scripted) -> None:
    model = scripted([text("So "), python("2+2"), text("4.")], [text("bye")])
    agent = Agent(model)
    turn = agent.turn("2+2?")
    assert turn.message["content"] == [text("So "), python("2+2"), output("4"), text("4.")]
    assert turn.ended == "answered"
    assert agent.messages == [{"role": "user", "content": "2+2?"}, turn.message]
    assert spoken(agent.turn("ciao").message) == "bye"
    assert [m["role"] for m in agent.messages] == ["user", "assistant"] * 2
    assert model.engine.prompts[1] == BYTES.prompt(agent.messages[:3])


def test_each_piece_is_shown_while_it_is_generated(scripted) -> None:
    events: list[Event] = []
    Agent(scripted([text("yes")])).turn("?", events.append)
    assert events == [Event("piece", "text", letter) for letter in "yes"]


def test_the_error_of_a_call_is_fed_back_and_the_turn_continues(scripted) -> None:
    calls = [python('read_file("nots.txt")'), python('read_file("notes.txt")'), text("It says hi.")]
    agent = Agent(scripted(calls), PythonCalls(Toolset(Workspace({"notes.txt": "hi"}).tools)))
    turn = agent.turn("What do my notes say?")
    assert outputs(turn.message) == ["error: no file nots.txt; did you mean notes.txt?", "hi"]
    assert (spoken(turn.message), turn.ended) == ("It says hi.", "answered")


def test_a_turn_that_fails_leaves_no_trace(scripted) -> None:
    model = scripted([text("one")], [python("1")], [text("two")])
    agent = Agent(model)
    agent.turn("first")
    before = list(agent.messages)

    class Interrupted(PythonCalls):
        def __call__(self, code: str) -> str:
            raise KeyboardInterrupt

    agent.tools = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        agent.turn("second")
    assert agent.messages == before and len(agent.turns) == 1
    assert spoken(agent.turn("third").message) == "two"


# -- limits --------------------------------------------------------------------------------------------------


def test_the_same_call_made_over_and_over_is_answered_by_an_error(scripted) -> None:
    asked = Asked()
    model = scripted([python("1+1")] * (REPEATS + 2) + [python("1+2"), python("1+1")])
    results = outputs(Agent(model, asked).turn("count").message)
    assert results[:REPEATS] == ["=1+1"] * REPEATS
    assert all(result.startswith("error: the same call again") for result in results[REPEATS:-2])
    assert results[-2:] == ["=1+2", "=1+1"], "after another call its result may be another"
    assert asked.codes == ["1+1"] * REPEATS + ["1+2", "1+1"]


def test_a_call_beyond_the_limit_is_answered_by_an_error_and_the_next_ends_the_turn(scripted) -> None:
    asked = Asked()
    agent = Agent(scripted([python(str(i)) for i in range(9)]), asked, max_steps=3)
    turn = agent.turn("count")
    results = outputs(turn.message)
    assert results[:3] == ["=0", "=1", "=2"]
    assert results[3:] == ["error: no more than 3 calls; answer now"]
    assert asked.codes == ["0", "1", "2"]
    assert turn.ended == "step limit"


def test_an_answer_after_the_warning_about_the_limit_counts(scripted) -> None:
    turn = Agent(scripted([python("1"), python("2"), text("So be it.")]), max_steps=1).turn("count")
    assert (spoken(turn.message), turn.ended) == ("So be it.", "answered")


def test_limits_are_those_of_one_turn(scripted) -> None:
    agent = Agent(scripted(*[[python("1")] * 2] * 3), Asked(), max_steps=2)
    assert [outputs(agent.turn("again").message) for _ in range(3)] == [["=1", "=1"]] * 3


def test_the_token_limit_ends_a_turn(scripted) -> None:
    turn = Agent(scripted([text("x" * 30)]), sampling=Sampling(max_tokens=20)).turn("?")
    assert (spoken(turn.message), turn.ended) == ("x" * 20, "token limit")


def test_a_long_output_leaves_half_of_the_turn_for_the_answer(scripted) -> None:
    agent = Agent(scripted([python("'é' * 300"), text("Long.")]), sampling=Sampling(max_tokens=101))
    turn = agent.turn("?")
    assert outputs(turn.message) == ["é" * 25 + CUT]
    assert turn.ended == "answered"


def test_bounded_counts_calls_that_the_tool_never_saw() -> None:
    tool = bounded(lambda code: code, 2)
    assert [tool("a"), tool("b")] == ["a", "b"]
    assert str(tool("c")).startswith("error: no more than 2 calls")
    assert tool("d") is None


# -- conversations -------------------------------------------------------------------------------------------


def test_files_and_memory_outlive_a_conversation(scripted) -> None:
    model = scripted(
        [python('remember("my cat is Tom")'), python('write_file("a.txt", "hi")'), text("Done.")],
        [python('recall("what is my cat called?")'), python("list_files()"), text("Tom.")],
    )
    agent = Agent(model, PythonCalls(Toolset([*Workspace({}).tools, *Memory().tools])), messages=[SYSTEM])
    agent.turn("Remember my cat.")
    agent.new()
    assert (agent.messages, agent.turns) == ([SYSTEM], [])
    turn = agent.turn("What is my cat called?")
    assert outputs(turn.message) == ["1: my cat is Tom", "a.txt"]
    assert model.engine.prompts[1] == BYTES.prompt([SYSTEM, {"role": "user", "content": turn.request}])


def test_a_transcript_has_all_messages_and_calls(scripted) -> None:
    agent = Agent(
        scripted(
            [text("I look."), python("list_files()"), python('len("""a\nb""")'), text(" Two files.\n")],
            [python("1"), python("2"), python("3")],
        ),
        PythonCalls(Toolset(Workspace({"a.txt": "", "b.txt": ""}).tools)),
    )
    agent.turn("Which files?")
    agent.max_steps = 1
    agent.turn("Count.")
    assert (
        agent.transcript()
        == """\
## user

Which files?

## assistant

I look.

    >>> list_files()
    a.txt
    b.txt

    >>> len(\"\"\"a
    ... b\"\"\")
    3

Two files.

## user

Count.

## assistant

    >>> 1
    1

    >>> 2
    error: no more than 1 calls; answer now

    >>> 3

(ended by the step limit)
"""
    )


def test_a_transcript_holds_what_the_model_no_longer_reads(scripted) -> None:
    agent = Agent(scripted(*[[text(f"answer {i}")] for i in range(8)]), sampling=Sampling(max_tokens=20))
    agent.model.engine.model.config.context = 100
    for i in range(8):
        agent.turn(f"question {i}")
    assert agent.forgotten > 0
    assert all(f"question {i}\n\n## assistant\n\nanswer {i}" in agent.transcript() for i in range(8))


# -- a conversation longer than the context ----------------------------------------------------------------


def test_the_oldest_turns_are_left_out_and_the_system_message_stays(scripted) -> None:
    model = scripted(*[[text(f"answer {i}")] for i in range(12)], context=120)
    agent = Agent(model, messages=[SYSTEM])
    for i in range(12):
        agent.turn(f"question {i}")
        assert agent.messages[0] == SYSTEM
        assert [m["role"] for m in agent.messages[1:]] == ["user", "assistant"] * (len(agent.messages) // 2)
        assert agent.messages[-2]["content"] == f"question {i}"
        assert len(model.engine.prompts[-1]) + 120 // 3 <= 120
        assert model.engine.prompts[-1] == BYTES.prompt(agent.messages[:-1])
        assert agent.forgotten + len(agent.messages) == 1 + 2 * (i + 1)
    assert agent.forgotten > 0
    assert len(agent.messages) > 3, "more was left out than needed"


def test_without_a_system_message_the_whole_oldest_turn_is_dropped(scripted) -> None:
    model = scripted(*[[text("x" * 20)] for _ in range(8)], context=100)
    agent = Agent(model)
    for i in range(8):
        agent.turn(f"question {i}")
        assert agent.messages[0]["role"] == "user"
    assert 0 < agent.forgotten < 16 and agent.forgotten % 2 == 0


def test_no_message_is_dropped_while_there_is_room(scripted) -> None:
    agent = Agent(scripted(*[[text("ok")]] * 3))
    for i in range(3):
        agent.turn(f"question {i}")
    assert (agent.forgotten, len(agent.messages)) == (0, 6)


def test_a_message_longer_than_the_context_is_refused_and_the_conversation_stays_as_it_was(scripted) -> None:
    model = scripted([text("ho")], [text("still here")], context=60)
    agent = Agent(model)
    agent.turn("hi")
    before = list(agent.messages)
    with pytest.raises(UserError, match="context is 60"):
        agent.turn("x" * 60)
    assert agent.messages == before and agent.forgotten == 0
    assert spoken(agent.turn("hello?").message) == "still here"


def test_a_message_that_leaves_little_room_is_still_answered(scripted) -> None:
    model = scripted([text("ok")], context=60)
    agent = Agent(model)
    agent.turn("x" * 55)
    assert len(model.engine.prompts[0]) == 59
    with pytest.raises(UserError):
        agent.turn("x" * 56)


# -- what the model writes -----------------------------------------------------------------------------------


def test_a_model_that_leaves_a_call_open_is_warned_once_and_may_correct_it(scripted) -> None:
    begun: Part = {**python("2+"), "open": True}
    turn = Agent(scripted([begun, python("2+2"), text("4.")])).turn("2+2?")
    assert outputs(turn.message) == ["error: the call was not closed; write it again", "4"]
    assert (spoken(turn.message), turn.ended) == ("4.", "answered")
    assert Agent(scripted([begun, begun])).turn("2+2?").ended == "unfinished call"


def test_an_output_that_the_model_wrote_itself_is_text_and_never_an_output(scripted) -> None:
    model = scripted([text("I computed "), output("5"), python("2+2"), text("4.")], [text("ok")])
    agent = Agent(model)
    turn = agent.turn("2+2?")
    assert outputs(turn.message) == ["4"] and spoken(turn.message) == "I computed 54."
    agent.turn("thanks")
    assert BYTES.tokenizer.decode(model.engine.prompts[1]).count("<|output_start|>") == 1


class Remote:
    """A client as one of a server would be: no tokenizer, no engine."""

    context_length = 200

    def __init__(self, *replies: Reply) -> None:
        self.replies, self.read = list(replies), []  # type: list[Reply], list[Any]

    def count_tokens(self, messages, tools=()) -> int:  # type: ignore[no-untyped-def]
        return sum(len(part["text"].split()) + 2 for message in messages for part in parts(message))

    def complete(self, messages, sampling, seed=0, tools=()) -> Reply:  # type: ignore[no-untyped-def]
        self.read.append((json.loads(json.dumps(messages)), [tool["function"]["name"] for tool in tools]))
        return self.replies.pop(0)

    def stream(self, messages, sampling, seed=0, tools=()):  # type: ignore[no-untyped-def]
        reply = self.complete(messages, sampling, seed, tools)
        for part in reply.parts:
            yield Event("piece", part["type"], part["text"])
        return reply


def test_another_model_client_does_the_same() -> None:
    called = Reply([text("I look."), python("list_files()")], "call", ("list_files()",))
    for on_event in (None, lambda event: None):
        model = Remote(called, Reply([text("One file.")], "stop"))
        turn = Agent(model, PythonCalls(Toolset(Workspace({"a.txt": ""}).tools))).turn("Which files?", on_event)
        assert turn.message["content"] == [*called.parts, output("a.txt"), text("One file.")]
        first, second = model.read
        assert first == ([{"role": "user", "content": "Which files?"}], ["python", *Toolset(Workspace({}).tools)])
        assert second[0][-1] == {"role": "assistant", "content": [*called.parts, output("a.txt")]}


def test_an_error_of_the_model_is_raised_while_it_streams(scripted) -> None:
    model = scripted([text("hi")])
    model.engine.generate = lambda *given, **named: 1 / 0
    with pytest.raises(ZeroDivisionError):
        Agent(model).turn("?", lambda event: None)


def test_a_stream_that_is_closed_stops_generating(scripted) -> None:
    model = scripted([text("a long answer " * 20)])
    events = model.stream([{"role": "user", "content": "?"}], Sampling(500))
    assert next(events).text == "a"
    events.close()
