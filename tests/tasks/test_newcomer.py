"""The newcomer's requests and their checkers. Their content is not quoted here, to keep it out of training data."""

import re
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from lanbot.chat.messages import Conversation, Message, Part, output, python, text
from lanbot.config.recipe import Identity
from lanbot.tasks.newcomer import Newcomer, NewcomerEnv
from lanbot.tasks.registry import make_task
from lanbot.tasks.task import TaskContext

TASK = Newcomer("test", context=TaskContext(Identity("Robi", "Ada Smith")))
ROWS = range(len(TASK))
Answer = Callable[[NewcomerEnv, str], Message]


def done(i: int, answer: Answer) -> NewcomerEnv:
    """The environment of row i after each of its requests was answered."""
    env = TASK.env(i)
    while (request := env.request()) is not None:
        env.answered(request, answer(env, str(request["content"])))
    return env


def saying(words: str) -> Answer:
    return lambda env, request: {"role": "assistant", "content": words}


def by_reference(i: int, calls: bool = True) -> Answer:
    """Answers and calls as the row has them."""
    replies: Iterator[dict] = (request for talk in TASK.row(i)["talks"] for request in talk)

    def answer(env: NewcomerEnv, request: str) -> Message:
        one, content = next(replies), list[Part]()
        for code in one.get("calls", []) if calls else []:
            result = env.tools(code)
            assert not result.startswith("error") or "secret" in code, (code, result)
            content += [python(code), output(result)]
        return {"role": "assistant", "content": [*content, text(one["reply"])]}

    return answer


def test_there_are_150_of_ten_kinds() -> None:
    assert len(TASK) == 150
    kinds = Counter(TASK.part(i) for i in ROWS)
    assert len(kinds) == 10 and min(kinds.values()) >= 7
    assert len({str([[one["ask"] for one in talk] for talk in TASK.row(i)["talks"]]) for i in ROWS}) == 150
    assert sum(len(talk) > 1 for i in ROWS for talk in TASK.row(i)["talks"]) >= 15


def test_one_who_answers_perfectly_gets_all_right() -> None:
    assert [i for i in ROWS if not done(i, by_reference(i)).right()] == []


@pytest.mark.parametrize("words", ["", "hello", "Hello! How can I help you?", "I do not know.", "Yes.", "7", "Done."])
def test_one_who_always_says_the_same_gets_next_to_nothing(words: str) -> None:
    assert sum(done(i, saying(words)).right() for i in ROWS) <= 0.08 * len(TASK)


def test_one_who_repeats_the_request_gets_nothing() -> None:
    echo: Answer = lambda env, request: {"role": "assistant", "content": request}  # noqa: E731
    assert not [i for i in ROWS if done(i, echo).right()]


def test_files_and_memory_are_judged_by_their_state_not_by_words() -> None:
    claimed = [i for i in ROWS if TASK.row(i)["holds"] or TASK.row(i)["remembered"] or TASK.row(i)["forgotten"]]
    assert len(claimed) >= 15
    assert not [i for i in claimed if done(i, by_reference(i, calls=False)).right()]


def test_a_file_that_should_stay_may_not_be_changed() -> None:
    i = next(i for i in ROWS if TASK.row(i)["files"] and not TASK.row(i)["holds"])
    env = done(i, by_reference(i))
    assert env.right()
    env.files[next(iter(env.files))] += " "
    assert not env.right()


def test_the_requests_of_one_conversation_are_read_together() -> None:
    i = next(i for i in ROWS if len(TASK.row(i)["talks"][0]) == 2)
    env = TASK.env(i)
    first = env.request()
    assert first and not env.before()
    env.answered(first, {"role": "assistant", "content": "Well."})
    assert env.before() == [first, {"role": "assistant", "content": "Well."}] and env.request() != first
    two = TASK.env(next(i for i in ROWS if len(TASK.row(i)["talks"]) == 2))
    two.answered(two.request() or first, {"role": "assistant", "content": "Well."})
    assert two.request() and not two.before()


def test_the_bots_names_are_filled_in() -> None:
    rows = [str(TASK.row(i)) for i in ROWS]
    assert not [row for row in rows if "{name" in row or "{maker" in row or "LanBot" in row]
    assert any("Robi" in row for row in rows) and any("Ada Smith" in row for row in rows)


def test_training_never_reads_them() -> None:
    """No item's requests are those of a conversation that the demo trains on, in any spelling of case and marks."""
    own = {asked([[one["ask"] for one in talk] for talk in TASK.row(i)["talks"]][-1]) for i in ROWS}
    names = (
        "everyday",
        "identity:builtin",
        "world_chat",
        "long_chat",
        "word_problems",
        "word_problems:practice",
        "agent_tasks",
    )
    for name in (*names, "simple_spelling:builtin", "spelling_bee:builtin"):
        task = make_task(name, "train")
        rows = min(len(task), 2_000)
        assert not own & {asked(requests(task.conversation(i))) for i in range(rows)}, name


def requests(conversation: Conversation) -> list[str]:
    return [str(message["content"]) for message in conversation["messages"] if message["role"] == "user"]


def asked(said: list[str]) -> str:
    return " / ".join(" ".join(re.findall(r"\w+", one.casefold())) for one in said)
