"""From real open weights to a finished model for other software: import, mid, sft, export, opened again."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lanbot.chat.formats import load_format
from lanbot.config import recipe_file
from lanbot.config.run import Run
from lanbot.core.options import Options
from lanbot.distributed.runtime import Runtime
from lanbot.export import Source, export
from lanbot.models.weights import load_model
from lanbot.phases import imported, pipeline
from lanbot.phases.phase import phases_of
from lanbot.tasks.own_answers import FILE

CPU = torch.device("cpu")
RECIPE = """
name = "stories"
phases = ["tokenizer", "base", "mid", "sft"]
[model]
init_from = "hf:maker/stories"
[base]
eval_tokens = 1_024
[mid]
batch_tokens = 1_024
lr_scale = 0.02
eval_tokens = 512
mixture = [{ task = "identity:builtin", rows = 12 }, { task = "own_answers", rows = 8 }]
[sft]
batch_tokens = 1_024
lora_rank = 4
eval_tokens = 512
mixture = [{ task = "word_problems", rows = 8 }]
[evals]
tasks = ["identity:builtin"]
limit = 2
base_limit = 2
max_tokens = 4
"""


@pytest.fixture
def run(real_mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Through all phases, from a mirror in the hub's place."""
    from lanbot.core import hardware

    monkeypatch.setattr(hardware, "matmul_ceiling", lambda device, dtype: 1e12)
    (tmp_path / "hub" / "maker").mkdir(parents=True)
    (tmp_path / "hub" / "maker" / "stories").symlink_to(real_mirror / "open_weights" / "stories260k")
    (tmp_path / "stories.toml").write_text(RECIPE)
    options = replace(Options.from_environment(), mirror=tmp_path / "hub", runs=tmp_path / "runs")
    recipe = recipe_file.load(tmp_path / "stories.toml", {}, lambda recipe: imported.adopted(recipe, options))
    imported.make(recipe, options)
    made = pipeline.create(recipe, options)
    assert pipeline.execute(made, phases_of(recipe), Runtime.single(CPU))
    return made


def test_the_whole_chain(run: Run, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    asked = [json.loads(line)[0] for line in (run.folder / FILE).read_text().splitlines()]
    assert len(asked) <= 8 and all(question.endswith(("?", ".", "!")) for question in asked)
    out = export(Source.of_run(run, "sft"), "hf", "f32", tmp_path / "out")
    ours = load_model(run.phase("sft") / run.checkpoint("sft"), torch.float32, CPU)
    again = load_model(out, torch.float32, CPU)
    chat_format = load_format(out)
    ids = torch.tensor([chat_format.prompt([{"role": "user", "content": "Once upon a time"}])])
    theirs = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    template = AutoTokenizer.from_pretrained(out).apply_chat_template(
        [{"role": "user", "content": "Once upon a time"}], add_generation_prompt=True, return_dict=False
    )
    assert template == ids[0].tolist()
    with torch.no_grad():
        expected = ours.logits(ours(ids))
        assert torch.equal(again.logits(again(ids)), expected)
        difference = (theirs(ids).logits[..., : expected.shape[-1]] - expected).abs().max()
    assert difference < 1e-5 * expected.abs().max()
    before = load_model(run.phase("base") / run.checkpoint("base"), torch.float32, CPU)
    changed = [n for n, w in ours.named_parameters() if not torch.equal(w, before.get_parameter(n))]
    assert any("embed_tokens" in name for name in changed) and any("q_proj" in name for name in changed)
