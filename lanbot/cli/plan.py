"""lanbot plan: what a recipe will take on rented GPUs."""

from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING

from lanbot.cli.shared import Mirror, Overrides, load_recipe, make_options
from lanbot.core.errors import UsageError

if TYPE_CHECKING:
    from lanbot.cloud.gpus import GPUs
    from lanbot.config.recipe import Recipe
    from lanbot.core.options import Options


def plan(
    recipe: str,
    *overrides: Overrides,
    phase: str = "all",
    gpus: str | None = None,
    price: float | None = None,
    save: bool = False,
    json: bool = False,
    mirror: Mirror = None,
) -> None:
    """Plan a recipe on GPUs: tokens, FLOPs, memory, time and cost of each phase, and what sets the time.

    Args:
        recipe: A recipe's file, or the name of a shipped one.
        phase: all, or phases joined by +: base, mid+sft.
        gpus: How many of which kind: 8xH100, 1xB200; default: this machine's, or 8xH100.
        price: Dollars an hour for all of them; default: as seen in 2026, where the table has it.
        save: Write the plan into the run's folder, so that its report shows it beside the actual times.
        json: Print one JSON object.
    """
    options = make_options(mirror)
    from lanbot.cloud.plan import plan as make_plan
    from lanbot.core.console import say

    loaded = load_recipe(recipe, overrides)
    chosen, why = _gpus(gpus)
    if why:
        say(why)
    dollars = chosen.dollars if price is None else price
    if price is None and dollars is not None:
        say(f"the price of {chosen} as seen in 2026: --price sets another")
    if dollars is None:
        raise UsageError(f"{chosen}: no price is known", "Give one, in dollars an hour for all of them: --price 20")
    if not 0 <= dollars < 1e6:
        raise UsageError(f"--price {price}: out of range", "It is dollars an hour for all GPUs together.")
    made = make_plan(loaded, options, phase, chosen, dollars)
    if save:
        say(f"saved in {_save(made.json(), loaded, options)}")
    print(dumps(made.json()) if json else made.table(_columns()))


def _gpus(text: str | None) -> "tuple[GPUs, str]":
    """The GPUs to plan for, and a message if they are not those that were asked for."""
    from lanbot.cloud.gpus import DEFAULT, GPUs, here

    if text is not None and text.strip().lower() != "cpu":
        return GPUs.parse(text), ""
    found = here() if text is None else None
    return (found, "") if found else (DEFAULT, f"planned for {DEFAULT}, a node as it is rented: --gpus names others")


def _columns() -> int:
    import shutil

    return max(80, shutil.get_terminal_size().columns)


def _save(content: dict[str, object], recipe: "Recipe", options: "Options") -> Path:
    from lanbot.cloud.plan import FILE
    from lanbot.core.files import write_atomic
    from lanbot.phases import pipeline

    folder = options.runs / recipe.name
    if not (folder / "recipe.toml").is_file():
        pipeline.create(recipe, options)
    write_atomic(folder / FILE, dumps(content, indent=1) + "\n")
    return folder / FILE
