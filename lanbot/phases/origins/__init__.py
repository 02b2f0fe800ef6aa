"""Where a run's first model can come from: one file a kind, on disk or on the hub.

SOURCE is a folder, a file, a run's name or hf:OWNER/NAME[/FILE.gguf][@REVISION]; after a # the step: PHASE,
PHASE/STEP or PHASE/TAG/STEP.
"""

from collections.abc import Sequence
from pathlib import Path

from lanbot.core.console import say
from lanbot.core.errors import UserError
from lanbot.core.options import Options
from lanbot.data import hub, smollm2
from lanbot.phases.origins.base import Files, HubFiles, Origin, Step, Wanted
from lanbot.phases.origins.gguf import GGUFModel
from lanbot.phases.origins.model_folder import ModelFolder
from lanbot.phases.origins.nanochat import NanoChatTree
from lanbot.phases.origins.run import RunOrigin

__all__ = ["Origin", "Step", "Wanted", "open_origin", "split"]

KINDS: tuple[type[Origin], ...] = (RunOrigin, NanoChatTree, ModelFolder, GGUFModel)
"""A source is of the first kind that recognises its files."""
_unanswered: dict[tuple[str, Options], Path] = {}
"""Repositories for which the hub did not answer, with the files taken instead: asking again would wait again."""


def split(source: str) -> tuple[str, str]:
    """(what is before the #, the step after it)."""
    where, _, wanted = source.partition("#")
    return where, wanted


def open_origin(where: str, options: Options) -> Origin:
    """The source that a folder, a file, a run's name or hf:OWNER/NAME[/FILE.gguf][@REVISION] is. Raises UserError if it
    is none."""
    if known := _unanswered.get((where, options)):
        return GGUFModel(smollm2.PACKAGE, Files(known))
    try:
        hub_is_asked = where.startswith("hf:") and options.mirror is None
        files = HubFiles(where.removeprefix("hf:"), options) if hub_is_asked else Files(_path(where, options))
    except UserError as error:
        unreachable = options.mirror is None and (options.offline or "no connection" in error.problem)
        if where != f"hf:{smollm2.MODEL}" or not unreachable:
            raise
        say(f"{error.problem}: taking the weights in the package {smollm2.PACKAGE} instead, quantised to 4 bits")
        path = _unanswered[where, options] = smollm2.smollm2(options)
        where, files = smollm2.PACKAGE, Files(path)
    for kind in KINDS:
        if kind.recognises(files):
            return kind(where, files)
    kinds, files_of = ", nor ".join(kind.what for kind in KINDS), "; ".join(kind.told_by for kind in KINDS)
    raise UserError(f"{where}: neither {kinds}", f"It needs one of: {files_of}.")


def _path(where: str, options: Options) -> Path:
    """The local folder or file: of a hub's repository the mirror's OWNER/NAME."""
    if where.startswith("hf:"):
        assert options.mirror is not None
        return hub.find(where, where.removeprefix("hf:").partition("@")[0], options.mirror)
    choices: Sequence[Path] = (Path(where).expanduser(), options.runs / where)
    found = next((path for path in choices if where and path.exists()), None)
    if found is None:
        raise UserError(f"{where}: no such folder or run", "Name a folder, a GGUF file, a run, or hf:OWNER/NAME.")
    return found
