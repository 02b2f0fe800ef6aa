import random
from itertools import pairwise

import pytest
from scripted_client import Scripted, calling, said

from lanbot.agent.context import SUM_UP, Context
from lanbot.agent.events import Compacted, Ended, Event, reading
from lanbot.agent.limits import Limits
from lanbot.agent.loop import Agent
from lanbot.agent.model import Reply
from lanbot.chat.messages import Message, output, parts, python, spoken, text
from lanbot.core.errors import UserError
from lanbot.tools.python_call import PythonCalls
from lanbot.tools.tool import Toolset

SYSTEM: Message = {"role": "system", "content": "Be brief and kind."}


def look(n: int, size: int) -> str:
    """Returns that many words."""
    return " ".join(f"w{n}-{i}" for i in range(size))


LOOK = PythonCalls(Toolset([look]))


def compactions(agent: Agent) -> list[Compacted]:
    return [event for event in agent.events if isinstance(event, Compacted)]


def outputs(messages: list[Message]) -> list[str]:
    return [part["text"] for message in messages for part in parts(message) if part["type"] == "output"]


# -- the budget --------------------------------------------------------------------------------------------------


def test_what_takes_how_much_of_the_context_is_shown() -> None:
    agent = Agent(Scripted(said("one two three")), LOOK, Limits(max_tokens=100), system="Be brief and kind.")
    empty = agent.context_use()
    assert (empty.system, empty.tools, empty.messages, empty.answer, empty.context) == (6, 6, 0, 100, 1_000)
    agent.turn("a question")
    use = agent.context_use()
    assert (use.messages, use.free) == (4 + 5, 1_000 - 6 - 6 - 9 - 100)


def test_a_request_longer_than_the_context_is_refused_in_two_lines_and_nothing_has_happened() -> None:
    agent = Agent(Scripted(said("ho"), said("still here"), context=60), system="Be brief.")
    agent.turn("hi")
    before = list(agent.events)
    with pytest.raises(UserError, match="context is 60") as refused:
        agent.turn("x " * 60)
    assert len(str(refused.value).split("\n")) == 2
    assert agent.events == before
    assert spoken(agent.turn("hello?").message) == "still here"


def test_a_request_that_leaves_little_room_is_still_answered(scripted) -> None:
    model = scripted([text("ok")], context=60)
    agent = Agent(model)
    agent.turn("x" * 55)
    assert len(model.engine.prompts[0]) == 59
    with pytest.raises(UserError):
        agent.turn("x" * 56)


# -- compaction --------------------------------------------------------------------------------------------------


def test_nothing_is_compacted_while_there_is_room() -> None:
    agent = Agent(Scripted(*[said("ok")] * 20), system="Be brief.")
    for i in range(20):
        agent.turn(f"question {i}")
    assert compactions(agent) == [] and len(agent.messages) == 41


def test_old_outputs_are_shortened_first_and_the_oldest_of_them_first() -> None:
    heard: list[Event] = []
    replies = [reply for i in range(4) for reply in (calling(f"look({i}, 100)"), said(f"seen {i}"))]
    agent = Agent(Scripted(*replies, context=700), LOOK, Limits(max_tokens=230), system="Be brief and kind.")
    for i in range(5):
        agent.turn(f"look at number {i} for me", heard.append)
    (made,) = compactions(agent)
    assert made in heard
    assert made.how == "shortened: 1 old outputs" and made.after <= 470 < made.before
    first, second, third, last = outputs(agent.messages)
    assert first.startswith("w0-0 w0-1 ") and first.endswith("w0-99") and "characters cut" in first
    assert [len(text.split()) for text in (second, third, last)] == [100] * 3
    assert agent.messages[0] == {**SYSTEM, "content": "Be brief and kind."}
    assert "w0-50" in agent.transcript(), "the whole conversation is kept for the user"


def test_then_older_turns_are_summed_up_by_the_model_itself() -> None:
    long = "word " * 300
    asked: list[list[Message]] = []

    class Model(Scripted):
        def stream(self, messages, *rest):  # type: ignore[no-untyped-def]
            if messages[-1]["content"] == SUM_UP:
                asked.append(list(messages))
                self.replies.insert(0, said("The user is Ada; we spoke of words."))
            return (yield from super().stream(messages, *rest))

    agent = Agent(Model(*[said("ok")] * 11, context=3_000), limits=Limits(max_tokens=200), system="Be brief.")
    for i in range(11):
        agent.turn(f"{i} {long}")
    (made,) = compactions(agent)
    assert made.how.endswith("older turns summed up (by the model)")
    system, question, summary, *rest = agent.messages
    assert (system["role"], question["content"]) == ("system", SUM_UP)
    assert spoken(summary) == "The user is Ada; we spoke of words."
    assert 2 < len(rest) < 22 and rest[-2]["content"] == f"10 {long}", "the latest turns stay as they are"
    assert asked[0][0] == system and str(asked[0][1]["content"]).startswith("0 word")
    assert [message["role"] for message in agent.messages[1:]] == ["user", "assistant"] * (len(agent.messages) // 2)


@pytest.mark.parametrize(
    "answer",
    [
        said("   "),
        said("long " * 2_900),
        said("and on and on", "length"),
        Reply([python("recall('x')")], "call", ("recall('x')",)),
    ],
    ids=["empty", "as long as what it replaces", "endless", "a call"],
)
def test_a_summary_that_is_none_is_replaced_by_a_list_of_requests_and_answers(answer: Reply) -> None:
    class Model(Scripted):
        def stream(self, messages, *rest):  # type: ignore[no-untyped-def]
            if messages[-1]["content"] == SUM_UP:
                self.replies.insert(0, answer)
            return (yield from super().stream(messages, *rest))

    long = "word " * 300
    agent = Agent(Model(*[said("Done.\nIn detail: ...")] * 11, context=3_000), limits=Limits(max_tokens=200))
    for i in range(11):
        agent.turn(f"Do number {i}. {long}")
    summary = spoken(agent.messages[1])
    assert compactions(agent)[0].how.endswith("summed up (as a list)")
    assert summary.startswith("user: Do number 0. word word") and "assistant: Done.\nuser: Do number 1." in summary
    assert "In detail" not in summary


def test_a_model_with_a_short_context_is_not_asked_for_a_summary() -> None:
    model = Scripted(*[said("fine " * 10)] * 12, context=300)
    agent = Agent(model, limits=Limits(max_tokens=50), system="Be brief.")
    for i in range(12):
        agent.turn(f"question {i} " + "word " * 20)
    assert compactions(agent) and all(read[-1]["content"] != SUM_UP for read in model.read)
    assert "user: question 0 word" in spoken(agent.messages[2])


def test_without_room_for_a_summary_the_oldest_turns_are_left_out_and_that_is_said(scripted) -> None:
    model = scripted(*[[text(f"answer {i}")] for i in range(12)], context=100)
    agent = Agent(model, system="Be brief.")
    for i in range(12):
        agent.turn(f"question {i}")
        assert agent.messages[0] == {"role": "system", "content": "Be brief."}
        assert agent.messages[-2]["content"] == f"question {i}"
        assert [m["role"] for m in agent.messages[1:]] == ["user", "assistant"] * (len(agent.messages) // 2)
    assert "left out: no room for a summary" in compactions(agent)[0].how
    assert all(f"question {i}\n\n## assistant\n\nanswer {i}" in agent.transcript() for i in range(12))


def test_an_output_just_before_the_context_is_full_is_shortened_before_it_is_read() -> None:
    filler = "word " * 150
    agent = Agent(Scripted(said("ok"), calling("look(1, 900)"), said("seen"), context=400), LOOK)
    agent.turn(filler)
    turn = agent.turn("Look.")
    (seen,) = outputs([turn.message])
    assert turn.ended == "answered" and "characters cut" in seen and 20 < len(seen.split()) < 130


def test_a_degenerate_reply_of_65_000_tokens_does_not_poison_later_turns() -> None:
    model = Scripted(said("the cat " * 32_500, "length", tokens=65_000), said("fine"), said("fine"), context=128_000)
    agent = Agent(model, limits=Limits(max_tokens=65_000))
    assert agent.turn("Tell me.").ended == "token limit"
    assert compactions(agent)[0].how == "a reply that a limit ended was shortened"
    assert agent.turn("And?").ended == agent.turn("And?").ended == "answered"
    assert all(model.count_tokens(read) < 20_000 for read in model.read[1:])
    assert "characters cut" in spoken(model.read[1][1])
    assert len(spoken(agent.messages[1])) < len(agent.transcript()) // 4, "the user can still read all of it"


def test_compaction_in_the_middle_of_a_turn_leaves_the_turn_whole() -> None:
    replies = [calling(f"look({i}, 60)", tokens=4) for i in range(12)]
    model = Scripted(*replies, said("all seen"), context=400)
    agent = Agent(model, LOOK, Limits(max_steps=20, max_tokens=100), system="Be brief.")
    turn = agent.turn("Look at all.")
    assert turn.ended == "answered" and compactions(agent)
    assert [part["text"] for part in parts(turn.message) if part["type"] == "python"] == [
        f"look({i}, 60)" for i in range(12)
    ]
    assert outputs([turn.message])[0] == look(0, 60), "the turn has the whole outputs"
    for read in model.read:
        assert read[0]["content"] == "Be brief." and read[1]["content"] == "Look at all."
    assert reading(agent.events, "Be brief.").messages == agent.messages, "a resumed session reads the same"


def test_the_system_message_is_not_part_of_what_was_compacted() -> None:
    agent = Agent(Scripted(*[said("word " * 50)] * 9, context=300), limits=Limits(max_tokens=60), system="Old.")
    for _ in range(9):
        agent.turn("word " * 30)
    resumed = reading(agent.events, "New.")
    assert [m["content"] for m in resumed.messages if m["role"] == "system"] == ["New."]


@pytest.mark.parametrize("seed", range(40))
def test_the_context_is_never_exceeded_and_system_message_and_request_are_never_lost(seed: int) -> None:
    """Random conversations: the scripted model refuses to read more than its context."""
    draw = random.Random(seed)
    context = draw.choice([60, 100, 250, 700, 3_000])

    def reply() -> Reply:
        words, kind = "word " * int(draw.expovariate(1 / 60)), draw.random()
        if kind < 0.5:
            return calling(
                *[f"look({draw.randrange(99)}, {draw.randrange(400)})" for _ in range(draw.choice([1, 1, 4]))]
            )
        return said(words or "ok", draw.choice(["stop", "stop", "length"]))

    model = Scripted(*[reply() for _ in range(200)], context=context)
    limits = Limits(max_steps=draw.randrange(1, 12), max_tokens=draw.choice([10, 100, 2_000]))
    agent = Agent(model, LOOK, limits, system="Be brief and kind.")
    for i in range(25):
        request, asked = f"request {i} " + "word " * draw.randrange(context // 3), len(model.read)
        try:
            agent.turn(request)
        except UserError:
            continue
        assert isinstance(agent.events[-1], Ended)
        for read in model.read[asked:]:
            assert read[0] == SYSTEM
            users = [message for message in read if message["role"] == "user"]
            assert users[-1]["content"] in (request, SUM_UP)
            roles = [message["role"] for message in read[1:]]
            assert all(one != other for one, other in pairwise(roles)), roles
            calls = [part["type"] for message in read for part in parts(message)]
            assert calls.count("python") == calls.count("output")
    assert reading(agent.events, "Be brief and kind.").messages == agent.messages


def test_a_new_output_takes_at_most_half_of_what_is_free() -> None:
    context = Context(Scripted(context=200), (), 50)
    messages: list[Message] = [{"role": "user", "content": "look"}]
    assert 70 < context.count_text(context.shorten_output(look(0, 500), messages)) <= 99
    assert context.shorten_output("short", messages) == "short"
    assert output("short")["text"] == "short"


def test_after_an_interruption_or_the_limit_of_time_the_conversation_can_still_be_compacted() -> None:
    now = [0.0]
    long = "word " * 300
    limits = Limits(max_tokens=200, max_seconds=10)
    agent = Agent(Scripted(*[said("ok")] * 5, said("Words."), context=3_000), limits=limits, clock=lambda: now[0])
    for i in range(5):
        agent.turn(f"Do number {i}. {long}")
    agent.interrupt()
    now[0] = 60
    assert agent.compact().endswith("summed up (by the model)")
    assert spoken(agent.messages[1]) == "Words."
