import itertools
import math
import random
import statistics
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from lanbot.chat.formats.lanbot import LanBotFormat
from lanbot.chat.messages import Part, chat, output, parts, python, readable, spoken, text
from lanbot.core.errors import UserError
from lanbot.distributed.runtime import Runtime
from lanbot.evals import task_eval as evals
from lanbot.evals.attempts import CALLS
from lanbot.evals.score import Score, items_asked, task_table
from lanbot.evals.scorer import TOKENS
from lanbot.evals.task_eval import answer_all, do_errands, unbiased
from lanbot.inference.engine import Completion, Engine
from lanbot.tasks.agent_tasks import AgentTasks
from lanbot.tasks.mixture import sample_rows
from lanbot.tasks.registry import make_task
from lanbot.tasks.task import LETTERS, Task, multiple_choice
from lanbot.tokenizers.bpe import BPETokenizer

RUNTIME = Runtime.single()
evaluate, pass_at = (partial(f, runtime=RUNTIME) for f in (evals.evaluate, evals.pass_at))

BYTES = LanBotFormat(BPETokenizer.of_bytes(LanBotFormat.special_tokens))


class Sums(Task):
    """How much is i + 1?"""

    size = 40

    def __len__(self) -> int:
        return self.size

    def conversation(self, i: int):
        return chat(f"{i}+1?", str(i + 1))


class Quiz(Task):
    """Made-up questions of three or four choices."""

    kind = "choice"
    chance = 0.25

    def __init__(self, size: int, choices: int = 4) -> None:
        super().__init__("test")
        self.size, self.choices = size, choices

    def __len__(self) -> int:
        return self.size

    def conversation(self, i: int):
        right = random.Random(i).randrange(self.choices)
        return multiple_choice(f"Question {i}?", [f"choice {k}" for k in range(self.choices)], right)

    def letters(self, i: int):
        return LETTERS[: self.choices]


class ScriptedEngine:
    """answers(prompt) -> the generated text; letters(prompt) -> the logits of letters."""

    def __init__(self, answers=None, letters=None, context: int = 2_000) -> None:
        self.answers, self.letters = answers, letters
        self.chat_format, self.device = BYTES, torch.device("cpu")
        self.model, self.call_handler = self, None
        self.config = SimpleNamespace(context=context)
        self.forward = 0

    def generate(self, prompts, sampling, seed=0, on_event=None, keys=None, call_handlers=None, on_finished=None):
        assert all(len(prompt) < self.config.context for prompt in prompts)
        end = BYTES.tokenizer.special["<|assistant_end|>"]
        return [Completion(p, [*BYTES.tokenizer.encode(self.answers(BYTES.tokenizer.decode(p))), end]) for p in prompts]

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """The hidden state of a position is the ids up to it, so that `logits` knows the prompt."""
        self.forward += 1
        rows, length = ids.shape
        return ids[:, None].expand(rows, length, length).tril()

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        table = torch.full((len(hidden), BYTES.tokenizer.vocab_size), -9.0)
        table[:, ord("z")] = 99.0  # likelier than any letter, but no letter
        for i, row in enumerate(hidden.tolist()):
            length = len(row) - next(j for j, x in enumerate(reversed(row)) if x)
            for letter, value in self.letters(BYTES.tokenizer.decode(row[:length])).items():
                table[i, ord(letter)] = value
        return table


def references(task: Task) -> dict[str, str]:
    """prompt -> the right answer."""
    rows = [task.conversation(i) for i in range(len(task))]
    return {BYTES.tokenizer.decode(BYTES.prompt_of(row)): row["messages"][-1]["content"] for row in rows}


def test_score_of() -> None:
    assert Score.of([True, False, False, False], 0.25) == Score(0.25, 4, 0.216506, 0.25)
    assert Score.of([True] * 9, 0.5) == Score(1.0, 9, 0.1, 0.5)
    assert Score.of([], 0.0) == Score(0.0, 0, 1.0, 0.0)
    assert Score.of([True, False] * 50, 0).stderr == pytest.approx(math.sqrt(0.25 / 100))
    assert Score.of([True, False], 0.25).json() == {"score": 0.5, "n": 2, "stderr": 0.353553, "chance": 0.25}


@pytest.mark.parametrize("right", [True, False])
def test_stderr_of_few_items_that_are_all_right_or_all_wrong(right: bool) -> None:
    """The error is the bound of Wilson's interval, 1 / (n + 1)."""
    one, ten, many = (Score.of([right] * n, 0.0) for n in (1, 10, 999))
    assert (one.stderr, ten.stderr, many.stderr) == (0.5, 0.090909, 0.001)
    assert str(one) == f"{right:.3f} ± 0.500 (n 1, chance 0.00)"
    assert Score.of_means([0.25] * 3, 0.0).stderr == 0.25, "of pass@1 too"


def test_a_score_has_parts() -> None:
    right = [True, False, True, True, False, False]
    score = Score.of(right, 0.1, ["a", "b", "a", "", "b", "a"])
    assert (score.score, score.n) == (0.5, 6)
    assert score.parts == {"a": Score.of([True, True, False], 0.1), "b": Score.of([False, False], 0.1)}
    assert list(score.json()["parts"]) == ["a", "b"]
    assert score.json()["parts"]["a"] == {"score": 0.666667, "n": 3, "stderr": 0.272166, "chance": 0.1}
    assert "parts" not in Score.of(right, 0.1).json() and "parts" not in Score.of(right, 0.1, [""] * 6).json()


def test_an_evaluation_scores_the_parts_of_its_task() -> None:
    class Halves(Sums):
        def part(self, i: int) -> str:
            return "low" if i < 10 else "high" if i >= 30 else ""

    right = references(Sums("test"))
    known = set(list(right)[:15])
    engine = ScriptedEngine(lambda prompt: right[prompt] if prompt in known else "no idea")
    score = evaluate(engine, Halves("test"), "sums", 100, 8)
    assert score.score == 15 / 40
    assert score.parts == {"high": Score.of([False] * 10, 0.0), "low": Score.of([True] * 10, 0.0)}


def test_verdicts_match_their_rows() -> None:
    right = references(Sums("test"))
    assert evaluate(ScriptedEngine(right.get), Sums("test"), "sums", 100, 8) == Score(1.0, 40, round(1 / 41, 6), 0.0)
    shifted = dict(zip(right, [*list(right.values())[1:], "0"], strict=True))
    assert evaluate(ScriptedEngine(shifted.get), Sums("test"), "sums", 100, 8).score == 0.0


def test_a_prompt_longer_than_the_context_counts_as_wrong() -> None:
    right = references(Sums("test"))
    shortest = min(
        len(BYTES.tokenizer.encode(prompt.split("<|user_start|>")[1].split("<|user_end|>")[0])) for prompt in right
    )
    engine = ScriptedEngine(right.get, context=shortest + 5)  # bos, the user's two, the assistant's start, one to say
    score = evaluate(engine, Sums("test"), "sums", 100, 8)
    assert score == replace(Score.of([True] * 10 + [False] * 30, 0.0), did_not_fit=30)
    assert score.json()["did_not_fit"] == 30
    assert str(score) == "0.250 ± 0.068 (n 40, 30 did not fit, chance 0.00)"
    passes = pass_at(engine, [(Sums("test"), row) for row in range(8, 12)], (1, 2), 2, 8, 1.0, 0, "pass")
    assert {one.did_not_fit for one in passes.values()} == {2}
    sample = evaluate(engine, Sums("test"), "sums", 20, 8).json()
    assert items_asked(sample).startswith("20 of 40, ") and items_asked(sample).endswith(" did not fit")
    assert "did not fit" in task_table({"sums": sample})


def test_excluded_items_are_not_asked_and_the_sample_size_stays() -> None:
    asked: list[str] = []
    engine = ScriptedEngine(lambda prompt: asked.append(prompt) or "?")
    prompts = list(references(Sums("test")))
    assert evaluate(engine, Sums("test"), "sums", 15, 8).json().get("left_out") is None
    before = list(asked)
    left_out = [prompts.index(prompt) for prompt in before[::2]]
    asked.clear()
    score = evaluate(engine, Sums("test"), "sums", 15, 8, left_out=left_out)
    assert (score.n, score.left_out, score.json()["left_out"]) == (15, 8, 8)
    assert len(set(asked)) == 15 and not set(asked) & set(before[::2])
    asked.clear()
    assert evaluate(engine, Sums("test"), "sums", 15, 8, left_out=range(30)).n == 10, "only 10 remain"
    assert asked == prompts[30:]
    assert evaluate(engine, Sums("test"), "sums", 15, 8, left_out=range(40)).json() == {
        **Score.of([], 0.0).json(),
        "left_out": 40,
    }


@pytest.mark.parametrize("choices", [3, 4])
def test_an_oracle_scores_one_in_multiple_choice(choices: int) -> None:
    quiz = Quiz(300, choices)
    right = references(quiz)
    engine = ScriptedEngine(letters=lambda prompt: {right[prompt]: 1.0})
    assert evaluate(engine, quiz, "quiz", 1_000, 8) == Score(1.0, 300, round(1 / 301, 6), round(1 / choices, 6))


def test_chance_is_that_of_the_items_asked_and_of_each_part() -> None:
    class Mixed(Quiz):
        """Three, four or five choices, as in ARC."""

        def letters(self, i: int):
            return LETTERS[: 3 + i % 3]

        def part(self, i: int) -> str:
            return f"of {3 + i % 3}"

    score = evaluate(ScriptedEngine(letters=lambda prompt: {"A": 1.0}), Mixed(90, 3), "quiz", 1_000, 8)
    assert score.chance == pytest.approx((1 / 3 + 1 / 4 + 1 / 5) / 3, abs=1e-6)
    chances = {name: part.chance for name, part in score.parts.items()}
    assert chances == {"of 3": pytest.approx(1 / 3, abs=1e-6), "of 4": 0.25, "of 5": 0.2}


def test_a_constant_identity_answer_scores_chance_at_any_k() -> None:
    task = make_task("identity", "test")
    sentence = "I am LanBot, a program, not another, made by the person who runs me."
    engine = ScriptedEngine(lambda prompt: sentence)
    score = evaluate(engine, task, "identity", 200, 8)
    assert score.score == score.chance and 0.4 < score.chance < 0.55
    assert {part.score - part.chance for part in score.parts.values()} == {0.0}
    assert (score.parts["maker"].chance, score.parts["sum"].chance) == (1.0, 0.0)
    for one in pass_at(engine, [(task, row) for row in range(50)], (1, 4), 4, 8, 1.0, 0, "pass").values():
        assert one.score == one.chance < 0.7, "a second identical answer does not help"


def test_only_letters_of_the_row_can_be_chosen() -> None:
    quiz = Quiz(100, 3)
    right = references(quiz)
    engine = ScriptedEngine(letters=lambda prompt: {"D": 5.0, right[prompt]: 1.0})
    assert evaluate(engine, quiz, "quiz", 1_000, 8).score == 1.0


def test_random_letters_score_chance() -> None:
    quiz, rng = Quiz(1_500), random.Random(0)
    engine = ScriptedEngine(letters=lambda prompt: {letter: rng.random() for letter in "ABCD"})
    score = evaluate(engine, quiz, "quiz", 10_000, 8)
    assert score.n == 1_500
    assert abs(score.score - 0.25) < 3 * math.sqrt(0.25 * 0.75 / 1_500)
    assert score.stderr == pytest.approx(math.sqrt(0.25 * 0.75 / 1_500), rel=0.1)


@pytest.mark.usefixtures("real_mirror")
@pytest.mark.parametrize("name", ["arc_easy", "arc_challenge", "mmlu"])
def test_real_choice_tasks_score_chance_for_random_letters_and_1_for_an_oracle(name: str) -> None:
    task, rng, context = make_task(name, "test"), random.Random(1), 300
    rows = sample_rows(task, 400, 0)
    right = {tuple(BYTES.prompt_of(task.conversation(row))[-context:]): task.conversation(row) for row in rows}
    answers = {BYTES.tokenizer.decode(prompt): row["messages"][-1]["content"] for prompt, row in right.items()}
    guess = ScriptedEngine(letters=lambda prompt: {letter: rng.random() for letter in LETTERS}, context=context)
    oracle = ScriptedEngine(letters=lambda prompt: {answers[prompt]: 1.0}, context=context)
    guessed, known = (evaluate(engine, task, name, 400, 8) for engine in (guess, oracle))
    assert guessed.chance == known.chance == pytest.approx(0.25, abs=0.002) and known.score == 1.0
    assert abs(guessed.score - guessed.chance) < 3 * math.sqrt(guessed.chance * (1 - guessed.chance) / 400)


def test_rows_of_different_lengths_are_scored_alike_in_any_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    quiz = Quiz(120)
    right = references(quiz)
    scores, forwards = [], []
    for tokens in (1, 500, 100_000):
        monkeypatch.setitem(TOKENS, "cpu", tokens)
        engine = ScriptedEngine(letters=lambda prompt: {right[prompt]: 1.0})
        scores.append(evaluate(engine, quiz, "quiz", 1_000, 8).score)
        forwards.append(engine.forward)
    assert scores == [1.0] * 3
    assert forwards[0] > forwards[1] > forwards[2] == 1


def test_logits_that_are_not_finite_are_an_error() -> None:
    with pytest.raises(UserError, match="not finite"):
        evaluate(ScriptedEngine(letters=lambda prompt: {"B": math.nan}), Quiz(4), "quiz", 4, 8)


def test_a_task_for_training_only_is_not_scored() -> None:
    with pytest.raises(ValueError, match="training only"):
        evaluate(ScriptedEngine(), make_task("world_chat", "test"), "world_chat", 1, 1)


# -- errands -----------------------------------------------------------------------------------------------

ERRANDS = AgentTasks("test")


class Doer(ScriptedEngine):
    """Answers each prompt with the next of its replies, executing their calls with the request's tools."""

    def __init__(self, replies: dict[str, list[list[Part]]], context: int = 2_000) -> None:
        super().__init__(context=context)
        self.replies = replies
        self.batches: list[int] = []

    def generate(self, prompts, sampling, seed=0, on_event=None, keys=None, call_handlers=None, on_finished=None):
        assert all(len(prompt) < self.config.context for prompt in prompts)
        self.batches.append(len(prompts))
        return [
            Completion(p, self.ids(BYTES.tokenizer.decode(p), tool))
            for p, tool in zip(prompts, call_handlers, strict=True)
        ]

    def ids(self, prompt: str, tool) -> list[int]:
        special, ids = BYTES.tokenizer.special, []
        for part in self.replies[prompt].pop(0):
            if part["type"] == "text":
                ids += BYTES.tokenizer.encode(part["text"])
            if part["type"] == "python":
                result = tool(part["text"])
                ids += [special["<|python_start|>"], *BYTES.tokenizer.encode(part["text"]), special["<|python_end|>"]]
                if result is None:  # the tool ends the turn
                    return ids
                ids += [special["<|output_start|>"], *BYTES.tokenizer.encode(result), special["<|output_end|>"]]
        return [*ids, special["<|assistant_end|>"]]


def replies(rows, say=lambda row, reply: reply) -> dict[str, list[list[Part]]]:
    """prompt -> its replies in the order of the rows."""
    said: dict[str, list[list[Part]]] = {}
    for row in rows:
        errand = ERRANDS.errand(row)
        for request, reply in zip(errand.requests, errand.replies, strict=True):
            prompt = BYTES.tokenizer.decode(BYTES.prompt_of(chat(request, "")))
            said.setdefault(prompt, []).append(say(row, reply))
    return said


def test_an_oracle_does_all_errands() -> None:
    rows = range(40)
    engine, progress = Doer(replies(rows)), []
    envs = do_errands(engine, ERRANDS, rows, 96, progress.append)
    assert [env.right() for env in envs] == [True] * 40
    assert [env.errand for env in envs] == [ERRANDS.errand(i) for i in rows]
    two = [i for i in rows if len(ERRANDS.errand(i).requests) == 2]
    assert sum(engine.batches) == 40 + len(two) and progress[-1] == 40
    for i, env in zip(rows, envs, strict=True):
        assert [parts(m[-1]) for m in env.conversations] == ERRANDS.errand(i).replies, "with the outputs of its tools"


def test_an_evaluation_of_errands_has_a_score_for_each_kind() -> None:
    rows = sample_rows(ERRANDS, 60, 0)
    score = evaluate(Doer(replies(rows)), ERRANDS, "agent_tasks", 60, 96)
    assert (score.score, score.n) == (1.0, 60)
    assert sum(part.n for part in score.parts.values()) == 60
    assert {name.partition(",")[0] for name in score.parts} == {"compute", "read", "write", "search", "remember"}


def test_an_answer_without_calls_does_no_errand() -> None:
    """Nothing is written or remembered without calls; the text of the answer may still be right."""
    rows = range(40)
    engine = Doer(replies(rows, lambda row, reply: [text(spoken({"role": "assistant", "content": reply}))]))
    for env in do_errands(engine, ERRANDS, rows, 96):
        assert env.right() == (env.errand.kind != "write")


def test_failing_errands_do_not_affect_others() -> None:
    rows = list(range(40))
    done = replies(rows, lambda row, reply: reply if row % 3 else [python("nonsense("), text("?")])
    verdicts = [env.right() for env in do_errands(Doer(done), ERRANDS, rows, 96)]
    assert verdicts == [i % 3 != 0 for i in rows]


def test_a_request_longer_than_the_context_counts_as_wrong() -> None:
    envs = do_errands(Doer({}, context=8), ERRANDS, range(10), 96)
    assert not any(env.right() for env in envs) and all(env.did_not_fit for env in envs)
    assert all(len(env.conversations) == len(env.errand.requests) for env in envs)


def test_endless_calls_are_stopped() -> None:
    endless = replies(range(5), lambda row, reply: [python(f"1+{n}") for n in range(1_000)])
    for env in do_errands(Doer(endless), ERRANDS, range(5), 96):
        made = [part for part in parts(env.conversations[-1][-1]) if part["type"] == "python"]
        assert CALLS <= len(made) <= CALLS + 2 and not env.right()


def test_a_real_engine_runs_errands_to_the_end(make_model, chat_format) -> None:  # type: ignore[no-untyped-def]
    """An untrained model reaches the end of every errand and changes no files."""
    engine = Engine(make_model(context=160), chat_format)
    envs = do_errands(engine, ERRANDS, range(6), 6)
    assert len(envs) == 6 and all(env.request() is None for env in envs)
    assert [env.files for env in envs] == [env.errand.files for env in envs]


# -- pass@k ------------------------------------------------------------------------------------------------


def passes(right: list[list[bool]], chance: float = 0.0, ks: tuple[int, ...] = ()) -> dict[str, Score]:
    """pass@k of items whose samples are right as `right` says; for 1 and all of them if ks is left out."""
    task = Sums("test")
    task.chance = chance
    k = len(right[0])
    scripts = {
        BYTES.tokenizer.decode(BYTES.prompt_of(task.conversation(i))): iter(
            [str(i + 1) if one else "no" for one in samples]
        )
        for i, samples in enumerate(right)
    }
    engine = ScriptedEngine(lambda prompt: next(scripts[prompt]))
    scores = pass_at(engine, [(task, i) for i in range(len(right))], ks or (1, k), k, 8, 1.0, 0, "pass")
    assert all(next(script, None) is None for script in scripts.values()), "an item was sampled too seldom"
    return scores


def test_pass_at_k_of_scripted_answers() -> None:
    Y, N = True, False
    scores = passes([[Y, Y, Y, Y], [N, N, N, N], [Y, N, N, N], [N, N, Y, Y]])
    assert list(scores) == ["pass@1", "pass@4"]
    means = [1.0, 0.0, 0.25, 0.5]
    mean = sum(means) / 4
    error = math.sqrt(sum((m - mean) ** 2 for m in means) / 3 / 4)
    assert scores["pass@1"] == Score(mean, 4, round(error, 6), 0.0)
    assert scores["pass@4"] == Score.of([True, False, True, True], 0.0)


def test_pass_at_k_at_its_ends() -> None:
    assert passes([[False] * 8] * 5)["pass@8"].score == 0.0
    all_right = passes([[True] * 8] * 5)
    assert (all_right["pass@1"].score, all_right["pass@8"].score, all_right["pass@1"].stderr) == (
        1.0,
        1.0,
        0.166667,
    )


def test_pass_at_k_does_not_depend_on_the_order_of_samples() -> None:
    for place in range(4):
        scores = passes([[i == place for i in range(4)]] * 3)
        assert (scores["pass@1"].score, scores["pass@4"].score) == (0.25, 1.0)


def test_the_chance_of_pass_at_k_is_that_of_k_tries() -> None:
    scores = passes([[True, False]] * 2, chance=0.5)
    assert (scores["pass@1"].chance, scores["pass@2"].chance) == (0.5, 0.75)


@pytest.mark.parametrize("n", [1, 4, 6])
def test_unbiased_is_the_average_over_all_choices_of_k_samples(n: int) -> None:
    for right, k in itertools.product(range(n + 1), range(1, n + 1)):
        samples = [True] * right + [False] * (n - right)
        chosen = [any(some) for some in itertools.combinations(samples, k)]
        assert unbiased(n, right, k) == pytest.approx(sum(chosen) / len(chosen), abs=1e-12)


def test_pass_at_of_more_samples_than_k_is_unbiased_with_the_error_of_item_means() -> None:
    rows = [
        [True, False, False, False, True, False],
        [False] * 6,
        [True] * 6,
        [False, False, True, False, False, False],
    ]
    scores = passes(rows, ks=(1, 2, 6))
    for k in (1, 2):
        values = [unbiased(6, sum(samples), k) for samples in rows]
        error = statistics.stdev(values) / 2
        assert scores[f"pass@{k}"] == Score(round(statistics.mean(values), 6), 4, round(error, 6), 0.0)
    assert scores["pass@6"] == Score.of([True, False, True, True], 0.0)


# -- what is sampled, what fails ---------------------------------------------------------------------------


def test_a_sample_is_marked_as_one() -> None:
    engine = ScriptedEngine(references(Sums("test")).get)
    part, whole = (evaluate(engine, Sums("test"), "sums", limit, 8) for limit in (15, 40))
    assert (part.items, items_asked(part.json()), part.json()["sampled"], part.json()["items"]) == (
        40,
        "15 of 40",
        True,
        40,
    )
    assert (whole.items, items_asked(whole.json())) == (0, "40") and "sampled" not in whole.json()
    rest = evaluate(engine, Sums("test"), "sums", 15, 8, left_out=range(25))
    assert rest.n == 15 and "sampled" not in rest.json(), "all remaining items were asked"


class Programs(Sums):
    """Answers to odd rows fail, with different faults."""

    runs_code = True
    answer_tokens = 30
    size = 8

    def faults(self, rows, answers):
        self.sandbox_level = 2
        return ["" if row % 2 == 0 else "timeout" if row == 3 else "wrong" for row in rows]


def test_program_faults_are_counted_and_the_sandbox_level_is_recorded() -> None:
    limits = []

    class Telling(ScriptedEngine):
        def generate(self, prompts, sampling, *args, **kwargs):
            limits.append(sampling.max_tokens)
            return super().generate(prompts, sampling, *args, **kwargs)

    score = evaluate(Telling(lambda prompt: "x"), Programs("test"), "programs", 100, 8)
    assert (score.score, score.failed, score.sandbox) == (0.5, {"timeout": 1, "wrong": 3}, 2)
    assert (score.json()["failed"], score.json()["sandbox_level"]) == ({"timeout": 1, "wrong": 3}, 2)
    evaluate(Telling(lambda prompt: "x"), Programs("test"), "programs", 100, 99)
    assert limits == [30, 99], "at least answer_tokens are allowed"
    passes = pass_at(ScriptedEngine(lambda prompt: "x"), [(Programs("test"), 2)], (1,), 2, 8, 1.0, 0, "pass")
    assert (passes["pass@1"].score, passes["pass@1"].sandbox, passes["pass@1"].failed) == (1.0, 2, {})
    items = [(Programs("test"), row) for row in (1, 2, 3)]
    passes = pass_at(ScriptedEngine(lambda prompt: "x"), items, (1, 2), 2, 8, 1.0, 0, "pass")
    assert passes["pass@2"].failed == {"timeout": 2, "wrong": 2}, "of all samples"


# -- the rest ----------------------------------------------------------------------------------------------


def test_sampled_rows_are_seeded_distinct_and_stable() -> None:
    task = make_task("word_problems", "test")
    rows = sample_rows(task, 50, 0)
    assert rows == sample_rows(task, 50, 0) == sorted(set(rows)) and len(rows) == 50
    assert all(0 <= row < len(task) for row in rows)
    assert rows != sample_rows(task, 50, 1)
    assert rows[:5] == [8, 31, 118, 124, 157], "other rows than before: scores are no longer comparable"


def test_a_limit_above_the_size_takes_all_rows() -> None:
    assert sample_rows(Sums("test"), 40, 7) == sample_rows(Sums("test"), 100, 8) == list(range(40))


def test_answers_are_readable_with_their_calls() -> None:
    message = {"role": "assistant", "content": [text("So "), python("2+2"), output("4"), text("4.\n")]}
    assert readable(message) == "So [2+2 → 4]4."
    assert readable({"role": "assistant", "content": "plain"}) == "plain"
    assert readable({"role": "assistant", "content": [text("{}"), python("{0}"), output("{x}")]}) == "{}[{0} → {x}]"


def test_answer_all_asks_each_question_alone() -> None:
    prompts: list[str] = []
    counter = itertools.count()

    def say(prompt: str) -> str:
        prompts.append(prompt)
        return f"answer {next(counter)}"

    answers = answer_all(ScriptedEngine(say), ["a?", "b?"], 8)
    assert [readable(answer) for answer in answers] == ["answer 0", "answer 1"]
    expected = [
        BYTES.tokenizer.decode(BYTES.render(chat(q, ""))[0]).removesuffix("<|assistant_end|>") for q in ("a?", "b?")
    ]
    assert prompts == expected


def test_a_question_longer_than_the_context_gets_a_placeholder(make_model, chat_format) -> None:  # type: ignore[no-untyped-def]
    engine = Engine(make_model(context=32), chat_format)
    short, long = answer_all(engine, ["hi", "why? " * 100], 4)
    assert readable(long) == "(longer than the context)" != readable(short)
