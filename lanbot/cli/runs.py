"""lanbot runs: list and delete runs."""

import sys
from itertools import groupby

from cyclopts import App

from lanbot.cli.shared import make_options
from lanbot.core.errors import UserError

app = App(name="runs", help="List or delete runs.")


@app.default
def list_runs() -> None:
    """List the runs, with the phases done and the size."""
    from lanbot.config.run import Run, list_runs
    from lanbot.core.console import size, table

    options = make_options()
    rows = []
    for folder in list_runs(options.runs):
        try:
            made = Run.open(folder.name, options=options)
            names = made.recipe.phase_names
            done = {phase: made.note(phase) for phase in names if made.done(phase)}
        except UserError as error:
            if folder.exists():  # otherwise it was deleted meanwhile
                rows.append((folder.name, error.problem, ""))
            continue
        phases = []
        for note, group in groupby(done, done.get):
            phases.append(" ".join(group) + (f" ({note})" if note else ""))
        phases += [f"({phase})" for phase in names if made.begun(phase) and phase not in done]
        rows.append((folder.name, " ".join(phases) or "nothing yet", size(made.size())))
    none = f"No runs in {options.runs}/ yet: lanbot run RECIPE"
    print(table(rows, ("run", "done (begun)", "size")) if rows else none)


@app.command
def delete(run: str, *, yes: bool = False) -> None:
    """Delete a run and all its files.

    Args:
        run: The name that `lanbot runs` shows.
        yes: Do not ask for confirmation.
    """
    from lanbot.config.run import Run
    from lanbot.core.console import size

    made = Run.open(run, paths=False)
    what = f"{made.folder} ({size(made.size())})"
    if not yes and not sys.stdin.isatty():
        raise UserError(f"{what}: not deleted without confirmation", "Add --yes.")
    if yes or input(f"Delete {what}? [y/N] ").strip().lower() == "y":
        made.delete()
        print(f"Deleted {what}.")
