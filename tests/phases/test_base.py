"""Base starts from bigram counts, once."""

import json
from pathlib import Path
from typing import Any

import pytest

from lanbot.config.recipe_file import load
from lanbot.config.run import Run
from lanbot.distributed.runtime import Runtime
from lanbot.phases import base, tokenizer

RUNTIME = Runtime.single()

RECIPE = """
[tokenizer]
vocab_size = 400
max_chars = 100_000
[model]
depth = 2
dim = 32
head_dim = 16
context = 64
[base]
tokens = 2_048
batch_tokens = 512
checkpoint_every = 2
eval_every = 2
eval_tokens = 2_048
"""


def run_of(folder: Path, **overrides: str) -> Run:
    folder.mkdir()
    (folder / "recipe.toml").write_text(RECIPE)
    run = Run(folder / "run", load(folder / "recipe.toml", {k.replace("__", "."): v for k, v in overrides.items()}))
    tokenizer.train(run)
    return run


def measured(run: Run) -> list[float]:
    rows = [json.loads(line) for line in (run.phase("base") / "metrics.jsonl").read_text().splitlines()]
    return [row["val_bpb"] for row in rows if "val_bpb" in row]


def test_bigram_initialisation_lowers_the_first_loss(tmp_path: Path) -> None:
    with_pairs, without = run_of(tmp_path / "a"), run_of(tmp_path / "b", base__pair_tokens="0")
    for run in (with_pairs, without):
        base.train_base(run, RUNTIME)
    assert measured(with_pairs)[0] < measured(without)[0] - 1
    assert measured(with_pairs)[-1] < measured(with_pairs)[0] - 0.1, "training adds to it"


@pytest.mark.parametrize("softmax_tokens", ["0", "64"])
def test_a_resumed_run_is_the_same_and_does_not_initialise_from_bigrams_again(
    softmax_tokens: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = (run_of(tmp_path / name, base__softmax_tokens=softmax_tokens) for name in "ab")
    base.train_base(whole, RUNTIME)

    def stop(self: Any, *of_the_step: Any) -> Any:
        if self.step == 2:
            raise KeyboardInterrupt
        return update(self, *of_the_step)

    update = base.Trainer.update
    with monkeypatch.context() as patch:
        patch.setattr(base.Trainer, "update", stop)
        with pytest.raises(KeyboardInterrupt):
            base.train_base(stopped, RUNTIME)
    monkeypatch.setattr(base, "init_from_bigrams", lambda *_: pytest.fail("bigrams again"))
    base.train_base(stopped, RUNTIME)
    assert measured(whole) == measured(stopped)
