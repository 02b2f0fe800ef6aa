"""The built-in world's tasks: problems with and without solutions, who the bot is, errands in their environments."""

import json
from collections import Counter

import pytest

from lanbot.chat.messages import Message, Part, parts, spoken, text, validate
from lanbot.config.recipe import Identity
from lanbot.core.errors import UserError
from lanbot.synthetic import world
from lanbot.tasks.agent_tasks import AgentEnv, AgentTasks
from lanbot.tasks.builtin import ROWS, WordProblems
from lanbot.tasks.registry import make_task
from lanbot.tasks.task import TaskContext

ROBI = TaskContext(Identity("Robi", "Ada Smith", personality="cheerful"))


def said(words: str | list[Part]) -> Message:
    return {"role": "assistant", "content": words}


def calls(message: Message) -> list[str]:
    return [part["text"] for part in parts(message) if part["type"] != "text"]


NAMES = ["word_problems", "word_problems:practice", "identity:builtin", "long_chat", "world_chat", "agent_tasks"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("split", ["train", "test"])
def test_rows_up_to_the_last_are_conversations(name: str, split: str) -> None:
    task = make_task(name, split, ROBI)
    assert len(task) == ROWS[split] >= 2_000
    for i in (0, 1, len(task) // 2, len(task) - 1):
        validate(task.conversation(i), f"{name} {i}")


# -- word problems -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_practised_problem_has_its_answer_and_no_solution(split: str) -> None:
    task = make_task("word_problems:practice", split)
    for i in range(200):
        asked, answer = task.conversation(i)["messages"]
        problem = world.word_problem(split, task.number(i), practice=split == "train")
        assert asked["content"] == problem.question
        assert answer["content"] == f"#### {problem.answer}" and not calls(answer)
        assert task.check(i, said(problem.solution)) and task.check(i, answer)
        assert not task.check(i, said(f"#### {int(problem.answer) + 1}"))


def test_a_demonstrated_problem_has_its_solution() -> None:
    task = make_task("word_problems", "train")
    for i in range(100):
        solution = task.conversation(i)["messages"][1]
        assert len(calls(solution)) in (2, 4) and task.check(i, solution)


def test_problems_of_training_and_of_practice_have_no_template_in_common_and_the_test_has_all() -> None:
    def of(name: str, split: str) -> Counter[str]:
        task = make_task(name, split)
        return Counter(task.part(i) for i in range(600))

    assert set(of("word_problems", "train")) == {"templates demonstrated"}
    assert set(of("word_problems:practice", "train")) == {"templates practised"}
    tested = of("word_problems", "test")
    assert set(tested) == {"templates demonstrated", "templates practised", "templates never"}
    assert min(tested.values()) > 100
    assert isinstance(make_task("word_problems", "test"), WordProblems)


def test_another_argument_is_refused() -> None:
    with pytest.raises(UserError, match="word_problems takes no 'practise'"):
        make_task("word_problems:practise", "train")


# -- identity ----------------------------------------------------------------------------------------------


def test_identity_wants_name_and_maker_and_yes_or_no() -> None:
    task = make_task("identity:builtin", "test", ROBI)
    both = Counter()
    for i in range(400):
        reference = task.conversation(i)["messages"][-1]
        right = "I am Robi, made by Ada Smith."
        assert task.check(i, reference)
        yes_or_no = spoken(reference).partition(",")[0]
        both[yes_or_no if yes_or_no in ("Yes", "No") else ""] += 1
        if yes_or_no in ("Yes", "No"):
            other = "No" if yes_or_no == "Yes" else "Yes"
            assert task.check(i, said(f"{yes_or_no}, {right}"))
            assert not task.check(i, said(f"{other}, {right}")) and task.check(i, said(right))
        else:
            assert task.check(i, said(right))
        for wrong in ("", "I am Robi.", "Made by Ada Smith.", "I am LanBot, made by Ada Smith.", "Robi, made by Ada."):
            assert not task.check(i, said(f"{yes_or_no}, {wrong}" if yes_or_no in ("Yes", "No") else wrong))
    assert min(both[kind] for kind in ("Yes", "No", "")) > 20


def test_the_parts_of_identity_are_kinds_of_question() -> None:
    task = make_task("identity:builtin", "test", ROBI)
    seen = Counter(task.part(i) for i in range(700))
    assert set(seen) == {"who", "maker", "other", "self", "nature", "what", "like"}
    assert min(seen.values()) > 50


@pytest.mark.parametrize("name", ["identity:builtin", "long_chat"])
def test_who_the_bot_is_comes_from_the_recipe(name: str) -> None:
    task = make_task(name, "train", ROBI)
    words = " ".join(part["text"] for i in range(100) for m in task.conversation(i)["messages"] for part in parts(m))
    assert "Robi" in words and "Ada Smith" in words and "LanBot" not in words


# -- errands -----------------------------------------------------------------------------------------------

TASK = AgentTasks("test")


def do(env: AgentEnv, reply: list[Part]) -> Message:
    """The next request answered by this reply, with its calls executed."""
    request = env.request()
    assert request is not None and request["role"] == "user"
    message: list[Part] = []
    for part in reply:
        if part["type"] == "python":
            message += [part, {"type": "output", "text": env.tools(part["text"])}]
        elif part["type"] == "text":
            message.append(part)
    env.answered(request, said(message))
    return said(message)


def of_kind(kind: str, requests: int = 1, count: int = 10) -> list[int]:
    rows = [i for i in range(200) if TASK.errand(i).kind == kind and len(TASK.errand(i).requests) == requests]
    assert len(rows) >= count
    return rows[:count]


def test_a_reference_passes_in_its_env_and_half_of_it_fails() -> None:
    for i in range(100):
        env, errand = TASK.env(i), TASK.errand(i)
        for k, reply in enumerate(errand.replies):
            assert not env.right(), "not right before the last request"
            assert env.request() == {"role": "user", "content": errand.requests[k]}
            assert do(env, reply) == said(reply)
        assert env.request() is None and env.right()
        assert TASK.conversation(i)["messages"] == [
            {"role": "user", "content": errand.requests[-1]},
            said(errand.replies[-1]),
        ]


@pytest.mark.parametrize("kind", ["compute", "read", "search"])
def test_only_the_right_words_are_right(kind: str) -> None:
    for i in of_kind(kind):
        values = TASK.errand(i).said.split()
        right = [f"It is {' and '.join(values)}.", f"**{', '.join(values)}**", " ".join(values).upper()]
        wrong = ["", "I do not know.", *(" ".join(values[:k] + values[k + 1 :]) for k in range(len(values)))]
        wrong += [" ".join(f"{value}{more}" for value in values) for more in ("0", "s")]
        if kind == "compute":
            wrong += [
                " ".join(form.format(value) for value in values) for form in ("1{}", "-{}", "{}.5", "0.{}", "9,{}")
            ]
        for words, expected in [(words, True) for words in right] + [(words, False) for words in wrong]:
            env = TASK.env(i)
            do(env, [text(words)])
            assert env.right() == expected, (words, values)


def test_a_number_in_a_calls_output_is_not_an_answer() -> None:
    for i in of_kind("compute"):
        env = TASK.env(i)
        do(env, [part for part in TASK.errand(i).replies[0] if part["type"] != "text"])
        assert not env.right()


def test_a_file_must_be_written_and_not_only_mentioned() -> None:
    for i in of_kind("write"):
        errand = TASK.errand(i)
        ((name, words),) = errand.written.items()
        writes = [part for part in errand.replies[0] if part["text"].startswith("write_file")]

        def done(*code: str, i: int = i) -> AgentEnv:
            env = TASK.env(i)
            do(env, [*({"type": "python", "text": one} for one in code), text("Done.")])
            return env

        assert done(writes[0]["text"]).right()
        assert done(writes[0]["text"]).files == {**errand.files, name: words}
        assert not done().right()
        assert not done(f'write_file("other.txt", {json.dumps(words)})').right()
        assert not done(f'write_file("{name}", {json.dumps(words + " ")})').right()
        assert not done(writes[0]["text"], f'write_file("{name}", "")').right()


def test_only_conversations_of_one_errand_share_a_memory() -> None:
    for i in of_kind("remember", requests=2):
        errand = TASK.errand(i)
        recall = calls(said(errand.replies[1]))[0]
        env, other = TASK.env(i), TASK.env(i)
        do(env, errand.replies[0])
        assert not env.right()
        assert env.tools(recall) == calls(said(errand.replies[1]))[1]
        assert other.tools(recall) == "nothing found", "envs do not share memory"
        do(env, [text("I do not know.")])
        assert not env.right()
        do(other, [text("I will remember that.")])
        assert "nothing found" in calls(do(other, errand.replies[1])), "it was not stored"


def test_an_env_does_not_change_its_errand() -> None:
    for i in range(50):
        before = repr(TASK.errand(i))
        env = TASK.env(i)
        for name in [*env.files, "new.txt"]:
            env.tools(f'write_file("{name}", "x")')
        env.tools('remember("x")')
        assert repr(TASK.errand(i)) == before == repr(world.errand("test", TASK.number(i)))
        assert TASK.env(i).files == TASK.errand(i).files
        assert TASK.env(i).tools('recall("x")') == "nothing found"


def test_the_five_kinds_of_errand_have_equal_shares_and_some_take_two_calls() -> None:
    assert Counter(TASK.part(i) for i in range(300)) == dict.fromkeys(world.KINDS, 60)
    two = Counter(TASK.part(i) for i in range(300) if TASK.errand(i).calls > 1)
    assert set(two) == set(world.KINDS) - {"remember"} and min(two.values()) >= 12


def test_training_has_kinds_that_are_not_tested_too() -> None:
    task = AgentTasks("train")
    made_calls = [calls(task.conversation(i)["messages"][-1]) for i in range(600)]
    made = {code.partition("(")[0] for of in made_calls for code in of[::2] if "(" in code}
    functions = {"read_file", "write_file", "edit_file", "list_files", "search_files", "remember", "recall", "forget"}
    assert functions <= made
    assert [of for of in made_calls if of and of[1].startswith("error: no file")]


def test_sums_are_right_by_their_last_number() -> None:
    for split in ("train", "test"):
        task = make_task("sums", split)
        for i in range(200):
            reference = task.conversation(i)["messages"][-1]
            result = next(part["text"] for part in parts(reference) if part["type"] == "output")
            assert task.check(i, reference) and task.check(i, {"role": "assistant", "content": f"3 and so {result}."})
            assert not task.check(i, {"role": "assistant", "content": f"{result} or 1{result}"})
            assert not task.check(i, {"role": "assistant", "content": "I do not know."})
