"""A GGUF file with a Modelfile: `ollama create NAME -f Modelfile`."""

import json
from pathlib import Path

from lanbot.chat.formats.base import ChatFormat
from lanbot.chat.messages import Message, python
from lanbot.core.errors import UserError
from lanbot.export import gguf
from lanbot.export.source import Source
from lanbot.tokenizers import gguf_vocab

WORD = "CONTENT"
"""Stands for a message's text while a format is asked what it writes around it."""


def write(source: Source, out: Path, kind: str) -> None:
    gguf.write(source, out, kind)
    (out / "Modelfile").write_text(modelfile(source, kind), encoding="utf-8")


def modelfile(source: Source, kind: str) -> str:
    chat, licence = source.chat_format, source.licence
    tokenizer = json.loads((source.folder / "tokenizer.json").read_text(encoding="utf-8"))
    begins = gguf_vocab.begins_with(tokenizer.get("post_processor"), chat.bos_token)
    lines = [
        f"# {source.name}" + (f" - {licence.built_with}" if licence and licence.built_with else ""),
        f"FROM ./{gguf.file_name(source, kind)}",
        f"TEMPLATE {_quoted(template(chat, begins))}",
        *(f"PARAMETER stop {json.dumps(name)}" for name in (*chat.stop_names, *_ends_of_calls(chat))),
        f"PARAMETER num_ctx {source.config.context}",
        "PARAMETER temperature 0",  # as lanbot chat; Ollama's own defaults draw, and penalise what was said before
        "PARAMETER repeat_penalty 1",
    ]
    if licence and licence.notice:
        lines.append(f"LICENSE {_quoted(f'{licence.notice} {licence.link}')}")
    return "\n".join(lines) + "\n"


def template(chat: ChatFormat, begins: bool) -> str:
    """The chat format as a template in Go's language. begins: Ollama itself puts the bos token before a prompt."""
    cases = []
    for role in ("system", "user", "assistant"):
        try:
            rendered = chat.render_message({"role": role, "content": WORD}, chat.tokenizer.encode)
        except UserError:  # the format has no such message
            continue
        written = chat.tokenizer.decode(rendered.ids).replace(WORD, "{{ .Content }}")
        cases.append(f'if eq .Role "{role}" }}}}{written}{{{{ ')
    bos = "" if begins else chat.tokenizer.decode([chat.bos])
    start = chat.tokenizer.decode(chat.start_of_answer())
    return f"{bos}{{{{ range .Messages }}}}{{{{ {'else '.join(cases)}end }}}}{{{{ end }}}}{start}"


def _ends_of_calls(chat: ChatFormat) -> list[str]:
    """The special token that ends a call within a message: Ollama runs no calls, and the model would make up results."""
    message: Message = {"role": "assistant", "content": [python(WORD)]}
    try:
        ids = chat.render_message(message, chat.tokenizer.encode).ids
    except UserError:  # the format has no such calls
        return []
    after = chat.tokenizer.decode(ids).partition(WORD)[2]
    special = [name for name in chat.tokenizer.special if after.startswith(name)]
    return [name for name in special if name not in chat.stop_names]


def _quoted(text: str) -> str:
    return f'"""{text}"""'
