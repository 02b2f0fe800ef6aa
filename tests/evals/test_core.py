"""CORE's scores equal those of the plain loop for any batch and number of ranks, for our models and others.

This file is the test and, under torchrun, the ranks: python -m torch.distributed.run ... test_core.py FOLDER
"""

import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from lanbot.chat.formats import load_format
from lanbot.chat.formats.base import ChatFormat
from lanbot.core.errors import UserError
from lanbot.data.corpus import Corpus
from lanbot.data.file_formats import Chunk
from lanbot.distributed.runtime import Runtime
from lanbot.evals import core as core_eval
from lanbot.evals import hf_scorer, scorer
from lanbot.evals.bpb import Validation, text_rows
from lanbot.evals.core import CoreResult, TaskScore
from lanbot.evals.score import Score
from lanbot.evals.scorer import Judged, ModelScorer, batches, plans
from lanbot.models.transformer import Transformer
from lanbot.models.weights import load_model, save_model
from lanbot.synthetic import world
from lanbot.tasks import core
from lanbot.tasks.core import CHOICE, GREEDY, SCHEMA, TASKS, CoreTask, Prompt

RUNTIME = Runtime.start()
HFScorer = partial(hf_scorer.HFScorer, runtime=RUNTIME)
evaluate = partial(core_eval.evaluate, runtime=RUNTIME)

MakeModel = Callable[..., Transformer]
QUIZ = CoreTask("quiz", "quiz", CHOICE, 3, 25, core.ANSWER)
LETTERS = CoreTask("letters", "letters", CHOICE, 2, 20)
WHO = CoreTask("who", "who", SCHEMA, 0, 50)
WORDS = CoreTask("words", "words", GREEDY, 2)
MADE = (QUIZ, LETTERS, WHO, WORDS)
LOADED = cache(core.load)


def items_of(task: CoreTask) -> list[core.Item]:
    """Made-up items of unequal lengths."""
    rng = random.Random(task.label)

    def some(most: int) -> str:
        return " ".join(rng.choices(world.WORDS, k=rng.randint(1, most)))

    def item(i: int) -> core.Item:
        if task.kind == GREEDY:
            return {"context": f"{some(20)} is", "continuation": some(1 if i % 2 else 3)}
        if task.kind == SCHEMA:
            begin = some(12)
            contexts = [f"{begin} {some(2)}" for _ in range(2)]
            return {"context_options": contexts, "continuation": some(6), "gold": rng.randrange(2)}
        choices = ["A", "B", "C", "D"] if task is LETTERS else [some(5) for _ in range(4)]
        return {"query": f"{some(15)}?", "choices": choices, "gold": rng.randrange(4)}

    return [item(i) for i in range(25)]


@pytest.fixture(autouse=True)
def made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "load", lambda task, options=None: items_of(task) if task in MADE else LOADED(task))


def prompts_of(task: CoreTask, one: ModelScorer | hf_scorer.HFScorer, context: int | None) -> list[list[Prompt]]:
    items = items_of(task)
    return [core.prompts(task, one.encode(core.texts(task, items, i)), context) for i in range(len(items))]


def plain(logits_of: Callable[[torch.Tensor], torch.Tensor], prompts: Sequence[Prompt]) -> list[Judged]:
    """Each prompt alone, all logits."""
    judged = []
    for prompt in prompts:
        ids = torch.tensor([prompt.ids])
        with torch.no_grad():
            logits = logits_of(ids)[0, prompt.start - 1 : -1].float()
        targets = ids[0, prompt.start :]
        judged.append(Judged(F.cross_entropy(logits, targets).item(), bool((logits.argmax(-1) == targets).all())))
    return judged


def assert_same(ours: list[list[Judged]], theirs: list[list[Judged]]) -> None:
    assert [[j.greedy for j in item] for item in ours] == [[j.greedy for j in item] for item in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert [j.loss for j in a] == pytest.approx([j.loss for j in b], abs=2e-4)
        assert min(range(len(a)), key=lambda i: a[i].loss) == min(range(len(b)), key=lambda i: b[i].loss)


# -- a model of ours ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"family": "qwen3"},
        {"family": "qwen2"},
        {"family": "llama"},
        {"family": "qwen3", "tie_embeddings": True, "n_kv_heads": 4},
        {"family": "llama", "tie_embeddings": True, "n_kv_heads": 1},
    ],
    ids=["qwen3", "qwen2", "llama", "qwen3, tied, a key head for each", "llama, tied, one key head"],
)
@pytest.mark.parametrize("context", [40, 400])
def test_scores_are_those_of_each_prompt_alone(
    make_model: MakeModel, chat_format: ChatFormat, changes: dict[str, Any], context: int
) -> None:
    """At context 40 most prompts are truncated, each option by a different number of tokens."""
    model = make_model(**changes, context=context)
    one, cut, shared = ModelScorer(model, chat_format, "tiny"), 0, 0
    for task in MADE:
        prompts = prompts_of(task, one, one.context)
        cut += sum(prompt.cut > 0 for item in prompts for prompt in item)
        shared += sum(any(plan.branches) for plan in plans(prompts))
        theirs = [plain(lambda ids: model.logits(model(ids)), item) for item in prompts]
        assert_same(one.score(prompts), theirs)
    assert (cut > 100) == (context == 40)
    assert shared > 40 or context == 40


def test_some_greedy_answers_are_right(make_model: MakeModel, chat_format: ChatFormat) -> None:
    """Continuations are generated by the model, so that the comparison above covers right answers too."""
    model = make_model(context=400)
    one, prompts = ModelScorer(model, chat_format, "tiny"), []
    for item in prompts_of(WORDS, ModelScorer(model, chat_format, "tiny"), None):
        ids = item[0].ids[: item[0].start]
        for _ in range(3):
            with torch.no_grad():
                ids = [*ids, int(model.logits(model(torch.tensor([ids])))[0, -1].argmax())]
        prompts.append([Prompt(ids, len(ids) - 3), Prompt([*ids[:-2], (ids[-2] + 1) % 300, ids[-1]], len(ids) - 3)])
    assert [[j.greedy for j in item] for item in one.score(prompts)] == [[True, False]] * 25


@pytest.mark.parametrize("tokens", [1, 150, 4_096])
def test_batches_do_not_matter(
    make_model: MakeModel, chat_format: ChatFormat, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = ModelScorer(make_model(context=400), chat_format, "tiny")
    prompts = [item for task in MADE for item in prompts_of(task, one, 400)]
    before = one.score(prompts)
    monkeypatch.setitem(scorer.TOKENS, "cpu", tokens)
    monkeypatch.setitem(scorer.LOGITS, "cpu", 5)
    assert_same(one.score(prompts), before)


def test_of_equally_likely_tokens_the_first_is_greedy() -> None:
    logits = torch.tensor([[0.0, 2.0, 2.0, 1.0]] * 4)
    nll, likeliest = scorer.judge(logits, torch.arange(4))
    assert likeliest.tolist() == [False, True, False, False]
    assert nll.tolist() == pytest.approx((-logits[0].log_softmax(-1)).tolist())
    assert [len(said) for said in scorer.judge(logits[:0], torch.arange(0))] == [0, 0]


def test_long_prompts(make_model: MakeModel, chat_format: ChatFormat) -> None:
    model = make_model(context=3_000)
    rng = random.Random(0)
    begin = [chat_format.bos, *rng.choices(range(300), k=1_500)]
    item = [Prompt([*begin, *rng.choices(range(300), k=n)], 1_501) for n in (4, 9, 1)]
    theirs = plain(lambda ids: model.logits(model(ids)), item)
    assert_same(ModelScorer(model, chat_format, "tiny").score([item]), [theirs])


def test_prompts_that_are_judged_from_their_first_token_are_read_with_others(
    make_model: MakeModel, chat_format: ChatFormat
) -> None:
    """A continuation that fills the context has no prefix; others of its length do."""
    model, rng = make_model(context=400), random.Random(0)
    items = [[Prompt(rng.choices(range(300), k=n), start)] for n, start in ((300, 1), (300, 150), (290, 1), (280, 279))]
    theirs = [plain(lambda ids: model.logits(model(ids)), item) for item in items]
    assert_same(ModelScorer(model, chat_format, "tiny").score(items), theirs)


def test_bf16_is_near_fp32(make_model: MakeModel, chat_format: ChatFormat) -> None:
    scores = []
    for dtype in (torch.float32, torch.bfloat16):
        one = ModelScorer(make_model(context=400, dtype=dtype).to(dtype), chat_format, "tiny")
        scores.append([j.loss for item in one.score(prompts_of(QUIZ, one, 400)) for j in item])
    assert scores[1] == pytest.approx(scores[0], abs=0.15) and scores[1] != scores[0]


def test_the_shared_beginning_is_read_once_and_padding_is_little() -> None:
    rng = random.Random(0)
    items = []
    for _ in range(60):
        begin = rng.choices(range(300), k=rng.randint(100, 400))
        items.append([Prompt([*begin, *rng.choices(range(300), k=rng.randint(1, 9))], len(begin)) for _ in range(4)])
    made = plans(items)
    assert len(made) == 60
    assert sum(map(len, made)) < 0.35 * sum(len(prompt.ids) for item in items for prompt in item)
    together = list(batches(made, 2_000))
    assert sorted(place for batch in together for plan in batch for place in plan.places) == list(range(240))
    padded = sum(len(batch) * max(len(plan.trunk) for plan in batch) for batch in together)
    assert padded < 1.1 * sum(len(plan.trunk) for plan in made)
    assert all(len(batch) * max(len(plan.trunk) for plan in batch) <= 2_000 for batch in together)


# -- models of others --------------------------------------------------------------------------------------


def of_family(family: str, folder: Path, chat_format: ChatFormat) -> Path:
    """A tiny model with random weights, of an architecture of transformers."""
    import transformers

    sizes = {
        "vocab_size": chat_format.tokenizer.vocab_size,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    more = {"intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 400}
    configs = {
        "gpt2": lambda: transformers.GPT2Config(
            vocab_size=chat_format.tokenizer.vocab_size, n_embd=32, n_layer=2, n_head=4, n_positions=400
        ),
        "gemma2": lambda: transformers.Gemma2Config(**sizes, **more, sliding_window=16, final_logit_softcapping=3.0),
        "mamba": lambda: transformers.MambaConfig(
            vocab_size=chat_format.tokenizer.vocab_size, hidden_size=32, num_hidden_layers=2
        ),
        "bert": lambda: transformers.BertConfig(**sizes, intermediate_size=48),
        "few words": lambda: transformers.LlamaConfig(**{**sizes, "vocab_size": 300}, **more),
    }
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(configs[family]())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "A_log" not in name:
                parameter.normal_(0.0, 0.3)
    model.save_pretrained(folder)
    chat_format.save(folder)
    return folder


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "mamba"])
def test_other_architectures_score_as_each_prompt_alone(family: str, tmp_path: Path, chat_format: ChatFormat) -> None:
    one = HFScorer(str(of_family(family, tmp_path, chat_format)), dtype=torch.float32)
    assert one.branching == (family != "mamba"), "a state-space model has no KV cache to branch from"
    assert one.context == (None if family == "mamba" else 400) and one.settings["begins_with"] == "<|bos|>"
    for task in MADE:
        prompts = prompts_of(task, one, one.context)[:8]
        assert_same(one.score(prompts), [plain(lambda ids: one.model(ids).logits, item) for item in prompts])


@pytest.mark.parametrize(("held", "spare", "passes"), [(1, 0, 100), (10_000, 0, 65), (10_000, 16, 20)])
def test_items_of_like_length_are_read_together(
    held: int, spare: int, passes: int, tmp_path: Path, chat_format: ChatFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trunks are cut to the shortest, the rest goes to branches. passes: maximum number of forward pass pairs."""
    one = HFScorer(str(of_family("gemma2", tmp_path, chat_format)), dtype=torch.float32)
    prompts = [item for task in MADE for item in prompts_of(task, one, one.context)]
    prompts.append(prompts[0][:3])  # some items have fewer choices
    theirs = [plain(lambda ids: one.model(ids).logits, item) for item in prompts]
    monkeypatch.setitem(hf_scorer.HELD, "cpu", held)
    monkeypatch.setitem(hf_scorer.SPARE, "cpu", spare)
    read: list[int] = []
    on_top = one._on_top
    monkeypatch.setattr(one, "_on_top", lambda batch, tally: [read.append(len(batch)), on_top(batch, tally)])
    assert_same(one.score(prompts), theirs)
    branched = sum(any(plan.branches) for plan in plans(prompts))
    assert sum(read) == branched > 45 and len(read) <= passes and (len(read) == branched) == (held == 1)


def test_a_model_that_is_not_causal_is_refused(tmp_path: Path, chat_format: ChatFormat) -> None:
    with pytest.raises(UserError, match="depends on later ones"):
        HFScorer(str(of_family("bert", tmp_path, chat_format)), dtype=torch.float32)


def test_token_ids_without_an_embedding_are_an_error(tmp_path: Path, chat_format: ChatFormat) -> None:
    one = HFScorer(str(of_family("few words", tmp_path, chat_format)), dtype=torch.float32)
    with pytest.raises(UserError, match=r"its tokenizer gives token \d+, its embedding has 300"):
        evaluate(one, tasks=[QUIZ])


def test_a_saved_model_of_ours_scores_alike_in_transformers(
    make_model: MakeModel, chat_format: ChatFormat, tmp_path: Path
) -> None:
    model = make_model(context=60)
    save_model(model, tmp_path)
    chat_format.save(tmp_path)
    ours = evaluate(ModelScorer(model, chat_format, "ours"), tasks=MADE)
    theirs = evaluate(HFScorer(str(tmp_path), dtype=torch.float32), tasks=MADE)
    assert ours.verdicts == theirs.verdicts and ours.tasks == theirs.tasks
    assert theirs.settings["context"] == 60


def test_an_open_model_is_scored_alike_by_both(chat_format: ChatFormat, real_mirror: Path) -> None:
    folder = real_mirror / "open_weights" / "stories260k"
    theirs = HFScorer(str(folder), dtype=torch.float32)
    ours = ModelScorer(load_model(folder, torch.float32, torch.device("cpu")), chat_format, "ours")
    assert theirs.bos is not None
    prompts = prompts_of(QUIZ, theirs, theirs.context) + prompts_of(WORDS, theirs, theirs.context)
    assert_same(ours.score(prompts), theirs.score(prompts))


def test_a_model_that_cannot_be_opened_is_an_error_of_two_lines(
    make_model: MakeModel, chat_format: ChatFormat, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="nowhere: transformers cannot open it") as error:
        HFScorer(str(tmp_path / "nowhere"))
    assert "OWNER/NAME" in error.value.remedy and "\n" not in error.value.problem
    save_model(make_model(), tmp_path)
    chat_format.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "walrus"}))
    with pytest.raises(UserError, match=r"transformers cannot open it.*walrus"):
        HFScorer(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(UserError, match=r"its weights lack model\.layers\.2\.\S+ and \d+ more") as error:
        HFScorer(str(tmp_path))
    assert "random numbers" in error.value.remedy


# -- figures -----------------------------------------------------------------------------------------------


class Said:
    """A scorer without a model: loss(text) is the loss of a prompt."""

    name, context = "said", None
    settings: dict[str, str | int | None] = {}  # noqa: RUF012

    def __init__(self, loss: Callable[[str], float]) -> None:
        self.loss = loss
        self.texts: list[str] = []

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Two tokens per text: 0 and the index of the text plus 1."""
        self.texts = list(texts)
        return [[0, i + 1] for i in range(len(texts))]

    def score(self, items: Sequence[Sequence[Prompt]]) -> list[list[Judged]]:
        losses = [[self.loss(self.texts[prompt.ids[-1] - 1]) for prompt in item] for item in items]
        return [[Judged(loss, loss < 0.5) for loss in item] for item in losses]


def guesses(seed: int) -> Said:
    rng = random.Random(seed)
    return Said(lambda text: rng.random())


@pytest.mark.usefixtures("real_mirror")
def test_a_random_scorer_scores_the_guess_rate() -> None:
    tasks = [task for task in TASKS if task.kind != GREEDY]
    assert len(tasks) == 13
    result = evaluate(guesses(3), 1_000, tasks)
    for task in tasks:
        score = result.tasks[task.label].score
        assert score.n >= 100 and score.chance in (0.25, 0.5)
        assert abs(score.score - score.chance) < 3 * math.sqrt(score.chance * (1 - score.chance) / score.n), task.label


@pytest.mark.usefixtures("real_mirror")
def test_an_oracle_scores_one_on_every_task() -> None:
    right: set[str] = set()
    for task in TASKS:
        items = core.load(task)
        for i in range(min(40, len(items))):
            right.add(core.texts(task, items, i)[1 if task.kind == GREEDY else items[i]["gold"]])
    result = evaluate(Said(lambda text: 0.0 if text in right else 1.0), 40)
    assert {label: one.score.score for label, one in result.tasks.items()} == {task.label: 1.0 for task in TASKS}
    assert result.core == pytest.approx(1.0) and 0.004 < result.mean.stderr < 0.01
    assert result.tasks["bigbench_repeat_copy_logic"].json()["sampled"] is False, "it has 32 items"
    assert result.tasks["boolq"].json() == {
        **{"score": 1.0, "n": 40, "stderr": 0.02439, "chance": 0.5, "centered": 1.0, "centered_stderr": 0.064184},
        **{"baseline": 0.62, "kind": CHOICE, "shots": 10, "items": 3_270, "sampled": True, "cut": 0},
    }
    assert "40 of 3,270" in result.table() and "(said, at most 40 items a task)" in str(result)
    wrong = evaluate(Said(lambda text: 1.0 if text in right else 0.0), 10)
    assert all(one.score.score == 0.0 for one in wrong.tasks.values())


def test_figures_carry_n_error_chance_and_settings() -> None:
    result = evaluate(guesses(0), 20, MADE)
    quiz = result.tasks["quiz"]
    p = quiz.score.score
    assert (quiz.score.n, quiz.items, quiz.score.chance) == (20, 25, 0.25)
    assert quiz.score.stderr == pytest.approx(math.sqrt(p * (1 - p) / 20), abs=1e-6)
    assert quiz.centered == pytest.approx(((p - 0.25) / 0.75, quiz.score.stderr / 0.75))
    said = result.json()
    assert said["limit"] == 20 and said["settings"] == {"order_seed": 1337, "shots_seed": 1234}
    assert said["core"] is None and str(result) == "4 of 22 tasks of CORE, at most 20 items a task"
    assert json.loads(json.dumps(said)) == said


def test_core_is_the_mean_of_the_centered() -> None:
    def one(task: CoreTask, p: float) -> TaskScore:
        return TaskScore(task, Score(p, 100, math.sqrt(p * (1 - p) / 100), 0.0), 100, 0)

    accuracies = [0.3 + 0.02 * i for i in range(22)]
    tasks = {task.label: one(task, p) for task, p in zip(TASKS, accuracies, strict=True)}
    result = CoreResult("m", None, {}, tasks, [])
    centered = [
        (p - task.baseline / 100) / (1 - task.baseline / 100) for p, task in zip(accuracies, TASKS, strict=True)
    ]
    errors = [math.sqrt(p * (1 - p) / 100) / (1 - t.baseline / 100) for p, t in zip(accuracies, TASKS, strict=True)]
    assert result.core == pytest.approx(sum(centered) / 22)
    assert result.mean.stderr == pytest.approx(math.sqrt(sum(e * e for e in errors)) / 22)
    del tasks["copa"]
    assert CoreResult("m", None, {}, tasks, []).core is None


def test_a_limit_asks_the_same_items_with_the_same_shots(make_model: MakeModel, chat_format: ChatFormat) -> None:
    one = ModelScorer(make_model(context=400), chat_format, "tiny")
    whole, part = evaluate(one, None, MADE), evaluate(one, 9, MADE)
    assert [v for v in whole.verdicts if v.item < 9] == part.verdicts and len(part.verdicts) == 36
    assert whole.json()["tasks"]["quiz"]["sampled"] is False
    with pytest.raises(UserError, match="limit is 0"):
        evaluate(one, 0, MADE)


def test_truncated_prompts_are_counted(make_model: MakeModel, chat_format: ChatFormat) -> None:
    counts = []
    for context in (40, 400):
        result = evaluate(ModelScorer(make_model(context=context), chat_format, "tiny"), None, [QUIZ])
        counts.append(result.tasks["quiz"].cut)
        assert result.settings["context"] == context
    assert counts == [25, 0]


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(UserError, match="its loss is not finite"):
        evaluate(Said(lambda text: math.nan), None, MADE)


def test_equal_losses_choose_the_first() -> None:
    assert {verdict.answer for verdict in evaluate(Said(lambda text: 1.0), None, [QUIZ]).verdicts} == {0}


# -- ranks -------------------------------------------------------------------------------------------------


def measured(folder: Path) -> dict[str, object]:
    """CORE of the folder's model, in bf16, and its bits per byte."""
    chat_format = load_format(folder)
    model = load_model(folder, torch.bfloat16, torch.device("cpu"))
    core.load = lambda task, options: items_of(task)
    result = evaluate(ModelScorer(model, chat_format, "tiny"), None, MADE)
    texts = [world.document("test", i) for i in range(40)]
    corpus = Corpus([("texts", lambda start: iter([Chunk(texts)][start:]))], None)
    held_out = Validation(text_rows(corpus, chat_format, 100 * 64, 64), chat_format, RUNTIME)
    return {"core": result.json(), "verdicts": list(map(list, result.verdicts)), "bpb": held_out.bits_per_byte(model)}


def test_two_ranks_find_exactly_what_one_finds(make_model: MakeModel, chat_format: ChatFormat, tmp_path: Path) -> None:
    save_model(make_model(context=100), tmp_path)
    chat_format.save(tmp_path)
    alone = json.loads(json.dumps(measured(tmp_path)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__]
    ran = subprocess.run(
        [*command, str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    said = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert [one.pop("size") for one in said] == [2, 2]
    assert said == [alone, alone]


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = {**measured(Path(sys.argv[1])), "size": RUNTIME.size}
    (Path(sys.argv[1]) / f"rank{RUNTIME.rank}.json").write_text(json.dumps(found))
    RUNTIME.close()
