"""A GGUF file, for llama.cpp and what is built on it."""

import tempfile
from pathlib import Path

from lanbot.export.source import Source
from lanbot.models.gguf_write import write_gguf


def write(source: Source, out: Path, kind: str) -> None:
    licence = source.licence
    notes = {"lanbot.chat_format": source.chat_format.name}
    if licence:
        notes |= {"general.license": licence.id, "general.license.name": licence.name}
    with tempfile.TemporaryDirectory() as name:
        source.chat_format.save(Path(name))  # with the chat template that LanBot renders by
        write_gguf(source.folder, out / file_name(source, kind), kind, source.name, notes, Path(name))


def file_name(source: Source, kind: str) -> str:
    return f"{source.name}-{kind}.gguf"
