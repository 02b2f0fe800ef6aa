"""Finished models for other software: a Hugging Face folder, a GGUF file for llama.cpp, or one with a Modelfile for
Ollama. What is written is complete or absent."""

import shutil
from collections.abc import Callable
from pathlib import Path

from lanbot.core.errors import UserError
from lanbot.core.files import unwritable
from lanbot.export import card, folder, gguf, ollama
from lanbot.export.hub import check_target, push
from lanbot.export.source import Source

__all__ = ["KINDS", "Source", "check_target", "export", "push"]

KINDS: dict[str, Callable[[Source, Path, str], None]] = {
    "hf": folder.write,
    "gguf": gguf.write,
    "ollama": ollama.write,
}


def export(source: Source, to: str, kind: str, out: Path) -> Path:
    """Writes a model in the form `to`, with a model card and what its licence asks for. Raises UserError.

    out: a new or empty folder, or the one in the run, which an earlier export may have filled.
    """
    if to == "hf" and kind == "q8_0":
        raise UserError("a Hugging Face folder has no type q8_0", "Choose bf16, f16 or f32, or --to gguf.")
    ours = source.run is not None and out.parent == source.run.folder / "export"
    if out.exists() and not ours and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out}: something is there already", "Name a new folder: --out DIR.")
    beside = out.with_name(f".{out.name}.exporting")
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        KINDS[to](source, beside, kind)
        card.write(source, beside, to, kind)
        shutil.rmtree(out, ignore_errors=True)
        beside.rename(out)
    except OSError as error:
        raise unwritable(out, error) from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return out
