"""lm-eval on our exported models: the same choices as our code makes, with data from a mirror."""

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lanbot.chat.formats.base import ChatFormat
from lanbot.cli import main
from lanbot.config.recipe_file import load
from lanbot.config.run import Run
from lanbot.core.errors import UserError
from lanbot.distributed.runtime import Runtime
from lanbot.evals import lm_eval
from lanbot.evals.scorer import ModelScorer
from lanbot.models import saved
from lanbot.models.transformer import Transformer
from lanbot.models.weights import save_model
from lanbot.synthetic import world

RUNTIME = Runtime.single()

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'lanbot[eval]'")
MakeModel = Callable[..., Transformer]
ROWS = 40
THREE = 10
"""Rows that have three choices; the others have four."""


def row(i: int, rng: random.Random) -> dict[str, object]:
    labels = "ABC" if i < THREE else "ABCD"
    texts = [" ".join(rng.choices(world.WORDS, k=rng.randint(1, 4))) for _ in labels]
    question = " ".join(rng.choices(world.WORDS, k=rng.randint(3, 30))) + "?"
    key = labels[rng.randrange(len(labels))]
    return {"id": str(i), "question": question, "choices": {"text": texts, "label": list(labels)}, "answerKey": key}


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder, rng = tmp_path / "mirror", random.Random(0)
    (folder / "arc" / "ARC-Easy").mkdir(parents=True)
    for split in ("train", "validation", "test"):
        lines = "".join(json.dumps(row(i, rng)) + "\n" for i in range(ROWS))
        with gzip.open(folder / "arc" / "ARC-Easy" / f"{split}.jsonl.gz", "wt") as file:
            file.write(lines)
    monkeypatch.setenv("LANBOT_MIRROR", str(folder))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return folder


def exported(model: Transformer, chat_format: ChatFormat, folder: Path) -> str:
    save_model(model, folder)
    chat_format.save(folder)
    return str(folder)


@pytest.mark.usefixtures("mirror")
def test_lm_eval_agrees_with_our_code_on_the_exported_model(
    make_model: MakeModel, chat_format: ChatFormat, tmp_path: Path
) -> None:
    model = make_model(context=60)  # some texts are longer
    name = exported(model, chat_format, tmp_path / "model")
    found = lm_eval.evaluate(name, ["arc_easy"], None, 0, RUNTIME, ModelScorer(model, chat_format, name))
    acc, acc_norm = found.figures["arc_easy"]
    assert (acc.metric, acc_norm.metric) == ("acc", "acc_norm")
    assert acc.n == acc.items == ROWS and acc.shots == 0
    assert acc.chance == pytest.approx((THREE / 3 + (ROWS - THREE) / 4) / ROWS, abs=1e-6)
    assert acc.stderr == pytest.approx((acc.score * (1 - acc.score) / (ROWS - 1)) ** 0.5, abs=1e-5)
    same = found.agreement["arc_easy"]
    assert same.differ == 0 and same.score == acc.score and same.nats < 1e-3
    assert found.settings["begins_with"] == "<|bos|>" and found.settings["context"] == 60

    other = lm_eval.evaluate(
        name, ["arc_easy"], None, 0, RUNTIME, ModelScorer(make_model(seed=1, context=60), chat_format, name)
    )
    assert other.figures == found.figures
    assert other.agreement["arc_easy"].differ > 0, "other weights are detected"
    assert other.agreement["arc_easy"].nats > 0.1


@pytest.mark.usefixtures("mirror")
def test_a_limit_is_a_seeded_sample_and_reported_as_one(
    make_model: MakeModel, chat_format: ChatFormat, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model()
    name = exported(model, chat_format, tmp_path / "model")
    own = ModelScorer(model, chat_format, name)
    first, again, other = (lm_eval.evaluate(name, ["arc_easy"], 12, seed, RUNTIME, own) for seed in (0, 0, 1))
    assert first.json() == again.json()
    assert first.agreement != other.agreement, "another seed asks other items"
    said = first.json()["tasks"]["arc_easy"]
    assert (said["acc"]["n"], said["acc"]["items"], said["acc"]["sampled"]) == (12, ROWS, True)
    assert said["lanbot"]["differ"] == 0
    assert "%|" not in capsys.readouterr().err, "no progress bars in a log"
    assert "12 of 40" in str(first) and "0 of 12 choices differ" in str(first)


def test_tasks_that_cannot_run_are_an_error_of_two_lines(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def error(task: str) -> str:
        with pytest.raises(UserError) as raised:
            lm_eval.evaluate(str(tmp_path / "nowhere"), [task], None, 0, RUNTIME)
        assert "\n" not in raised.value.problem + raised.value.remedy
        return raised.value.problem + " | " + raised.value.remedy

    assert error("arc_eazy").startswith("arc_eazy: lm-eval has no such task")
    assert error("humaneval").startswith("humaneval: lm-eval would execute generated code without a sandbox")
    assert error("mbpp").startswith("mbpp: lm-eval would execute"), "before its data is loaded"
    assert "Rowan/hellaswag: not in the mirror" in error("hellaswag")
    assert "nowhere: transformers cannot open it" in error("arc_easy")
    (mirror / "arc" / "ARC-Easy" / "test.jsonl.gz").unlink()
    assert "the mirror has no" in error("arc_easy") and "test.jsonl.gz" in error("arc_easy")
    two = Runtime(0, 2, torch.device("cpu"), torch.float32)
    with pytest.raises(UserError, match="one process"):
        lm_eval.evaluate(str(tmp_path / "nowhere"), ["arc_easy"], None, 0, two)


@pytest.fixture
def lanbot(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The output of a command, or its error if it fails."""

    def call(*words: str) -> str:
        try:
            code = main(["eval", *words])
        except SystemExit as ended:
            code = ended.code
        out, err = capsys.readouterr()
        return err if code else out

    return call


def test_the_command_evaluates_runs_and_models(
    mirror: Path,
    make_model: MakeModel,
    chat_format: ChatFormat,
    tmp_path: Path,
    lanbot: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LANBOT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(saved, "latest", lambda phase: phase / "step_000007")
    (tmp_path / "tiny.toml").write_text('name = "tiny"\nseed = 3\n[model]\ncontext = 64\n')
    run = Run.create(load(tmp_path / "tiny.toml"))
    chat_format.save(run.phase("tokenizer"))
    folder = run.phase("base") / "step_000007"
    exported(make_model(), chat_format, folder)
    (run.phase("base") / "evals.json").write_text('{"checkpoint": "step_000007"}')
    asked = ("--harness", "lm-eval", "--limit", "5", "--json", "--mirror", str(mirror))
    of_run, of_model = (json.loads(lanbot(name, *asked)) for name in ("tiny", str(folder)))
    assert set(of_run["tasks"]) == {"arc_easy"} and of_run["model"] == str(folder) == of_model["model"]
    assert of_run["settings"]["seed"] == 3 and of_run["tasks"]["arc_easy"]["lanbot"]["differ"] == 0
    assert (of_run["settings"]["begins_with"], of_model["settings"]["begins_with"]) == ("<|bos|>", None)
    assert "lanbot" not in of_model["tasks"]["arc_easy"], "a model outside a run is scored by lm-eval only"
    assert "--pass-k: not with --harness" in lanbot("tiny", "--harness", "lm-eval", "--pass-k", "1")
    assert "is a model, not a run" in lanbot(str(folder), "--harness", "lm-eval", "--phase", "base")
    assert "lm-eval" in lanbot("tiny", "--harness", "other")
