"""Options and lookups that several commands share."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from lanbot.core.errors import UsageError, UserError
from lanbot.core.options import Options

if TYPE_CHECKING:
    from lanbot.config.recipe import Recipe
    from lanbot.config.run import Run

Overrides = Annotated[str, Parameter(allow_leading_hyphen=True, help="Recipe keys: --base.tokens 1_000_000 --name x")]
Mirror = Annotated[Path | None, Parameter(help="A folder to read instead of the hub (or LANBOT_MIRROR).")]

UnsafeExec = Annotated[bool, Parameter(negative="", help="Run a model's code even where no sandbox works.")]

KEY = "LANBOT_API_KEY"
"""The variable that holds a server's key, unless another is named."""


class Uses:
    """The actions of a command, each with what it takes."""

    def __init__(self, command: str, **takes: str) -> None:
        self.command, self.takes = command, takes

    def __getitem__(self, action: str) -> str:
        """How it is written."""
        return f"{self.command} {action} {self.takes[action]}".rstrip()

    def check(self, action: str, met: bool) -> None:
        """Raises UsageError, unless the action was given what it takes."""
        if not met:
            raise UsageError(f"{action}: that is not what it takes", f"Write {self[action]}.")


def make_options(mirror: Path | None = None, unsafe_exec: bool = False) -> Options:
    """Options from the environment and these flags. Raises UserError if --mirror is not a folder."""
    if mirror is not None and not mirror.is_dir():
        raise UserError(f"--mirror {mirror}: no such folder", "Name the folder that holds the data.")
    return Options.from_environment(mirror, unsafe_exec)


def open_run(name: str, options: Options | None = None) -> "Run":
    from lanbot.config.run import Run

    return Run.open(name, options=options)


def load_recipe(name: str, overrides: tuple[str, ...] = (), options: Options | None = None) -> "Recipe":
    """A recipe's file or a shipped one, with the overrides of the command line and, with options, the model that it
    begins from. Raises UserError."""
    from lanbot.config import recipe_file
    from lanbot.phases import imported

    pairs = parse_overrides(overrides)

    def complete(recipe: "Recipe") -> "Recipe":
        adopted = imported.adopted(recipe, options) if options else recipe
        free = ("model.init_from", "model.context")
        fixed = [key for key in pairs if key.startswith(("model.", "base.depth")) and key not in free]
        if "model.context" in pairs and adopted.model.context != recipe.model.context:
            problem = f"--model.context: {adopted.model.init_from} reads {adopted.model.context:,} tokens at most"
            raise UsageError(problem, "Ask for no more.")
        if fixed and adopted is not recipe:
            problem = f"--{fixed[0]}: the model begins from {adopted.model.init_from}, whose shape is fixed"
            raise UsageError(problem, "Leave it out, or begin a run without model.init_from under another --name.")
        return adopted

    return recipe_file.load(name, pairs, complete)


def parse_overrides(tokens: tuple[str, ...]) -> dict[str, str]:
    """--a.b c, --a.b=c -> {"a.b": "c"}."""
    pairs: dict[str, str] = {}
    rest = list(tokens)
    while rest:
        token = rest.pop(0)
        key, equals, value = token.removeprefix("--").partition("=")
        if not token.startswith("--") or not key:
            raise UsageError(f"{token}: not expected here", "Recipe keys are given as --section.key value.")
        if not equals:
            if not rest:
                raise UsageError(f"--{key}: no value", f"Write --{key} VALUE.")
            value = rest.pop(0)
        pairs[key.replace("-", "_")] = value
    return pairs


def chosen_phase(made: "Run", phase: str | None) -> str:
    """The given phase, or the latest that is done. Raises UserError if it has no model."""
    names = made.recipe.phase_names
    if phase is not None and phase not in names:
        raise UsageError(f"--phase {phase}: no such phase", f"Phases: {', '.join(names)}.")
    chosen = phase or made.last_model()
    if chosen is None:
        raise UserError(f"{made.folder}: no model yet", "Run its recipe first: lanbot run RECIPE.")
    if not made.done(chosen):
        raise UserError(f"{made.folder}: {chosen} is not done", "Name a phase that is, or run the recipe again.")
    if made.imported(chosen) and not made.checkpoint(chosen):
        problem = f"{made.folder}: there is no model of {chosen}, only of a later phase ({made.note(chosen)})"
        raise UserError(problem, f"Name another phase: {made.last_model()} is the latest.")
    if not made.checkpoint(chosen):
        raise UserError(f"{made.folder}: {chosen} makes no model", "Name a phase that does.")
    return chosen


def api_keys(variable: str, file: Path | None) -> tuple[str, ...]:
    """A server's keys: of the file, or the variable, which programs that this one starts do not inherit.

    Raises UserError.
    """
    held = os.environ.pop(variable, "").strip()
    if file is None:
        found = [held] if held else []
        where = variable
    else:
        where = str(file)
        try:
            found = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError):
            raise UserError(f"--api-key-file {file}: cannot be read", "Name a text file with a key a line.") from None
        if not found:
            raise UserError(f"--api-key-file {file}: no key in it", "Write a key into it.")
    if any(not key.isascii() or not key.isprintable() or " " in key for key in found):
        raise UserError(f"{where}: a key is printable ASCII without spaces", "Make one: openssl rand -hex 24")
    return tuple(found)
