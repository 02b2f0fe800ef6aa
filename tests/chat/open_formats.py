"""What the tests of open models' formats need: their tokenizers, real or rebuilt small; what their own templates do, in
our words; and generated conversations."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from lanbot.chat.formats import get_format, load_format
from lanbot.chat.formats.turns import TurnFormat
from lanbot.chat.messages import Conversation, Message, Part, call, text
from lanbot.tokenizers.base import Tokenizer
from lanbot.tokenizers.bpe_training import train

SPECIAL = {
    "qwen2.5": ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>"),
    "qwen3": (
        *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>"),
        *("<tool_response>", "</tool_response>", "<think>", "</think>"),
    ),
    "smollm2": ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>"),
    "llama3": (
        *("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>"),
        *("<|eom_id|>", "<|eot_id|>", "<|python_tag|>"),
    ),
}
"""Special tokens of each family that its format meets."""
REAL = Path(__file__).parents[3] / "shared" / "data" / "tokenizers" / "qwen3"

_TURN = "'<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n'"
_CHATML_END = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
_QWEN_TOOLS = (
    "{{ '# Tools\\n\\nYou may call one or more functions to assist with the user query.\\n\\nYou are provided with "
    "function signatures within <tools></tools> XML tags:\\n<tools>' }}"
    "{% for tool in tools %}{{ '\\n' + tool | tojson }}{% endfor %}"
    "{{ '\\n</tools>\\n\\nFor each function call, return a json object with function name and arguments within "
    '<tool_call></tool_call> XML tags:\\n<tool_call>\\n{"name": <function-name>, "arguments": <args-json-object>}'
    "\\n</tool_call>' }}"
)
TEMPLATES = {
    "smollm2": (
        "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\\nYou are a helpful AI assistant named SmolLM, "
        "trained by Hugging Face<|im_end|>\\n' }}{% endif %}"
        f"{{% for m in messages %}}{{{{ {_TURN} }}}}{{% endfor %}}{_CHATML_END}"
    ),
    "qwen2.5": (
        "{% set own = messages[0].content if messages[0].role == 'system' else 'You are Qwen, created by Alibaba "
        "Cloud. You are a helpful assistant.' %}{{ '<|im_start|>system\\n' + own }}"
        f"{{% if tools %}}{{{{ '\\n\\n' }}}}{_QWEN_TOOLS}{{% endif %}}{{{{ '<|im_end|>\\n' }}}}"
        "{% for m in messages %}{% if loop.first and m.role == 'system' %}"
        "{% elif m.role == 'tool' %}"
        "{{ '' if not loop.first and messages[loop.index0 - 1].role == 'tool' else '<|im_start|>user' }}"
        "{{ '\\n<tool_response>\\n' + m.content + '\\n</tool_response>' }}"
        "{{ '' if not loop.last and messages[loop.index0 + 1].role == 'tool' else '<|im_end|>\\n' }}"
        "{% elif m.tool_calls %}{{ '<|im_start|>assistant' }}{{ '\\n' + m.content if m.content }}"
        '{% for c in m.tool_calls %}{{ \'\\n<tool_call>\\n{"name": "\' + c.function.name + \'", "arguments": \' + '
        "c.function.arguments | tojson + '}\\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\\n' }}"
        f"{{% else %}}{{{{ {_TURN} }}}}{{% endif %}}{{% endfor %}}{_CHATML_END}"
    ),
    "llama3": (
        "{% set start, end = '<|start_header_id|>', '<|end_header_id|>\\n\\n' %}"
        "{% set given = messages[0].role == 'system' %}"
        "{{ '<|begin_of_text|>' + start + 'system' + end }}{{ 'Environment: ipython\\n' if tools }}"
        "{{ 'Cutting Knowledge Date: December 2023\\nToday Date: ' + date_string + '\\n\\n' }}"
        "{{ messages[0].content | trim if given }}{{ '<|eot_id|>' }}"
        "{% for m in (messages[1:] if given else messages) %}"
        "{% if m.role == 'tool' %}{{ start + 'ipython' + end + m.content | tojson }}"
        "{% elif m.tool_calls %}{{ start + 'assistant' + end + '{\"name\": \"' + m.tool_calls[0].function.name + "
        "'\", \"parameters\": ' + m.tool_calls[0].function.arguments | tojson + '}' }}"
        "{% else %}{{ start + m.role + end }}{% if tools and loop.first %}"
        "{{ 'Given the following functions, please respond with a JSON for a function call with its proper arguments "
        'that best answers the given prompt.\\n\\nRespond in the format {"name": function name, "parameters": '
        "dictionary of argument name and its value}.Do not use variables.\\n\\n' }}"
        "{% for tool in tools %}{{ tool | tojson(indent=4) + '\\n\\n' }}{% endfor %}{% endif %}"
        "{{ m.content | trim }}{% endif %}{{ '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ start + 'assistant' + end }}{% endif %}"
    ),
}
"""What the families' own templates do, Qwen 3's apart, which is long: it is compared with the real one."""


def small_tokenizer(name: str, *further: str) -> Tokenizer:
    """A small vocabulary with a family's special tokens."""
    texts = ["system user assistant tool ipython", "Hello there, it is 4. name arguments parameters code python"] * 3
    return train(texts, 300, (*SPECIAL[name], *further))


def small_format(name: str, *further: str) -> TurnFormat:
    made = get_format(name)(small_tokenizer(name, *further))
    assert isinstance(made, TurnFormat)
    return made


def family_folder(name: str, folder: Path, real: bool = False) -> Path:
    """A folder as the family publishes it: it does not name a chat format. real: with Qwen's own tokenizer."""
    if (real or name == "qwen3") and not (REAL / "tokenizer.json").is_file():
        pytest.skip(f"no tokenizer of Qwen at {REAL}")
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    folder.mkdir()
    if name == "qwen3":
        template = json.loads((REAL / "tokenizer_config.json").read_text(encoding="utf-8"))["chat_template"]
    else:
        template = TEMPLATES[name]
    if real:
        (folder / "tokenizer.json").write_bytes((REAL / "tokenizer.json").read_bytes())
    else:
        small_tokenizer(name).save(folder)
    text = json.dumps({**config, "chat_template": template})
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    return folder


def family_format(name: str, folder: Path, real: bool = False) -> TurnFormat:
    made = load_format(family_folder(name, folder, real))
    assert isinstance(made, TurnFormat) and made.name == name
    return made


PIECES = (
    "Hello",
    " there",
    "\n",
    "  ",
    "It's",
    "12*7",
    "héllo",
    "你好",
    "🐈",
    "\n\n",
    "{",
    "}",
    '"',
    "<b>",
    "\t",
    "e\u0301",
    "4",
)
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f'Does "it" & <that>, é\n{name}',
            "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
        },
    }
    for name in ("read_file", "find")
]


def conversation(rng: random.Random, calls: int, talks: bool) -> Conversation:
    """Turns with white space at odd places. calls: the most in an answer. talks: an answer may speak before a call."""

    def words() -> str:
        return "".join(rng.choice(PIECES) for _ in range(rng.randint(1, 8)))

    messages: list[Message] = [{"role": "system", "content": words()}] if rng.random() < 0.5 else []
    for _ in range(rng.randint(1, 3)):
        messages.append({"role": "user", "content": words()})
        while calls and rng.random() < 0.5:
            count = rng.randint(1, calls)
            arguments = {"path": words(), "n": rng.randint(0, 9), "deep": {"a": [1, None, True]}}
            parts: list[Part] = [call(rng.choice(("read_file", "find")), arguments) for _ in range(count)]
            said = [text(words())] if talks and rng.random() < 0.5 else []
            messages.append({"role": "assistant", "content": [*said, *parts]})
            messages += [{"role": "tool", "content": words()} for _ in range(count)]
        messages.append({"role": "assistant", "content": words()})
    made: Conversation = {"messages": messages}
    if rng.random() < 0.5:
        made["tools"] = TOOLS[: rng.randint(1, 2)]
    return made
