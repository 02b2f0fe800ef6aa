"""Plans agree with training."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lanbot.chat.formats.base import ChatFormat
from lanbot.chat.messages import chat
from lanbot.config.recipe import MixturePart, Recipe
from lanbot.config.recipe_file import load
from lanbot.phases.loaders import base_loader, chat_loader
from lanbot.tasks import mixture_stats as plans
from lanbot.tasks.mixture_stats import plan_corpus, plan_mixture, plan_questions


def recipe_of(parts: tuple[MixturePart, ...]) -> Recipe:
    recipe = load("smoke")
    return replace(recipe, mid=replace(recipe.mid, mixture=parts, batch_tokens=1_024, sequence=256))


def trained_on(recipe: Recipe, chat_format: ChatFormat, folder: Path) -> dict[str, float]:
    """Steps and counts of the loader of mid."""
    chat_format.save(folder)
    loader = chat_loader(recipe, "mid", folder, True)
    steps, under_loss = 0, 0
    while (batch := loader.next_batch()) is not None:
        steps += 1
        under_loss += int(batch.weights.sum())
    return {"steps": steps, "under_loss": under_loss, **loader.notes()}


def test_a_plan_of_few_rows_is_exact(chat_format: ChatFormat, tmp_path: Path) -> None:
    rows = [chat("hi", "ho " * n) for n in (1, 2, 300, 4)] + [{"messages": []}, chat("hi " * 400, "too late")]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = f"jsonl:{tmp_path / 'c.jsonl'}"
    recipe = recipe_of((MixturePart(own, epochs=3, skip_bad_rows=True), MixturePart("word_problems", rows=300)))
    plan = plan_mixture("mid", recipe, chat_format)
    really = trained_on(recipe, chat_format, tmp_path)
    assert [(part.task, part.rows, part.epochs, part.looked_at) for part in plan.parts] == [
        (own, 5, 3, 5),
        ("word_problems", 300, 1, 300),
    ]
    assert plan.steps == really["steps"]
    assert sum(part.under_loss for part in plan.parts) == really["under_loss"]
    assert (plan.parts[0].truncated, plan.parts[0].dropped) == (really["truncated"], really["dropped"]) == (6, 3)
    assert all(part.tokens_error == 0 for part in plan.parts)


def test_an_estimate_from_a_sample_is_within_its_error(
    chat_format: ChatFormat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of((MixturePart("word_problems", rows=2_000, epochs=2), MixturePart("world_chat", rows=1_000)))
    exact = plan_mixture("mid", recipe, chat_format)
    monkeypatch.setattr(plans, "SAMPLE", 200)
    monkeypatch.setattr(plans, "PACKED", 600)
    plan = plan_mixture("mid", recipe, chat_format)
    for part, whole in zip(plan.parts, exact.parts, strict=True):
        assert part.looked_at == 200 and part.rows == whole.rows
        assert 0 < part.tokens_error < 0.1 * part.tokens
        assert abs(part.tokens - whole.tokens) < 4 * part.tokens_error + 4 * whole.tokens_error
    assert plan.filled == pytest.approx(exact.filled, abs=0.03)
    assert plan.steps == pytest.approx(trained_on(recipe, chat_format, tmp_path)["steps"], rel=0.1)


def test_the_plan_of_base_is_what_base_reads(chat_format: ChatFormat, tmp_path: Path) -> None:
    recipe = load("smoke")
    chat_format.save(tmp_path)
    plan = plan_corpus("base", recipe, chat_format)
    assert plan.tokens == recipe.base.tokens // recipe.base.batch_tokens * recipe.base.batch_tokens
    loader = base_loader(recipe, tmp_path)
    steps = documents = 0
    while (batch := loader.next_batch()) is not None:
        steps += 1
        documents += int((batch.ids == chat_format.bos).sum())
    assert plan.steps == steps
    assert plan.parts[0].rows == pytest.approx(documents, rel=0.1)


def test_a_plan_without_tokens_has_no_steps(chat_format: ChatFormat, tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text(json.dumps(chat("hi " * 400, "too late")) + "\n")
    plan = plan_mixture("mid", recipe_of((MixturePart(f"jsonl:{tmp_path / 'c.jsonl'}"),)), chat_format)
    assert (plan.tokens, plan.steps, plan.parts[0].dropped) == (0, 0, 1)


def test_the_plan_of_rl_counts_passes_over_its_questions(chat_format: ChatFormat) -> None:
    recipe = load("smoke")
    plan = plan_questions("rl", recipe, chat_format)
    rows = sum(part.rows or 1_000_000 for part in recipe.rl.mixture)
    assert (plan.questions, plan.bad, plan.steps) == (rows, 0, recipe.rl.steps)
    assert plan.passes == pytest.approx(recipe.rl.steps * recipe.rl.prompts / rows)
    assert 5 < plan.prompt_tokens < recipe.model.context and plan.too_long == 0


@pytest.mark.usefixtures("real_mirror")
def test_the_plan_of_laptop_on_real_rows(chat_format: ChatFormat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "SAMPLE", 60)
    monkeypatch.setattr(plans, "PACKED", 300)
    plan = plan_mixture("sft", load("laptop"), chat_format)
    assert [part.rows for part in plan.parts[:2]] == [2_251, 1_119]
    assert all(part.tokens > part.under_loss > 0 for part in plan.parts)
