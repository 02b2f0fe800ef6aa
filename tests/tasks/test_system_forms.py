"""Identity in the five forms of the system message."""

from collections import Counter

import pytest

from lanbot.chat.formats import get_format
from lanbot.chat.formats.base import TOOL_TOKENS, ChatFormat
from lanbot.chat.messages import spoken
from lanbot.config.recipe import Identity
from lanbot.tasks.registry import make_task
from lanbot.tasks.system_forms import FORMS, GIVEN, form_of
from lanbot.tasks.task import TaskContext
from lanbot.tokenizers.bpe import BPETokenizer

ROBI = TaskContext(Identity("Robi", "Ada"))


@pytest.fixture(scope="module")
def smollm2() -> ChatFormat:
    kind = get_format("smollm2")
    return kind(BPETokenizer.of_bytes([*kind.special_tokens, *TOOL_TOKENS])).with_default("You are Robi, made by Ada.")


def test_rows_come_in_five_forms_and_always_in_the_same(smollm2: ChatFormat) -> None:
    for name in ("identity", "identity:builtin", "identity:forms"):
        for split in ("train", "test"):
            task = make_task(name, split, ROBI)
            heads: dict[str, set[str]] = {form: set() for form in (*FORMS, GIVEN)}
            for i in range(200):
                conversation = task.conversation(i)
                asked = task.asked(i, smollm2)
                form = form_of(conversation, split, i)
                text = smollm2.tokenizer.decode(smollm2.prompt_of(asked))
                heads[form].add(text.partition("<|im_end|>")[0].removeprefix("<|im_start|>system\n"))
                assert asked == make_task(name, split, ROBI).asked(i, smollm2)
                typed = name == "identity:builtin" and split == "train"  # requests as people type them
                kept = {"assistant"} if typed else {"user", "assistant"}
                assert [m for m in asked["messages"] if m["role"] in kept] == [
                    m for m in conversation["messages"] if m["role"] in kept
                ]
            assert heads["default"] == {"You are Robi, made by Ada."} and heads["empty"] == {""}
            assert all(head.startswith("<|im_start|>user") for head in heads["none"])
            assert all("Robi" in head for head in heads["explicit"]) and len(heads["explicit"]) > 2
            assert all(head and "Robi" not in head for head in heads["foreign"]) and len(heads["foreign"]) > 3


def test_the_forms_are_equally_frequent_and_scored_apart() -> None:
    task = make_task("identity:forms", "test", ROBI)
    counted = Counter(task.part(i) for i in range(len(task)))
    assert all(70 <= counted[form] <= 110 for form in FORMS) and len(task) >= 300
    assert set(counted) == {*FORMS, GIVEN}
    reference = task.conversation(3)["messages"][-1]
    assert task.check(3, reference) and not task.check(3, {"role": "assistant", "content": "I am Siri, made by Apple."})


def test_formats_without_a_default_system_message_have_rows_as_they_are(chat_format: ChatFormat) -> None:
    task = make_task("identity", "train", ROBI)
    assert all(task.asked(i, chat_format) == task.conversation(i) for i in range(50))
    assert spoken(task.conversation(0)["messages"][-1])
