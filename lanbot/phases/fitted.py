"""lanbot run --fit: the recipe, changed so that its phases fit the device."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lanbot.config import recipe_file
from lanbot.config.recipe import FineTuning, Recipe, Training
from lanbot.config.run import Run
from lanbot.core.console import say, size
from lanbot.distributed.runtime import Runtime
from lanbot.models.config import ModelConfig
from lanbot.phases.phase import Phase
from lanbot.training.fit import fit, have, plan

KEYS = ("lora_rank", "lora_alpha", "lora_targets", "lora_layers", "lora_embeddings", "lora_lr", "fp8")


def fitted(run: Run, phases: Sequence[Phase], runtime: Runtime) -> Recipe:
    """The run's recipe, where each phase to do trains in a way that fits; prints the sums. A phase that has begun keeps
    its adapters. Raises UserError if a phase fits in no way."""
    recipe, config, saved = run.recipe, ModelConfig.of_recipe(run.recipe), run.folder / "recipe.toml"
    before = recipe_file.load(saved) if saved.is_file() else None
    for phase in phases:
        settings = phase.settings(recipe)
        if phase.is_done(run) or not isinstance(settings, Training):
            continue
        begun = run.begun(phase.name)
        if before is not None and begun and isinstance(settings, FineTuning):
            settings = replace(settings, **{key: getattr(phase.settings(before), key) for key in KEYS})
        T = getattr(settings, "sequence", None) or recipe.model.longest
        settings = fit(config, T, phase.name, settings, runtime, lora=not begun, added=recipe.tokenizer.tool_tokens)
        chosen = plan(config, T, settings, runtime)
        say(f"{phase.name}: {chosen.way}; {chosen.rows} x {T:,} tokens at a time")
        say(f"  {chosen.sum}; this device has {size(int(have(runtime)))} for it")
        changed: dict[str, Any] = {phase.name: settings}
        recipe = replace(recipe, **changed)
    return recipe
