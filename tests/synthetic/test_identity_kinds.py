"""What an endpoint is asked for, what is made of what it writes, and what is fit to train on."""

import json
import math
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from lanbot.chat.messages import Conversation, Part, chat, output, python, text
from lanbot.config.recipe import Identity
from lanbot.core.errors import UserError
from lanbot.synthetic.identity import kinds, strata
from lanbot.synthetic.identity.draft import BadDraft, contradictions, draft
from lanbot.synthetic.identity.kinds import KINDS
from lanbot.synthetic.identity.validate import CHECKS, problems

WHO = Identity(name="Juno", creator="Ada Park", quirks=("I like puns.",), limitations=("see pictures",), year=2026)


def found(answer: str | list[Part], kind: str, asked: str = "Tell me, please?", **more: Any) -> list[str]:
    return problems({**chat(asked, answer), **more}, WHO, kind)  # type: ignore[typeddict-item]


def call(code: str, result: str) -> list[Part]:
    return [python(code), output(result)]


# -- what is asked for


@pytest.mark.parametrize("kind", KINDS)
def test_each_stratum_is_used_evenly_at_any_time(kind: str) -> None:
    drawn = [kinds.draw(kind, 3, number) for number in range(500)]
    for name in ("persona", "topic", "style"):
        for count in (1, 60, 100, 333, 500):
            used = Counter(draw[name] for draw in drawn[:count])
            every = {"persona": strata.PERSONAS, "topic": KINDS[kind][0], "style": strata.STYLES}[name]
            assert max(used.values()) - min(used[line] for line in strata.lines(every)) <= 1
    assert len({tuple(draw.values()) for draw in drawn}) == 500


def test_the_strata_are_large_and_meet_each_other() -> None:
    assert len(strata.lines(strata.PERSONAS)) >= 40
    assert len(strata.lines(strata.STYLES)) >= 12
    for topics, _ in KINDS.values():
        assert len(strata.lines(topics)) >= 40
        lengths = sorted(len(strata.lines(lines)) for lines in (strata.PERSONAS, strata.STYLES, topics))
        assert math.lcm(*lengths, len(kinds.TURNS)) == math.prod(lengths) * len(kinds.TURNS)
    for lines in (strata.PERSONAS, strata.STYLES, strata.IDENTITY, strata.TALK, strata.TOOLS, strata.REASONING):
        assert len(set(strata.lines(lines))) == len(strata.lines(lines))


def test_an_id_always_means_the_same_and_another_seed_another_order() -> None:
    assert kinds.draw("identity", 3, 5) == kinds.draw("identity", 3, 5)
    draws = [[kinds.draw("identity", seed, n)["topic"] for n in range(9)] for seed in (3, 4)]
    assert draws[0] != draws[1]
    assert kinds.row_id("no_tool", 3, 12) == "no_tool-3-000012"
    assert len({kinds.row_id(kind, seed, n) for kind in KINDS for seed in (1, 11) for n in (1, 11)}) == 24


@pytest.mark.parametrize("kind", KINDS)
def test_the_prompt_says_who_the_bot_is_and_what_is_wanted(kind: str) -> None:
    system, user = (message["content"] for message in kinds.prompt(kind, WHO, 1, 0))
    for told in ("Juno", "Ada Park", "I like puns.", "see pictures", "2026"):
        assert told in system
    assert ("read_file" in system) == (kind in kinds.WITH_TOOLS)
    example = json.loads(system[system.index('{"files"') :])
    assert set(example) == set(kinds.SCHEMA["properties"])
    assert kind in user
    assert kinds.draw(kind, 1, 0)["topic"] in user


def test_the_examples_of_the_prompts_are_themselves_fit() -> None:
    system = kinds.prompt("tool_use", WHO, 1, 0)[0]["content"]
    made, claimed = draft(system[system.index('{"files"') :])
    assert claimed == ["Bus at 9:40"]
    assert contradictions(made, claimed) == problems(made, WHO, "tool_use") == []


def test_there_is_a_validator_for_each_kind() -> None:
    assert set(CHECKS) == set(KINDS)
    with pytest.raises(UserError, match="small_talk"):
        problems(chat("Hi", "Hello, I am Juno."), WHO, "small_talk")


# -- what is fit

PLAN = text("First I read the file, then I add it up. ")
ADDED = [*call("2+3", "5"), *call("5*2", "10"), text("It is 10.")]
GOOD: list[tuple[str, str | list[Part]]] = [
    ("identity", "I am Juno."),
    ("identity", "A person called Ada Park made me. I am not ChatGPT, and I was not made by Google."),
    ("identity", "No, I wasn't trained by OpenAI; OpenAI never made me. Juno is my name."),
    ("tool_use", [*call("17*3", "51"), text("It is 51.")]),
    ("tool_use", [*call('remember("a cat")', "remembered as 1"), text("I will remember that.")]),
    ("multi_step_tool", ADDED),
    ("no_tool", "Because the air scatters blue light more than red light."),
    ("tool_planning", [PLAN, *ADDED]),
    ("reasoning", "First, Tom is taller than Ann. Then Ann is taller than Bo. So Tom is the tallest."),
    ("reasoning", "1. There are 3 boxes.\n2. Each holds 4 pens, because it says so.\nAnswer: 12"),
]


@pytest.mark.parametrize(("kind", "answer"), GOOD)
def test_what_is_good_passes(kind: str, answer: str | list[Part]) -> None:
    assert found(answer, kind) == []


BAD: list[tuple[str, str | list[Part], str]] = [
    ("identity", "", "shape: message 2 is empty"),
    ("identity", [], "shape: message 2 is empty"),
    ("tool_use", [python(" "), output("error: empty expression"), text("Hm.")], "an empty call"),
    ("identity", "Hello, what a nice day.", "says neither its name nor its maker's"),
    ("identity", "I am Junoesque.", "says neither its name nor its maker's"),
    ("identity", "Juno is my nickname, but I'm ChatGPT.", "another bot's name or maker: I'm ChatGPT"),
    ("identity", "Juno here. I am a model trained by OpenAI.", "another bot's name or maker"),
    ("identity", "Juno here. I was made by Google.", "another bot's name or maker"),
    ("identity", "Juno? My name is Bob.", "another bot's name or maker: Bob"),
    ("no_tool", "OpenAI made me, so I know it.", "another bot's name or maker: OpenAI made me"),
    ("identity", "I am Juno. " + "word and more " * 400, "too long"),
    ("identity", "I am Juno, dear [your name].", "a placeholder is left in"),
    ("identity", "I am Juno, made by {creator}.", "a placeholder is left in"),
    ("identity", "I am Juno.<|assistant_end|>", "a special token in the text"),
    ("identity", "I am Juno \ufffd.", "broken characters"),
    ("identity", "I am Juno \ud800.", "shape: message 2 holds half of a surrogate pair"),
    ("identity", "I am Juno \x1b[0m.", "broken characters"),
    ("identity", "I am Juno " + "no " * 9, "says the same again and again"),
    ("identity", "Juno !?!?-+-+-+-+:;:;:;:;=)=)=)=)#+#+#+#+!?!?-+-+", "hardly any words"),
    ("tool_use", "It is 51.", "no call"),
    ("tool_use", [*call("17*3", "52"), text("It is 51.")], "an output that the tool does not give: 52"),
    ("tool_use", [*call("1/0", "error: division by zero"), text("Hm.")], "a call fails: 1/0"),
    ("tool_use", [python("17*3"), text("It is 51.")], "a call without an output: 17*3"),
    ("tool_use", [*call("17*3", "51"), output("51"), text("It is 51.")], "an output without a call"),
    ("no_tool", [output("51"), text("It is 51.")], "an output without a call"),
    ("tool_use", call("17*3", "51"), "ends without a word"),
    ("multi_step_tool", [*call("17*3", "51"), text("It is 51.")], "fewer than two calls"),
    ("no_tool", [*call("17*3", "51"), text("It is 51.")], "a call where none is needed"),
    ("tool_planning", ADDED, "no plan before the first call"),
    ("tool_planning", [text("Let me see. "), *ADDED], "no plan before the first call"),
    ("tool_planning", [PLAN, *call("2+3", "5"), text("It is 5.")], "fewer than two calls after the plan"),
    ("tool_planning", "First I read it, then I add it up.", "no call"),
    ("reasoning", "Tom is the tallest.", "no steps of reasoning"),
    ("reasoning", "First, look at Tom. Then look at Ann. Next, look at Bo.", "no final answer"),
]


@pytest.mark.parametrize(("kind", "answer", "why"), BAD)
def test_each_validator_catches_its_fault(kind: str, answer: str | list[Part], why: str) -> None:
    assert any(why in problem for problem in found(answer, kind))


@pytest.mark.parametrize(
    ("conversation", "why"),
    [
        ({}, "shape: no list of messages"),
        ({"messages": [{"role": "assistant", "content": "I am Juno."}]}, "shape: message 1"),
        ({"messages": [*chat("Hi", "Juno")["messages"], {"role": "user", "content": "Bye"}]}, "does not end with the"),
        ({"messages": [*chat("Hi", "Juno")["messages"], {"role": "tool", "content": "5"}]}, "a message of the tool"),
        ({"messages": [{"role": "system", "content": "x"}, {"role": "assistant", "content": "Juno"}]}, "before anyone"),
        (chat(" ", "I am Juno."), "shape: message 1 is empty"),
    ],
)
def test_the_shape_is_looked_at(conversation: Conversation, why: str) -> None:
    assert any(why in problem for problem in problems(conversation, WHO))


def test_a_bot_may_bear_a_famous_name() -> None:
    assert problems(chat("Who?", "I am Claude, made by Ada."), Identity(name="Claude", creator="Ada")) == []


def test_files_and_memories_are_executed_with_and_without_them_taken_at_their_word() -> None:
    read = [*call('read_file("a.txt")', "7"), *call('recall("cat")', "1: the cat is Tom"), text("Tom is 7.")]
    there = {"files": {"a.txt": "7"}, "known": ["the cat is Tom"]}
    assert found(read, "tool_use", **there) == found(read, "tool_use") == []
    wrong = found(read, "tool_use", files={"a.txt": "8"}, known=there["known"])
    assert wrong == ["an output that the tool does not give: 7"]
    assert found(read, "tool_use", files={}, known=["the cat is Tom"]) != []
    for broken in ({"files": 3}, {"known": 5}, {"known": ["\ud800"]}):
        assert found(read, "tool_use", **broken) == ["files or memories that are none"]


def test_calls_of_a_conversation_share_a_workspace() -> None:
    made, _ = draft(
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": "Note 5."},
                    {
                        "role": "assistant",
                        "content": [{"type": "python", "text": 'write_file("n.txt", "5")'}, "Noted."],
                    },
                    {"role": "user", "content": "What was it?"},
                    {"role": "assistant", "content": [{"type": "python", "text": 'read_file("n.txt")'}, "It was 5."]},
                ]
            }
        )
    )
    assert [part["text"] for part in made["messages"][3]["content"]] == ['read_file("n.txt")', "5", "It was 5."]  # type: ignore[index]
    assert made["files"] == {}
    assert problems(made, WHO, "multi_step_tool") == []


# -- what is mended, and what is not

TALK = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hi, I\'m \\"Juno\\", ok,"}]}'


@pytest.mark.parametrize(
    "written",
    [
        TALK,
        f"```json\n{TALK}\n```",
        f"Sure {{here}} it is [as asked]: {TALK} Anything else?",
        TALK.replace("}]}", "},],}"),
        TALK.replace("I'm", "I\\'m"),
        TALK.replace('"messages"', '"files": [], "known": [], "messages"'),
        TALK.removeprefix('{"messages": ').removesuffix("}"),
        TALK.replace("user", "Human").replace("assistant", "AI"),
        TALK.replace('"Hi, I\'m \\"Juno\\", ok,"', '[{"type": "text", "text": "Hi, I\'m \\"Juno\\", "}, "ok,"]'),
    ],
)
def test_small_faults_are_mended(written: str) -> None:
    assert draft(written)[0] == chat("Hi", 'Hi, I\'m "Juno", ok,')


def test_messages_of_the_tool_become_outputs_of_the_call_and_are_executed() -> None:
    spoken_of = [
        {"role": "user", "content": "17*3?"},
        {"role": "assistant", "content": [{"type": "code", "code": " 17*3 "}]},
        {"role": "tool", "content": "52"},
        {"role": "assistant", "content": "It is 51."},
    ]
    made, claimed = draft(json.dumps({"messages": spoken_of}))
    assert made["messages"] == chat("17*3?", [*call("17*3", "51"), text("It is 51.")])["messages"]
    assert claimed == ["52"]


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("", "no whole JSON"),
        (TALK[:-2], "no whole JSON"),
        (TALK.replace("}]}", "}], "), "no whole JSON"),
        ("[" * 5_000, "no whole JSON"),
        (TALK.replace("user", "narrator"), "a role that nobody has: narrator"),
        ('{"messages": 5}', "shape"),
        (TALK.replace("ok", "\\ud83d"), "broken characters"),
        ('{"messages": [5]}', "shape"),
        ('{"messages": [{"role": "user", "content": {"type": "image", "text": "x"}}]}', "shape"),
        ('{"messages": [{"role": "assistant", "content": [{"type": "python", "text": "import os"}]}]}', "a call fails"),
        (
            '{"files": [3], "messages": [{"role": "assistant", "content": [{"type": "python", "text": "1"}]}]}',
            "a file that is none",
        ),
        (
            '{"known": [" "], "messages": [{"role": "assistant", "content": [{"type": "python", "text": "1"}]}]}',
            "memories that are none",
        ),
    ],
)
def test_what_cannot_be_mended_is_told(written: str, why: str) -> None:
    with pytest.raises(BadDraft, match=why):
        draft(written)


@pytest.mark.parametrize(
    ("code", "claimed", "words", "fits"),
    [
        ("17*3", "", "It is 51.", True),
        ("17*3", "", "It is 52.", False),
        ("17*3", "52", "It is 51, not a penny more.", True),
        ("10/3", "", "It is about 3.33, or 3.", True),
        ("10/3", "", "It is about 3.34.", False),
        ("1200*2", "", "That makes 2,400.", True),
        ("0.15*40", "", "15% of it is 6.", True),
        ("17*3", "", "1. It is 51.\n2. Done.", True),
        ('"a fox".upper()', "the bakery closes early", "The bakery closes early.", False),
        ('"a fox".upper()', "A fox", "It is A FOX.", True),
    ],
)
def test_words_after_an_output_must_follow_from_it(code: str, claimed: str, words: str, fits: bool) -> None:
    said = [{"type": "python", "text": code}, {"type": "output", "text": claimed}, {"type": "text", "text": words}]
    messages = [{"role": "user", "content": "Hm?"}, {"role": "assistant", "content": said}]
    assert (contradictions(*draft(json.dumps({"messages": messages}))) == []) is fits


def test_numbers_of_another_turn_are_not_held_against_the_tool() -> None:
    messages = [
        {"role": "user", "content": "17*3?"},
        {"role": "assistant", "content": [{"type": "python", "text": "17*3"}, {"type": "text", "text": "51."}]},
        {"role": "user", "content": "And how many days has a week?"},
        {"role": "assistant", "content": "A week has 7 days."},
    ]
    assert contradictions(*draft(json.dumps({"messages": messages}))) == []
    for before, after in pairwise(m["role"] for m in messages):
        assert before != after
