"""lanbot export: a finished model for other software."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from lanbot.cli.shared import chosen_phase, make_options, open_run
from lanbot.core.errors import UsageError, UserError

if TYPE_CHECKING:
    from lanbot.export.source import Source


def export(
    model: str,
    *,
    to: Literal["hf", "gguf", "ollama"] = "hf",
    type: Literal["f32", "f16", "bf16", "q8_0"] = "bf16",
    phase: str | None = None,
    out: Path | None = None,
    push: Annotated[str, Parameter(negative="")] = "",
) -> None:
    """Write a model for other software: transformers and vLLM (hf), llama.cpp (gguf), or Ollama.

    Args:
        model: A run's name or folder, or a model's folder.
        to: The form. gguf and ollama need the package gguf: pip install 'lanbot[export]'.
        type: Of its weights; q8_0 is for GGUF files.
        phase: Of a run: mid, sft or rl; default: the latest.
        out: A new folder; default: export/FORM in the run.
        push: hf:OWNER/NAME, a repository of the hub to which it is sent and compared there; private if it is new.
    """
    from lanbot import export as exporting
    from lanbot.core.console import say

    source = _source(model, phase)
    if out is None:
        if source.run is None:
            raise UsageError(f"{model} is not a run: where to?", "Name a new folder: --out DIR.")
        out = source.run.folder / "export" / to
    if push:
        exporting.check_target(source, push)
    written = exporting.export(source, to, type, out)
    say(f"{written} is there: {', '.join(sorted(path.name for path in written.iterdir()))}")
    if push:
        exporting.push(written, push)


def _source(model: str, phase: str | None) -> "Source":
    from lanbot.export.source import Source

    options = make_options()
    try:
        made = open_run(model, options)
    except UserError:
        if not Path(model).is_dir():
            raise
        return Source.of_folder(Path(model))
    return Source.of_run(made, chosen_phase(made, phase))
