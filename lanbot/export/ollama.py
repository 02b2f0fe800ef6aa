"""A GGUF file with a Modelfile: `ollama create NAME -f Modelfile`."""

import json
import re
from pathlib import Path
from typing import NamedTuple

from lanbot.chat.formats.base import ChatFormat
from lanbot.chat.messages import Message, python
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
        *(f"SYSTEM {_quoted(system)}" for system in [around(chat).system] if system),
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
    words = around(chat)
    bos = "" if begins else words.bos
    default = f"{{{{ if not .System }}}}{words.default}{{{{ end }}}}" if words.default and not words.system else ""
    cases = " else ".join(
        f'if eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}{{{{'
        for role, (before, after) in words.roles.items()
    )
    return f"{bos}{default}{{{{ range .Messages }}}}{{{{ {cases} end }}}}{{{{ end }}}}{words.start}"


class Around(NamedTuple):
    """What a format writes around the contents of messages."""

    bos: str
    """Before a conversation; "" if nothing."""
    roles: dict[str, tuple[str, str]]
    default: str
    """In place of a system message that is missing."""
    start: str
    """Before the answer."""

    @property
    def system(self) -> str:
        """The default system message, where `default` is just that; Ollama has a setting for it."""
        before, after = self.roles["system"]
        inner = self.default.removeprefix(before).removesuffix(after)
        return inner if self.default == f"{before}{inner}{after}" else ""


def around(chat: ChatFormat) -> Around:
    """Found by asking the format for prompts: each role's words are what is left between the contents."""
    roles = ("system", "user", "assistant", "user")
    messages: list[Message] = [{"role": role, "content": f"{WORD}{i}"} for i, role in enumerate(roles)]
    start = chat.tokenizer.decode(chat.start_of_answer())
    before, after_system, after_user, after_answer, end = re.split(rf"{WORD}\d", _prompt(chat, messages))
    ending, _, following = after_answer.partition(chat.end_token)
    opening = re.search("|".join(map(re.escape, chat.tokenizer.special)), following)
    assert opening is not None
    user = following[opening.start() :]
    ends = end.removesuffix(start)
    bos = chat.bos_token if before.startswith(chat.bos_token) else ""
    texts = {
        "system": (before.removeprefix(bos), after_system.removesuffix(user)),
        "user": (user, ends),
        "assistant": (after_user.removeprefix(ends), f"{ending}{chat.end_token}{following[: opening.start()]}"),
    }
    alone = _prompt(chat, messages[-1:]).partition(user)[0]
    return Around(bos, texts, alone.removeprefix(bos), start)


def _prompt(chat: ChatFormat, messages: list[Message]) -> str:
    return chat.tokenizer.decode(chat.prompt(messages))


def _ends_of_calls(chat: ChatFormat) -> list[str]:
    """The token that ends a call within a message: Ollama runs none, and the model would make up a result."""
    call: list[Message] = [{"role": "user", "content": ""}, {"role": "assistant", "content": [python(WORD)]}]
    after = chat.tokenizer.decode(chat.render({"messages": call}).ids).partition(WORD)[2]
    special = [name for name in chat.tokenizer.special if after.startswith(name)]
    return [name for name in special if name not in chat.stop_names]


def _quoted(text: str) -> str:
    return f'"""{text}"""'
