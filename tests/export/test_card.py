"""The model card: its front matter by huggingface_hub's own classes, its figures against the report's."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from lanbot import report
from lanbot.config import recipe_file
from lanbot.config.recipe import ChatTraining, Evals, MixturePart
from lanbot.config.run import Run
from lanbot.export import card
from lanbot.export.source import Source

NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
SCORES: dict[str, Any] = {
    "gsm8k": {"score": 0.123457, "stderr": 0.011, "n": 200, "chance": 0.0, "items": 1_319},
    "humaneval": {"score": 0.05, "stderr": 0.02, "n": 164, "chance": 0.0},
    "word_problems": {"score": 0.9, "stderr": 0.03, "n": 100, "chance": 0.0},
}


def having(run: Run, **sections: Any) -> Run:
    """The run with another recipe."""
    recipe = replace(run.recipe, **sections)
    (run.folder / "recipe.toml").write_text(recipe_file.dump(recipe))
    return replace(run, recipe=recipe)


def evaluated(run: Run, phase: str, **entries: Any) -> None:
    path = run.phase(phase) / "evals.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def text_of(run: Run, phase: str = "sft", to: str = "hf") -> str:
    return card.text(Source.of_run(run, phase), to, "bf16")


def trained_on(*tasks: str) -> ChatTraining:
    return ChatTraining(mixture=tuple(MixturePart(task, 500) for task in tasks))


def section(text: str, title: str) -> str:
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_the_front_matter_holds_the_scores_of_the_phase(run: Run) -> None:
    run = having(run, evals=Evals(tasks=tuple(SCORES)))
    bpb = {"n": 131_000, "stderr": 0.004, "documents": 80, "chance": 6.5, "context": 256}
    evaluated(run, "sft", tasks=SCORES, val_bpb=1.366931, bpb=bpb)
    evaluated(run, "base", tasks={"gsm8k": {"score": 0.9, "stderr": 0.1, "n": 9, "chance": 0.0}})
    data = ModelCard(text_of(run)).data
    assert data.model_name == "bot"
    found = [(one.dataset_type, one.metric_type, one.metric_value, one.metric_args) for one in data.eval_results]
    assert found == [
        ("openai/gsm8k", "accuracy", 0.123457, {"n": 200, "stderr": 0.011, "chance": 0.0, "items": 1_319}),
        ("openai/openai_humaneval", "pass@1", 0.05, {"n": 164, "stderr": 0.02, "chance": 0.0}),
        ("word_problems", "accuracy", 0.9, {"n": 100, "stderr": 0.03, "chance": 0.0}),
        ("builtin:world", "bits_per_byte", 1.366931, {"n": 131_000, "stderr": 0.004, "documents": 80}),
    ]
    assert {one.task_type for one in data.eval_results} == {"text-generation"}
    assert (data.pipeline_tag, data.library_name, data.tags) == ("text-generation", "transformers", ["lanbot"])
    assert ModelCard(text_of(run, to="gguf")).data.library_name == "gguf"


def test_an_earlier_phase_has_its_own_scores_and_data(run: Run) -> None:
    run = having(run, evals=Evals(tasks=tuple(SCORES)), sft=trained_on("smoltalk"))
    evaluated(run, "base", tasks={"gsm8k": SCORES["gsm8k"]})
    score = {"score": 0.4375, "stderr": 0.12, "n": 16, "chance": 0.0}
    evaluated(run, "sft", tasks=SCORES, **{"pass": {"after": {"pass@8": score}}})
    text = text_of(run, "base")
    data = ModelCard(text).data
    assert [one.dataset_type for one in data.eval_results] == ["openai/gsm8k", "builtin:world"]
    assert data.datasets is None and "smoltalk" not in text and "pass@8" not in text


def test_every_figure_of_the_card_is_one_of_the_report(run: Run) -> None:
    run = having(run, evals=Evals(tasks=tuple(SCORES)), sft=trained_on("gsm8k", "identity:builtin"))
    score = {"score": 0.4375, "stderr": 0.12, "n": 16, "chance": 0.0}
    passes = {"before": {"pass@8": score}, "after": {"pass@8": score}}
    evaluated(run, "sft", tasks=SCORES, val_bpb=1.366931, **{"pass": passes})
    text, written = text_of(run), report.write(run)
    shown = (run.folder / "report.md").read_text()
    known = {number.replace(",", "") for number in NUMBER.findall(shown + json.dumps(written))}
    for title in ("Training", "Scores"):
        body = section(text, title)
        assert {number.replace(",", "") for number in NUMBER.findall(body)} <= known
        assert len(body.splitlines()) > 4
    assert report.evaluation_table(written, md=True) in text
    assert "0.438 ± 0.120 (16)" in section(text, "Scores")
    assert "500 rows" in section(text, "Training")


def test_data_sets_of_the_hub_are_named_with_their_licences(run: Run) -> None:
    run = having(run, sft=trained_on("gsm8k", "smoltalk", "identity:builtin"))
    text = text_of(run)
    data = ModelCard(text).data
    assert data.datasets == ["openai/gsm8k", "HuggingFaceTB/smol-smoltalk"]
    assert data.language == "en"
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section(text, "Licence").splitlines()]
    assert ["openai/gsm8k", "sft", "mit"] in rows
    assert ["HuggingFaceTB/smol-smoltalk", "sft", "apache-2.0"] in rows
    assert "identity:builtin" not in section(text, "Licence")
    assert "The other training data are generated by LanBot." in section(text, "Licence")
    alone = section(text_of(having(run, sft=trained_on("identity:builtin"))), "Licence")
    assert "The training data are generated by LanBot." in alone


def test_ones_own_data_are_named_without_their_place_language_or_licence(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    own = trained_on(f"jsonl:{tmp_path}/chats.jsonl", f"corpus:{tmp_path}/books", "my_tasks:Mine:/home/me/x")
    run = having(run, sft=own, base=replace(run.recipe.base, data=f"{tmp_path}/texts/*.txt"))
    text = text_of(run)
    assert "jsonl:chats.jsonl" in text and "my_tasks:Mine" in text and "| books " in text
    assert not [secret for secret in (str(tmp_path), "/home", "hf_secret", str(Path.cwd())) if secret in text]
    assert ModelCard(text).data.language is None
    assert "| not stated here |" in section(text, "Licence")


def test_a_model_of_the_hub_is_named_as_the_base(run: Run) -> None:
    (run.phase("base") / "evals.json").unlink()
    weights = {"source": "hf:HuggingFaceTB/SmolLM2-135M/x.gguf@main", "revision": "abc", "licence": "apache-2.0"}
    note = {"note": "imported", "checkpoint": "step_000300", "source": weights["source"], "open_weights": weights}
    (run.phase("base") / "imported.json").write_text(json.dumps(note))
    data = ModelCard(text_of(run)).data
    assert data.base_model == "HuggingFaceTB/SmolLM2-135M"
    assert data.license == "apache-2.0"


def test_a_model_that_is_no_runs_has_a_card_without_scores(run: Run) -> None:
    text = card.text(Source.of_folder(Source.of_run(run, "sft").folder), "hf", "bf16")
    data = ModelCard(text).data
    assert data.eval_results is None and data.model_name is None
    assert "## Scores" not in text and "## Use" in text


def test_limits_are_the_models_and_its_makers(run: Run) -> None:
    run = having(run, identity=replace(run.recipe.identity, limitations=("see pictures.",)))
    limits = section(text_of(run), "Limits")
    assert "- It cannot see pictures.\n" in limits + "\n"
    assert "reads 256 tokens at most" in limits
