"""lanbot import: begin a run from a model that was trained elsewhere."""

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from lanbot.cli.shared import Mirror, make_options
from lanbot.core.errors import UsageError, UserError

if TYPE_CHECKING:
    from lanbot.phases.origins import Origin


def import_model(
    source: str,
    *,
    run: str = "",
    phase: str = "",
    step: int | None = None,
    check: Annotated[bool, Parameter(negative="")] = False,
    mirror: Mirror = None,
) -> None:
    """Make a run that begins from a model trained elsewhere; lanbot run RECIPE --name RUN goes on from it.

    Args:
        source: A folder with nanochat's checkpoints, a run, or a model's folder; or hf:OWNER/NAME[@REVISION]. After a
            #, what --phase and --step say: #mid/813, or #mid/TAG/813 where a tree has several models.
        run: The name of the new run.
        phase: The phase that is imported and counts as done: base, mid, sft or rl.
        step: Its step; the newest if left out.
        check: Only say what the source holds.
    """
    options = make_options(mirror)
    from lanbot.phases import origins

    where, wanted = origins.split(source)
    if check:
        origin = origins.open_origin(where, options)
        print(_held(origin))
        return
    if not run:
        raise UsageError("lanbot import needs --run NAME", "Name the new run, or look first: --check.")
    if not (wanted or phase):
        origin = origins.open_origin(where, options)
        raise UsageError(f"{where} has {', '.join(map(str, origin.steps))}", "Choose one with --phase (and --step).")
    wanted = wanted or phase
    wanted += f"/{step}" if step is not None else ""
    from dataclasses import replace

    from lanbot.config.recipe import ModelSettings, Recipe
    from lanbot.core.console import say
    from lanbot.phases import imported

    try:
        recipe = replace(Recipe(name=run), model=ModelSettings(init_from=f"{where}#{wanted}"))
    except ValueError:
        remedy = "It names a folder: at most 100 letters, digits, '-', '_' and '.'."
        raise UsageError(f"--run {run[:100]!r}: not a run's name", remedy) from None
    recipe = imported.adopted(recipe, options)
    try:
        recipe = recipe.resolve()
    except ValueError as error:
        begin = f"lanbot run RECIPE --name {run} --model.init_from {recipe.model.init_from}"
        raise UserError(str(error), f"Import it by a recipe that sets it: {begin}") from None
    folder = imported.make(recipe, options, phase)
    say(f"{folder} is there; go on with: lanbot run RECIPE --name {run}")


def _held(origin: "Origin") -> str:
    """A table of a source's steps: shape, and what the source says of them."""
    from lanbot.core.console import table

    rows = []
    for step in origin.steps:
        config, details = origin.config(step), origin.details(step)
        shape = f"{config.n_layers} layers, {config.dim:,} wide, {config.n_heads} heads of {config.head_dim}"
        size = f"{config.params() / 1e6:,.1f}M"
        said = ", ".join(f"{key} {value:g}" for key, value in details.items())
        rows.append((str(step), config.family, shape, f"{config.vocab_size:,}", f"{config.context:,}", size, said))
    header = ("step", "family", "shape", "vocabulary", "context", "parameters", "it says")
    return f"{origin.name}: {origin.what}\n{table(rows, header, left=3)}"
