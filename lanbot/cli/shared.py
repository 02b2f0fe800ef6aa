"""What several commands take."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from lanbot.errors import UserError

if TYPE_CHECKING:
    from lanbot.run import Run

Mirror = Annotated[Path | None, Parameter(help="A folder that answers for the hub (or LANBOT_MIRROR).")]


def use_mirror(folder: Path | None) -> None:
    if folder is not None:
        if not folder.is_dir():
            raise UserError(f"--mirror {folder}: no such folder", "Name the folder that holds the data.")
        os.environ["LANBOT_MIRROR"] = str(folder)


def open_run(name: str) -> "Run":
    from lanbot.run import Run

    return Run.open(name)
