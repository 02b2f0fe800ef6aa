"""Runs that begin from a model made elsewhere: model.init_from in a recipe, or lanbot import."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lanbot.config import recipe_file
from lanbot.config.recipe import IMPORTED_CONTEXT, Recipe
from lanbot.config.run import Run
from lanbot.core.console import say
from lanbot.core.errors import UserError
from lanbot.core.files import unwritable, write_atomic
from lanbot.core.options import Options
from lanbot.models.licences import KEPT

if TYPE_CHECKING:
    from lanbot.phases.origins import Origin, Step

INSTEAD = {"agent_rl": "rl"}
"""Phases that a recipe may lack, and the ones that then count as done in their place."""


def adopted(recipe: Recipe, options: Options) -> Recipe:
    """The recipe, not resolved yet, with model and tokenizer of its origin: as the run of this name was imported, or as
    model.init_from says. Other recipes are returned as they are."""
    stored = options.runs / recipe.name / "recipe.toml"
    if stored.is_file():
        before = recipe_file.load(stored)
        if before.model.init_from and _is_of(before, recipe.model.init_from):
            has = before.tokenizer.tool_tokens
            if recipe.tokenizer.tool_tokens != has:
                problem = f"{stored.parent}: was imported with tokenizer.tool_tokens = {str(has).lower()}"
                again = f"delete the run (lanbot runs delete {recipe.name}), so that the recipe imports it"
                raise UserError(problem, f"Set that in the recipe, or {again}.")
            model = replace(before.model, context=_context(recipe, before, stored.parent))
            return replace(recipe, model=model, tokenizer=before.tokenizer)
    if not recipe.model.init_from:
        return recipe
    from lanbot.chat.fitting import fitted
    from lanbot.phases.origins import open_origin, split

    where, wanted = split(recipe.model.init_from)
    origin = open_origin(where, options)
    step = origin.choose(wanted or "base")
    config, (chat_format, known) = origin.config(step), fitted(lambda: origin.chat_format(step), recipe)
    most = origin.most_rows(known)
    if not known <= config.vocab_size <= most:
        sizes = f"{config.vocab_size:,} tokens, its tokenizer {known:,}"
        raise UserError(f"{where}: the model of {step} has {sizes}", "Import them from the same training.")
    model = replace(
        recipe.model,
        init_from=f"{where}#{step.exact}",
        family=config.family,
        depth=config.n_layers,
        dim=config.dim,
        n_heads=config.n_heads,
        n_kv_heads=config.n_kv_heads,
        head_dim=config.head_dim,
        mlp_dim=config.mlp_dim,
        context=min(recipe.model.context or IMPORTED_CONTEXT, config.context),
        rope_theta=config.rope_theta,
        rope_scaling=config.rope_scaling,
        norm_eps=config.norm_eps,
        tie_embeddings=config.tie_embeddings,
    )
    rows = max(config.vocab_size, chat_format.tokenizer.vocab_size)
    tokenizer = replace(recipe.tokenizer, vocab_size=rows, chat_format=chat_format.name)
    return replace(recipe, model=model, tokenizer=tokenizer)


def _context(recipe: Recipe, before: Recipe, folder: Path) -> int | None:
    """The recipe's own, as far as the imported model reaches; if it has none, that of the run before."""
    from lanbot.models.config import ModelConfig

    phase = _imported_phase(before, folder)
    path = folder / phase / Run(folder, before).checkpoint(phase) / "config.json" if phase else None
    if recipe.model.context is None or path is None or not path.is_file():
        return before.model.context
    return min(recipe.model.context, ModelConfig.from_hf(path).context)


def _is_of(run: Recipe, source: str) -> bool:
    """Whether a run begins from what this names: all that it names of the step is right. "": whatever it begins from.
    The source itself may be gone by now."""
    from lanbot.phases.origins import Wanted, split

    (where, step), (asked_where, asked) = split(run.model.init_from), split(source)
    return not source or (where == asked_where and Wanted.parse(asked or "base").matches(Wanted.parse(step)))


def make(recipe: Recipe, options: Options, as_phase: str = "") -> Path:
    """Makes the run of an adopted, resolved recipe, with its imported phase done; does nothing if it is there.

    The run is written beside and renamed: it is complete or absent. as_phase: the phase that counts as done, if not
    the one that the source names. Raises UserError.
    """
    folder, beside = options.runs / recipe.name, options.runs / f".{recipe.name}.importing"
    if (folder / "recipe.toml").is_file():
        before = recipe_file.load(folder / "recipe.toml").model.init_from
        if before == recipe.model.init_from and _ours(as_phase, recipe) in ("", _imported_phase(recipe, folder)):
            return folder
        made = f"that begins from {before}" if before else "of this name, which begins from nothing"
        remedy = f"Choose another name, or delete it: lanbot runs delete {recipe.name}"
        raise UserError(f"{folder}: there is a run {made}", remedy)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder}: not a run (it has no recipe.toml)", "Choose another name.")
    import torch

    from lanbot.chat.fitting import fitted
    from lanbot.distributed.runtime import Runtime
    from lanbot.models.resize import grown
    from lanbot.phases.origins import open_origin, split
    from lanbot.phases.phase import phases_of
    from lanbot.training import checkpoint

    where, wanted = split(recipe.model.init_from)
    origin = open_origin(where, options)
    step = origin.choose(wanted)
    phase = _ours(as_phase or step.phase, recipe)
    models = [one.name for one in phases_of(recipe) if one.makes == "model"]
    if phase not in models:
        remedy = f"Its phases with a model: {', '.join(models)}; say which one counts as done: #PHASE or --phase."
        raise UserError(f"{where}: {phase} is not such a phase of the recipe", remedy)
    say(f"importing {step} from {where}: {origin.what}")
    chat_format, known = fitted(lambda: origin.chat_format(step), recipe)
    model = grown(origin.model(step), known, chat_format.tokenizer.vocab_size)
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        chat_format.save(beside / "tokenizer")
        runtime = Runtime.single(torch.device("cpu"))
        written = checkpoint.save_model_alone(beside / phase, step.number, model, chat_format, runtime)
        _note(origin, step, recipe, beside, phase, written.name)
        beside.rename(folder)
    except OSError as error:
        raise unwritable(folder, error) from None
    except UserError as error:
        again = "Free some space or choose another LANBOT_RUNS, and run the same command again."
        raise UserError(error.problem.replace(str(beside), str(folder)), again) from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder


def _ours(phase: str, recipe: Recipe) -> str:
    return phase if phase in recipe.phase_names else INSTEAD.get(phase, phase)


def _imported_phase(recipe: Recipe, folder: Path) -> str:
    """The phase whose model was imported into a run."""
    run = Run(folder, recipe)
    return next((phase for phase in recipe.phase_names if "checkpoint" in run.read(phase, "imported.json")), "")


def _note(origin: "Origin", step: "Step", recipe: Recipe, folder: Path, phase: str, written: str) -> None:
    """Writes imported.json of the phases that count as done, and the recipe. written: the checkpoint's name."""
    revision = f"@{origin.files.revision[:12]}" if origin.files.revision else ""
    where = origin.name if "@" in origin.name or not revision else f"{origin.name}{revision}"
    facts = {
        "note": f"imported from {where}, {step}",
        "checkpoint": written,
        "source": origin.name,
        "revision": origin.files.revision,
        "kind": origin.what,
        "step": step.number,
        "scores": origin.details(step),
        "open_weights": origin.open_weights(step),
    }
    for name in origin.papers:
        os.makedirs(folder / KEPT, exist_ok=True)
        shutil.copyfile(origin.files.get(name) / name, folder / KEPT / Path(name).name)
    for name in recipe.phase_names:
        notes = facts if name == phase else {"note": facts["note"]}
        os.makedirs(folder / name, exist_ok=True)
        write_atomic(folder / name / "imported.json", json.dumps(notes, indent=1) + "\n")
        if name == phase:
            break
    write_atomic(folder / "recipe.toml", recipe_file.dump(recipe))
