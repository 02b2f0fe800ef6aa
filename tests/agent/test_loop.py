import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
from scripted_client import Scripted, calling, said

from lanbot.agent.events import (
    INTERRUPTED,
    Asked,
    Called,
    Calling,
    Ended,
    Event,
    Replied,
    Streamed,
    from_json,
    to_json,
)
from lanbot.agent.limits import Limits
from lanbot.agent.loop import Agent
from lanbot.agent.model import Reply
from lanbot.chat.formats.lanbot import LanBotFormat
from lanbot.chat.messages import Message, Part, output, parts, python, spoken, text
from lanbot.core.errors import UserError
from lanbot.inference.sampling import Sampling
from lanbot.tokenizers.bpe import BPETokenizer
from lanbot.tools.bounded import REPEATS
from lanbot.tools.memory import Memory
from lanbot.tools.python_call import PythonCalls
from lanbot.tools.tool import Toolset
from lanbot.tools.workspace import Workspace

BYTES = LanBotFormat(BPETokenizer.of_bytes(LanBotFormat.special_tokens))


class Noting(PythonCalls):
    """Tools that note what they were asked."""

    def __init__(self, answer: Callable[[str], str] = lambda code: f"={code}") -> None:
        super().__init__()
        self.codes: list[str] = []
        self.answer = answer

    def __call__(self, code: str) -> str:
        self.codes.append(code)
        return self.answer(code)


def outputs(message: Message) -> list[str]:
    return [part["text"] for part in parts(message) if part["type"] == "output"]


# -- turns -----------------------------------------------------------------------------------------------------


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


def test_everything_that_happens_is_an_event_in_order() -> None:
    heard: list[Event] = []
    agent = Agent(Scripted(calling("1+1", words="So", tokens=5, prompt_tokens=9, cost=0.25), said("2.", tokens=2)))
    agent.turn("1+1?", heard.append)
    stored = [event for event in heard if event.stored]
    assert [type(event).__name__ for event in stored] == ["Asked", "Replied", "Calling", "Called", "Replied", "Ended"]
    assert stored == agent.events and [from_json(to_json(event)) for event in stored] == stored
    assert "".join(event.text for event in heard if isinstance(event, Streamed)) == "So1+12."
    assert stored[2:4] == [Calling(1, "1+1"), replace(stored[3], number=1, output="2")]  # type: ignore[type-var]
    first = stored[1]
    assert isinstance(first, Replied)
    assert (first.finished, first.tokens, first.prompt_tokens, first.cost) == ("call", 5, 9, 0.25)


def test_each_piece_is_shown_while_it_is_generated(scripted) -> None:
    heard: list[Event] = []
    Agent(scripted([text("yes")])).turn("?", heard.append)
    assert [event for event in heard if not event.stored] == [Streamed("piece", "text", letter) for letter in "yes"]


def test_a_call_is_announced_before_it_is_run_and_a_listener_that_raises_stops_it() -> None:
    tools = Noting()

    def hear(event: Event) -> None:
        if isinstance(event, Calling):
            raise OSError("the disk is full")

    agent = Agent(Scripted(calling("1"), said("next")), tools)
    with pytest.raises(OSError, match="disk is full"):
        agent.turn("?", hear)
    assert tools.codes == []
    assert agent.turn("again").ended == "answered"


def test_the_error_of_a_call_is_fed_back_and_the_turn_continues(scripted) -> None:
    calls = [python('read_file("nots.txt")'), python('read_file("notes.txt")'), text("It says hi.")]
    agent = Agent(scripted(calls), PythonCalls(Toolset(Workspace({"notes.txt": "hi"}).tools)))
    turn = agent.turn("What do my notes say?")
    assert outputs(turn.message) == ["error: no file nots.txt; did you mean notes.txt?", "hi"]
    assert (spoken(turn.message), turn.ended) == ("It says hi.", "answered")


def test_several_calls_of_one_reply_are_each_run_in_order() -> None:
    tools, model = Noting(), Scripted(calling("a", "b", "c"), said("done"))
    turn = Agent(model, tools).turn("?")
    assert tools.codes == ["a", "b", "c"] and outputs(turn.message) == ["=a", "=b", "=c"]
    assert model.read[1][-1]["content"] == [*map(python, "abc"), *map(output, ["=a", "=b", "=c"])]


def test_nothing_goes_on_after_the_final_answer() -> None:
    tools, model = Noting(), Scripted(Reply([text("Done."), python("1")], "stop", ("1",)), said("never"))
    turn = Agent(model, tools).turn("?")
    assert (turn.ended, len(model.read), tools.codes) == ("answered", 1, [])
    assert model.replies == [said("never")]


def test_each_reply_has_a_seed_of_its_own() -> None:
    model = Scripted(calling("1"), calling("2"), said("a"), said("b"))
    agent = Agent(model, seed=7)
    agent.turn("?")
    agent.turn("?")
    assert len(set(model.seeds)) == 4 and model.seeds[0] == 7


def test_another_model_client_gets_the_tools_and_its_own_calls() -> None:
    model = Scripted(calling("list_files()", words="I look."), said("One file."))
    turn = Agent(model, PythonCalls(Toolset(Workspace({"a.txt": ""}).tools))).turn("Which files?")
    called = [text("I look."), python("list_files()"), output("a.txt")]
    assert turn.message["content"] == [*called, text("One file.")]
    assert model.declared == ["python", *Toolset(Workspace({}).tools)]
    assert model.read == [
        [{"role": "user", "content": "Which files?"}],
        [{"role": "user", "content": "Which files?"}, {"role": "assistant", "content": called}],
    ]


def test_an_output_that_the_model_wrote_itself_is_text_and_never_an_output(scripted) -> None:
    model = scripted([text("I computed "), output("5"), python("2+2"), text("4.")], [text("ok")])
    agent = Agent(model)
    turn = agent.turn("2+2?")
    assert outputs(turn.message) == ["4"] and spoken(turn.message) == "I computed 54."
    agent.turn("thanks")
    assert BYTES.tokenizer.decode(model.engine.prompts[1]).count("<|output_start|>") == 1


# -- limits ----------------------------------------------------------------------------------------------------


def test_the_same_call_for_ever_is_refused_at_the_third_and_then_ends_the_turn() -> None:
    tools = Noting()
    model = Scripted(*[calling("ls()")] * 100)
    turn = Agent(model, tools, Limits(max_steps=50, max_tokens=10_000)).turn("Look.")
    assert tools.codes == ["ls()"] * REPEATS
    assert outputs(turn.message)[REPEATS:] == [
        "error: the same call again; its result is above",
        "error: not run: repeated call",
    ]
    assert (turn.ended, len(model.read)) == ("repeated call", REPEATS + 2)


def test_two_calls_in_turns_for_ever_end_the_turn_too() -> None:
    tools = Noting()
    turn = Agent(Scripted(*[calling("a"), calling("b")] * 50), tools, Limits(max_steps=90, max_tokens=999)).turn("?")
    assert tools.codes == ["a", "b"] * REPEATS
    assert outputs(turn.message)[-2] == "error: the same calls again; their results are above"
    assert turn.ended == "repeated call"


def test_after_another_call_a_call_may_be_repeated() -> None:
    tools = Noting()
    turn = Agent(Scripted(*map(calling, ["a", "a", "a", "b", "a", "a"])), tools, Limits(max_steps=20)).turn("?")
    assert tools.codes == ["a", "a", "b", "a", "a"] and turn.ended == "answered"


def test_thousands_of_calls_in_one_reply_are_bounded_and_do_not_fill_the_context() -> None:
    tools, model = Noting(), Scripted(calling(*[f"x{i}" for i in range(2_500)]), said("sorry"), context=4_000)
    agent = Agent(model, tools, Limits(max_steps=8, max_tokens=10_000))
    turn = agent.turn("?")
    assert tools.codes == [f"x{i}" for i in range(8)]
    assert turn.ended == "step limit"
    assert "2,490 more calls cut" in spoken(turn.message)
    made = [part["type"] for part in parts(turn.message)]
    assert made.count("python") == made.count("output") == 10, "each call that is kept has a result"
    assert agent.turn("And now?").ended == "answered"


def test_a_call_beyond_the_limit_is_answered_by_an_error_and_the_next_ends_the_turn(scripted) -> None:
    tools = Noting()
    turn = Agent(scripted([python(str(i)) for i in range(9)]), tools, Limits(max_steps=3)).turn("count")
    results = outputs(turn.message)
    assert results[:3] == ["=0", "=1", "=2"]
    assert results[3:] == ["error: no more than 3 calls; answer now", "error: not run: step limit"]
    assert tools.codes == ["0", "1", "2"]
    assert turn.ended == "step limit"


def test_an_answer_after_the_warning_about_the_limit_counts(scripted) -> None:
    turn = Agent(scripted([python("1"), python("2"), text("So be it.")]), limits=Limits(max_steps=1)).turn("count")
    assert (spoken(turn.message), turn.ended) == ("So be it.", "answered")


def test_limits_are_those_of_one_turn(scripted) -> None:
    agent = Agent(scripted(*[[python("1")] * 2] * 3), Noting(), Limits(max_steps=2))
    assert [outputs(agent.turn("again").message) for _ in range(3)] == [["=1", "=1"]] * 3


def test_the_token_limit_ends_a_turn(scripted) -> None:
    turn = Agent(scripted([text("x" * 30)]), limits=Limits(max_tokens=20)).turn("?")
    assert (spoken(turn.message), turn.ended) == ("x" * 20, "token limit")


def test_tokens_are_those_that_the_model_wrote_in_all_its_replies() -> None:
    model = Scripted(calling("'a ' * 90", tokens=30), calling("2", tokens=60), calling("3", tokens=10), said("never"))
    turn = Agent(model, limits=Limits(max_tokens=100)).turn("?")
    assert model.most == [100, 70, 10] and turn.ended == "token limit"
    assert len(outputs(turn.message)) == 3


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_time_limit_ends_a_turn_between_calls_and_while_the_model_writes() -> None:
    clock = Clock()

    def slow(code: str) -> str:
        clock.now += 4
        return code

    agent = Agent(Scripted(*[calling(str(i)) for i in range(9)]), Noting(slow), Limits(max_seconds=10), clock=clock)
    turn = agent.turn("?")
    assert (turn.ended, len(outputs(turn.message))) == ("time limit", 3)

    def hear(event: Event) -> None:
        clock.now += 3 * isinstance(event, Streamed)

    agent = Agent(Scripted(said("one two three four five six")), limits=Limits(max_seconds=10), clock=clock)
    turn = agent.turn("?", hear)
    assert turn.ended == "time limit" and spoken(turn.message) == "one two three four \n[time limit]"


def test_seconds_that_are_nobodys_do_not_count() -> None:
    clock = Clock()

    def slow(code: str) -> str:
        clock.now += 30
        agent.not_counted(29)
        return code

    agent = Agent(Scripted(calling("1"), said("ok")), Noting(slow), Limits(max_seconds=10), clock=clock)
    assert agent.turn("?").ended == "answered"
    (called,) = (event for event in agent.events if isinstance(event, Called))
    assert called.seconds == 1


def test_the_cost_limit_ends_a_turn() -> None:
    model = Scripted(*[calling(str(i), cost=0.4) for i in range(9)])
    turn = Agent(model, limits=Limits(max_cost=1.0)).turn("?")
    assert (turn.ended, len(model.read)) == ("cost limit", 3)


# -- what the model writes ---------------------------------------------------------------------------------------


def test_a_model_that_leaves_a_call_open_is_warned_once_and_may_correct_it(scripted) -> None:
    begun: Part = {**python("2+"), "open": True}
    turn = Agent(scripted([begun, python("2+2"), text("4.")])).turn("2+2?")
    assert outputs(turn.message) == ["error: the call was not closed; write it again", "4"]
    assert (spoken(turn.message), turn.ended) == ("4.", "answered")
    assert Agent(scripted([begun, begun])).turn("2+2?").ended == "unfinished call"


def test_a_call_that_cannot_be_read_is_repaired_once_and_never_run() -> None:
    tools, wrong = Noting(), '{"name": "read_file", "arguments": {'
    turn = Agent(Scripted(calling(wrong, unread=[wrong]), calling("1"), said("ok")), tools).turn("?")
    assert (tools.codes, turn.ended) == (["1"], "answered")
    assert outputs(turn.message) == ["error: the call cannot be read; write it again", "=1"]
    model = Scripted(*[calling(wrong, unread=[wrong])] * 9)
    assert (Agent(model).turn("?").ended, len(model.read)) == ("unreadable call", 2)


def test_a_call_cut_by_the_output_limit_is_reported_as_the_limit_and_not_as_unparseable(scripted) -> None:
    turn = Agent(scripted([python("write_file('a.txt', 'x')")]), limits=Limits(max_tokens=12)).turn("?")
    assert turn.ended == "token limit" and outputs(turn.message) == []
    agent = Agent(Scripted(said("word " * 60, "length", tokens=60), context=100), limits=Limits(max_tokens=9_000))
    assert agent.turn("?").ended == "context limit"


# -- interruption ------------------------------------------------------------------------------------------------


def test_interrupted_while_it_writes_the_text_is_kept_and_the_next_turn_works() -> None:
    model = Scripted(said("one two three four"), said("fine"))
    agent = Agent(model)

    def hear(event: Event) -> None:
        if isinstance(event, Streamed) and event.text == "two ":
            agent.interrupt()

    turn = agent.turn("Count.", hear)
    assert (turn.ended, spoken(turn.message)) == ("interruption", "one two \n[interruption]")
    assert model.closed == 1, "the model was stopped"
    assert agent.turn("Go on.").ended == "answered"
    assert model.read[1][1] == {"role": "assistant", "content": [text("one two \n[interruption]")]}


@pytest.mark.parametrize("when", ["while it writes", "in a call"])
def test_ctrl_c_leaves_a_conversation_that_goes_on(when: str) -> None:
    def interrupted(code: str) -> str:
        raise KeyboardInterrupt

    broken = calling("work()") if when == "in a call" else KeyboardInterrupt()
    model = Scripted(broken, said("fine"))
    heard: list[Event] = []
    agent = Agent(model, Noting(interrupted))
    with pytest.raises(KeyboardInterrupt):
        agent.turn("Work.", heard.append)
    assert [event for event in heard if event.stored] == agent.events and agent.events[-1] == Ended("interruption")
    said_last = parts(agent.messages[-1])[-1]
    assert said_last == (output(INTERRUPTED) if when == "in a call" else text("[interruption]"))
    assert spoken(agent.turn("And?").message) == "fine"
    assert [message["role"] for message in model.read[-1]] == ["user", "assistant", "user"]


def test_a_hanging_tool_is_interrupted_from_another_thread() -> None:
    started, done = threading.Event(), threading.Event()

    def hang() -> str:
        started.set()
        done.wait(30)
        return "late"

    agent = Agent(Scripted(calling("hang()"), said("fine")), PythonCalls(Toolset([hang])))
    turns = []
    worker = threading.Thread(target=lambda: turns.append(agent.turn("Hang.")))
    worker.start()
    assert started.wait(30)
    agent.interrupt()
    worker.join(30)
    done.set()
    assert turns[0].ended == "interruption" and outputs(turns[0].message) == [INTERRUPTED]
    assert agent.turn("And?").ended == "answered"


def test_an_interruption_just_before_a_call_is_run_is_not_missed() -> None:
    made: list[str] = []

    def note(text: str) -> str:
        made.append(text)
        return text

    def hear(event: Event) -> None:
        if isinstance(event, Calling):
            agent.interrupt()

    tools = PythonCalls(Toolset([note]))
    agent = Agent(Scripted(calling("note('a')"), calling("note('b')"), said("ok")), tools)
    turn = agent.turn("?", hear)
    assert (turn.ended, outputs(turn.message), made) == ("interruption", [INTERRUPTED], [])
    assert agent.turn("And now?").ended == "answered" and made == ["b"]


def test_an_error_of_the_model_ends_the_turn_and_the_next_one_works() -> None:
    agent = Agent(Scripted(UserError("the server is away", "Wait."), said("back")))
    with pytest.raises(UserError, match="away"):
        agent.turn("Hello?")
    assert agent.events[-1] == Ended("failure")
    assert agent.turn("Hello?").ended == "answered"


# -- resuming ----------------------------------------------------------------------------------------------------


def cut(events: list[Event]) -> list[list[Event]]:
    return [events[:n] for n in range(1, len(events))]


def test_a_turn_cut_off_anywhere_goes_on_and_no_call_is_run_twice() -> None:
    script = calling("a", "b"), calling("c"), said("done")
    whole = Agent(Scripted(*script), Noting())
    whole.turn("?")
    for events in cut(whole.events):
        stored = [from_json(to_json(event)) for event in events]
        begun = [event.code for event in stored if isinstance(event, Calling)]
        replied = sum(isinstance(event, Replied) for event in stored)
        tools = Noting()
        agent = Agent(Scripted(*script[replied:]), tools, events=stored)
        turn = agent.go_on()
        assert turn.ended == "answered" and spoken(turn.message) == "done"
        assert [*begun, *tools.codes] == ["a", "b", "c"]
        lost = len(begun) - sum(isinstance(event, Called) for event in events)
        assert outputs(turn.message).count(INTERRUPTED) == lost
        assert len(outputs(turn.message)) == 3
        with pytest.raises(ValueError, match="no turn was cut off"):
            agent.go_on()


def test_a_new_request_after_a_crash_closes_what_was_left_open() -> None:
    whole = Agent(Scripted(calling("a", "b"), said("done")), Noting())
    whole.turn("?")
    for events in cut(whole.events):
        tools, model = Noting(), Scripted(said("new"))
        agent = Agent(model, tools, events=list(events))
        assert spoken(agent.turn("Something else.").message) == "new" and tools.codes == []
        assert [message["role"] for message in model.read[0]] == ["user", "assistant", "user"]
        made = [part["type"] for part in parts(model.read[0][1])]
        assert made.count("python") == made.count("output"), "no call is left without a result"


def test_limits_count_what_was_used_before_the_crash() -> None:
    stored: list[Event] = [Asked("?"), Replied([python("a")], "call", tokens=90), Calling(1, "a"), Called(1, "x")]
    agent = Agent(Scripted(calling("b", tokens=10)), Noting(), Limits(max_tokens=100), events=stored)
    assert agent.go_on().ended == "token limit"


# -- conversations -----------------------------------------------------------------------------------------------


def test_files_and_memory_outlive_a_conversation(scripted) -> None:
    model = scripted(
        [python('remember("my cat is Tom")'), python('write_file("a.txt", "hi")'), text("Done.")],
        [python('recall("what is my cat called?")'), python("list_files()"), text("Tom.")],
    )
    agent = Agent(model, PythonCalls(Toolset([*Workspace({}).tools, *Memory().tools])), system="Be brief.")
    agent.turn("Remember my cat.")
    agent.new()
    system = {"role": "system", "content": "Be brief."}
    assert (agent.messages, agent.events) == ([system], [])
    turn = agent.turn("What is my cat called?")
    assert outputs(turn.message) == ["1: my cat is Tom", "a.txt"]
    assert model.engine.prompts[1] == BYTES.prompt([system, {"role": "user", "content": turn.request}])


def test_a_conversation_without_a_request_has_no_turns_and_nothing_to_shorten() -> None:
    for system in ("", "Be brief."):
        agent = Agent(Scripted(), system=system)
        assert (agent.transcript(), agent.compact()) == ("", "")


def test_a_transcript_has_all_messages_and_calls(scripted) -> None:
    agent = Agent(
        scripted(
            [text("I look."), python("list_files()"), python('len("""a\nb""")'), text(" Two files.\n")],
            [python("1"), python("2"), python("3")],
        ),
        PythonCalls(Toolset(Workspace({"a.txt": "", "b.txt": ""}).tools)),
    )
    agent.turn("Which files?")
    agent.limits = Limits(max_steps=1)
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
    error: not run: step limit

(ended by the step limit)
"""
    )


def test_an_error_of_the_engine_is_raised_while_it_streams(scripted) -> None:
    model = scripted([text("hi")])
    model.engine.generate = lambda *given, **named: 1 / 0
    with pytest.raises(ZeroDivisionError):
        Agent(model).turn("?", lambda event: None)


def test_a_stream_that_is_closed_stops_generating(scripted) -> None:
    model = scripted([text("a long answer " * 20)])
    events = model.stream([{"role": "user", "content": "?"}], Sampling(500))
    assert next(events).text == "a"
    events.close()
