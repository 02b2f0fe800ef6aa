"""What an endpoint is asked for, what is made of its answer, and what is fit to train on."""

import json
import math
from collections import Counter
from typing import Any

import pytest

from lanbot.chat.messages import Conversation, Part, chat, output, python, text
from lanbot.config.recipe import Identity
from lanbot.synthetic.identity import prompts
from lanbot.synthetic.identity.checks import CHECKS, problems
from lanbot.synthetic.identity.drafts import BadDraft, read
from lanbot.tools.memory import Memory
from lanbot.tools.tool import Toolset
from lanbot.tools.workspace import Workspace

WHO = Identity(name="Juno", creator="Ada Park", quirks=("I like puns.",), limitations=("see pictures",), year=2026)


def found(answer: str | list[Part], kind: str = "identity", **more: Any) -> list[str]:
    return problems({**chat("Tell me, please?", answer), **more}, WHO, kind)


def call(code: str, result: str) -> list[Part]:
    return [python(code), output(result)]


# -- what is asked for


def test_every_kind_draws_evenly_from_lists_that_meet_in_all_combinations() -> None:
    lists = {name: text.strip().split("; ") for name, text in prompts.texts()["lists"].items()}
    assert set(prompts.texts()["kinds"]) == set(CHECKS)
    for kind, wanted in prompts.texts()["kinds"].items():
        used = {"persona": lists["personas"], "style": lists["styles"], "topic": lists[wanted["topics"]]}
        sizes = [len(prompts.TURNS), *map(len, used.values())]
        assert math.lcm(*sizes) == math.prod(sizes)
        drawn = [prompts.draw(kind, 3, number) for number in range(500)]
        for name, entries in used.items():
            assert len(set(entries)) == len(entries) >= 12
            for count in (1, 60, 333, 500):
                times = Counter(draw[name] for draw in drawn[:count])
                assert max(times.values()) - min(times[entry] for entry in entries) <= 1
        assert len({tuple(draw.values()) for draw in drawn}) == 500
        assert drawn[:9] == [prompts.draw(kind, 3, n) for n in range(9)] != [prompts.draw(kind, 4, n) for n in range(9)]


@pytest.mark.parametrize("kind", CHECKS)
def test_the_prompt_says_who_the_bot_is_and_what_is_wanted(kind: str) -> None:
    system, user = (message["content"] for message in prompts.prompt(kind, WHO, 1, 0))
    for told in ("Juno", "Ada Park", "I like puns.", "see pictures", "2026"):
        assert told in system
    assert kind in user and prompts.draw(kind, 1, 0)["topic"] in user
    tools = Toolset([*Workspace({}).tools, *Memory().tools]).values()
    listed = [f"{t.name}({', '.join(t.schema.get('required', ()))}) -> {t.returns}\n" in system for t in tools]
    example = read(system[system.index('{"files"') :])
    if kind in ("tool_use", "multi_step_tool", "tool_planning"):
        assert all(listed) and problems(example, WHO, "tool_use") == []
    else:
        assert not any(listed) and example == chat("...", "...")


# -- what is fit

PLAN = text("First I read the file, then I add it up. ")
ADDED = [*call("2+3", "5"), *call("5*2", "10"), text("It is 10.")]
GOOD: list[tuple[str, str | list[Part]]] = [
    ("identity", "You're welcome!"),
    ("identity", "I am Juno. My name is Juno."),
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
    ("identity", [], "wrong shape: message 2 is empty"),
    ("identity", "I am Juno \ud800.", "wrong shape: message 2 holds half of a surrogate pair"),
    ("identity", "Juno is my nickname, but I'm ChatGPT.", "another bot's name or maker: I'm ChatGPT"),
    ("identity", "Juno here. I am a model trained by OpenAI.", "another bot's name or maker"),
    ("identity", "Juno? My name is Bob.", "another bot's name or maker"),
    ("no_tool", "OpenAI made me, so I know it.", "another bot's name or maker: OpenAI made me"),
    ("identity", "I am Juno. " + "word and more " * 1_000, "too long"),
    ("identity", "I am Juno, dear [your name].", "a placeholder is left in"),
    ("identity", "I am Juno, made by {creator}.", "a placeholder is left in"),
    ("identity", "I am Juno.<|assistant_end|>", "a special token in the text"),
    ("identity", "I am Juno \ufffd.", "broken characters"),
    ("identity", "I am Juno \x1b[0m.", "broken characters"),
    ("identity", "I am Juno " + "no " * 9, "repeats itself"),
    ("tool_use", "It is 51.", "no call"),
    ("tool_use", [*call("17*3", "52"), text("It is 51.")], "an output that the tool does not give: 17*3 returns 51"),
    ("tool_use", [*call("1/0", "error: division by zero"), text("Hm.")], "a call fails: 1/0"),
    ("tool_use", [python("17*3"), text("It is 51.")], "an output that the tool does not give: 17*3"),
    ("tool_use", [*call("17*3", "51"), output("51"), text("It is 51.")], "an output without a call"),
    ("tool_use", call("17*3", "51"), "does not end with an answer"),
    ("multi_step_tool", [*call("17*3", "51"), text("It is 51.")], "fewer than two calls"),
    ("no_tool", [*call("17*3", "51"), text("It is 51.")], "a call where none is needed"),
    ("tool_planning", [text("Let me see. "), *ADDED], "no plan before two calls or more"),
    ("tool_planning", [PLAN, *call("2+3", "5"), text("It is 5.")], "no plan before two calls or more"),
    ("reasoning", "Tom is the tallest.", "no steps of reasoning"),
    ("reasoning", "First, look at Tom. Then look at Ann. Next, look at Bo.", "no steps of reasoning with a conclusion"),
]


@pytest.mark.parametrize(("kind", "answer", "why"), BAD)
def test_each_fault_is_found(kind: str, answer: str | list[Part], why: str) -> None:
    assert any(why in problem for problem in found(answer, kind))


@pytest.mark.parametrize(
    ("conversation", "why"),
    [
        ({}, "wrong shape: no list of messages"),
        ({"messages": [{"role": "assistant", "content": "I am Juno."}]}, "wrong shape: message 1"),
        ({"messages": [*chat("Hi", "Juno")["messages"], {"role": "user", "content": "Bye"}]}, "does not end with an"),
    ],
)
def test_the_shape_is_checked(conversation: Conversation, why: str) -> None:
    assert any(why in problem for problem in problems(conversation, WHO))


def test_a_bot_may_bear_a_famous_name() -> None:
    assert problems(chat("Who?", "I am Claude, made by Ada."), Identity(name="Claude", creator="Ada")) == []


def test_calls_are_executed_with_files_and_memories_and_not_compared_where_those_are_unknown() -> None:
    answer = [*call('read_file("a.txt")', "7"), *call('recall("cat")', "1: the cat is Tom"), text("Tom is 7.")]
    assert found(answer, files={"a.txt": "7"}, known=["the cat is Tom"]) == found(answer) == []
    wrong = found(answer, files={"a.txt": "8"}, known=["the cat is Tom"])
    assert wrong == ['an output that the tool does not give: read_file("a.txt") returns 8']
    assert "a call fails" in found(answer, files={}, known=["the cat is Tom"])[0]
    for broken in ({"files": 3}, {"known": 5}, {"known": ["\ud800"]}, {"known": [" "]}):
        assert found(answer, **broken) == ["invalid files or memories"]


# -- what is made of an answer

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
        TALK.replace('"Hi, I\'m \\"Juno\\", ok,"', '[{"type": "text", "text": "Hi, I\'m \\"Juno\\", ok,"}]'),
    ],
)
def test_small_errors_of_json_are_repaired(written: str) -> None:
    assert read(written) == chat("Hi", 'Hi, I\'m "Juno", ok,')


def answered(*said: Part, **more: Any) -> str:
    return json.dumps({**chat("Hm?", list(said)), **more})


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("", "no complete JSON"),
        (TALK[:-7], "no complete JSON"),
        ("[" * 5_000, "no complete JSON"),
        (TALK.replace("ok", "\\ud83d"), "not a conversation"),
        ('{"a": [' + '{"a": ' * 3_000 + "]}", "not a conversation"),
        ('{"messages": 5}', "not a conversation"),
        ('{"messages": [5]}', "not a conversation"),
        (answered(python("1"), files=[3]), "not a conversation"),
        (answered(python("1"), known=[" "]), "not a conversation: nothing to remember"),
    ],
)
def test_an_answer_that_is_no_conversation_is_refused(written: str, why: str) -> None:
    with pytest.raises(BadDraft, match=why):
        read(written)


@pytest.mark.parametrize(
    ("code", "imagined", "kept"),
    [
        ("17*3", "51.0", "51"),
        ("1200*2", "2,400", "2400"),
        ("10/3", "3.3333", "3.333333333"),
        ('"a fox".upper()', " a fox\n", "A FOX"),
        ("10/3", "3.34", "3.34"),
        ("17*2341", "39796", "39796"),
        ('"a fox".upper()', "the bakery", "the bakery"),
    ],
)
def test_an_output_gets_the_real_format_but_is_not_changed_if_it_is_wrong(code: str, imagined: str, kept: str) -> None:
    made = read(answered(*call(code, imagined), text("Done.")))
    assert made["messages"][1]["content"][1]["text"] == kept
    assert (problems(made, WHO, "tool_use") == []) is (kept != imagined)


def test_calls_of_a_conversation_share_a_workspace() -> None:
    noted = chat("Note 5.", [*call('write_file("n.txt", "5")', "wrote n.txt"), text("Noted.")])["messages"]
    read_back = chat("What was it?", [*call('read_file("n.txt")', "5"), text("It was 5.")])["messages"]
    made = read(json.dumps({"messages": [*noted, *read_back]}))
    assert (made["files"], made["known"]) == ({}, [])
    assert problems(made, WHO, "multi_step_tool") == []
