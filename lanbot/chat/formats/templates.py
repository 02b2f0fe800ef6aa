"""Chat templates in Jinja of the open models' formats: for other software, equal to what LanBot renders.

They refuse what they cannot render, special tokens within text among it. They take messages as OpenAI's API has them:
tool_calls, and a message of the role tool for each result. Where a tokenizer has LanBot's tool tokens, content may
also be a list of parts: text, python and output.
"""

import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lanbot.chat.formats.chatml import ChatMLFormat
    from lanbot.chat.formats.llama3 import Llama3Format

_SIGN = re.compile(r"LanBot chat format: ([\w.:-]+)")


def format_of(template: str) -> str:
    """The name of the format whose template this is; "" if LanBot did not write it."""
    found = _SIGN.search(template)
    return found[1] if found else ""


def literal(words: str | None) -> str:
    """A string, or none, in Jinja."""
    return "none" if words is None else json.dumps(words, ensure_ascii=False)


def begin(name: str, special: Iterable[str], inline: bool) -> str:
    """The macros `plain` (text without special tokens) and `written` (a message's content), and `fail`."""
    refuse = "{{- raise_exception('Not in this format: ' + what) }}"
    part = (
        "{{- '<|' + part['type'] + '_start|>' + plain(part['text']) + '<|' + part['type'] + '_end|>' }}"
        if inline
        else "{{- fail('part ' + part['type']) }}"
    )
    kinds = "['text', 'python', 'output']" if inline else "['text']"
    return (
        f"{{#- LanBot chat format: {name} #}}"
        f"{{%- macro fail(what) %}}{refuse}{{%- endmacro %}}"
        "{%- macro plain(words) %}"
        "{%- if words is not string %}{{- fail('a message or part without text') }}{%- endif %}"
        f"{{%- for token in {json.dumps(list(special))} %}}"
        "{%- if token in words %}{{- raise_exception('Text must not contain ' + token) }}{%- endif %}"
        "{%- endfor %}{{- words }}{%- endmacro %}"
        "{%- macro written(content) %}"
        "{%- if content is string %}{{- plain(content) }}"
        "{%- elif content is not none %}{%- set before = namespace(type='') %}{%- for part in content %}"
        f"{{%- if part['type'] not in {kinds} or part['type'] == before.type == 'text' %}}"
        "{{- fail('part ' + part['type'] + ' after ' + before.type) }}{%- endif %}"
        "{%- set before.type = part['type'] %}"
        f"{{%- if part['type'] == 'text' %}}{{{{- plain(part['text']) }}}}{{%- else %}}{part}{{%- endif %}}"
        "{%- endfor %}{%- endif %}{%- endmacro %}"
    )


_ROLES = (
    "{%- if message['role'] not in ['system', 'user', 'assistant', 'tool'] %}"
    "{{- fail('role ' + message['role']) }}{%- endif %}"
)


def chatml_template(chat_format: "ChatMLFormat") -> str:
    """ChatML's template, with the default system message, tools and thoughts of the format."""
    before, between, after = map(literal, chat_format.results)
    return (
        begin(chat_format.name, chat_format.tokenizer.special, chat_format.inline)
        + "{%- if messages and messages[0]['role'] == 'system' %}"
        "{%- set system = messages[0]['content'] %}{%- set messages = messages[1:] %}"
        f"{{%- else %}}{{%- set system = {literal(chat_format.system)} %}}{{%- endif %}}"
        + _chatml_system(chat_format)
        + (_LAST_QUESTION if chat_format.thinks else "")
        + "{%- for message in messages %}"
        + _ROLES
        + "{%- if message['role'] == 'assistant' %}{{- '<|im_start|>assistant\\n' }}"
        + "{%- set content = message['content'] %}"
        + (_THOUGHT if chat_format.thinks else "")
        + "{%- set words = written(content) %}{{- words }}"
        "{%- for call in message['tool_calls'] or [] %}"
        "{%- if words or not loop.first %}{{- '\\n' }}{%- endif %}"
        "{%- set function = call['function'] or call %}{%- set arguments = function['arguments'] %}"
        "{%- if arguments is not string %}{%- set arguments = arguments | tojson %}{%- endif %}"
        "{{- '<tool_call>\\n{\"name\": \"' + plain(function['name']) + '\", \"arguments\": ' "
        "+ plain(arguments) + '}\\n</tool_call>' }}"
        "{%- endfor %}{{- '<|im_end|>\\n' }}"
        "{%- elif message['role'] == 'tool' %}"
        "{%- if loop.first or messages[loop.index0 - 1]['role'] != 'tool' %}"
        f"{{{{- {before} }}}}{{%- else %}}{{{{- {between} }}}}{{%- endif %}}"
        "{{- written(message['content']) }}"
        "{%- if loop.last or messages[loop.index0 + 1]['role'] != 'tool' %}"
        f"{{{{- {after} }}}}{{%- endif %}}"
        "{%- else %}{{- '<|im_start|>' + message['role'] + '\\n' + written(message['content']) + '<|im_end|>\\n' }}"
        "{%- endif %}{%- endfor %}"
        f"{{%- if add_generation_prompt %}}{{{{- {literal(chat_format.opening)} }}}}{{%- endif %}}"
    )


def _chatml_system(chat_format: "ChatMLFormat") -> str:
    plain = "{%- if system is not none %}{{- '<|im_start|>system\\n' + written(system) + '<|im_end|>\\n' }}{%- endif %}"
    if not chat_format.tools:
        return plain
    from lanbot.chat.formats.chatml import TOOLS

    before, after = map(literal, TOOLS)
    return (
        "{%- if tools %}{{- '<|im_start|>system\\n' }}"
        "{%- if system is not none %}{{- written(system) + '\\n\\n' }}{%- endif %}"
        f"{{{{- {before} }}}}"
        "{%- for tool in tools %}{{- '\\n' + plain(tool | tojson) }}{%- endfor %}"
        f"{{{{- {after} + '<|im_end|>\\n' }}}}{{%- else %}}{plain}{{%- endif %}}"
    )


_LAST_QUESTION = (
    "{%- set last = namespace(question=messages | length - 1, found=false) %}"
    "{%- for message in messages[::-1] %}{%- if message['role'] == 'user' and not last.found %}"
    "{%- set last.found = true %}{%- set last.question = messages | length - 1 - loop.index0 %}"
    "{%- endif %}{%- endfor %}"
)
_THOUGHT = (
    "{%- set thought = '' %}"
    "{%- if content is string and '</think>' in content %}"
    "{%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].strip('\\n') %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}"
    "{%- if message['reasoning_content'] is string %}"
    "{%- set thought = message['reasoning_content'].strip('\\n') %}{%- endif %}"
    "{%- if loop.index0 > last.question and (loop.last or thought) %}"
    "{{- '<think>\\n' + plain(thought) + '\\n</think>\\n\\n' }}"
    "{%- if content is string %}{%- set content = content.lstrip('\\n') %}{%- endif %}{%- endif %}"
)


def llama3_template(chat_format: "Llama3Format") -> str:
    """Llama 3's template, with the default system message of the format instead of the dates."""
    from lanbot.chat.formats import llama3

    own = chat_format.default_system is None
    before, between, after = map(literal, chat_format.results)
    header = "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'"
    return (
        begin(chat_format.name, chat_format.tokenizer.special, chat_format.inline) + "{{- '<|begin_of_text|>' }}"
        "{%- if messages and messages[0]['role'] == 'system' %}"
        "{%- set system = messages[0]['content'] %}{%- set messages = messages[1:] %}"
        f"{{%- else %}}{{%- set system = {literal(chat_format.default_system or '')} %}}{{%- endif %}}"
        f"{{{{- {literal(llama3.HEADER.format('system'))} }}}}"
        f"{{%- if tools %}}{{{{- {literal(llama3.ENVIRONMENT)} }}}}{{%- endif %}}"
        f"{{{{- {literal(llama3.DATES if own else '')} + written(system) | trim + '<|eot_id|>' }}}}"
        "{%- for message in messages %}"
        + _ROLES
        + "{%- if message['role'] == 'assistant' %}"
        + _LLAMA3_ANSWER
        + "{%- elif message['role'] == 'tool' %}"
        "{%- if loop.first or messages[loop.index0 - 1]['role'] != 'tool' %}"
        f"{{{{- {before} }}}}{{%- else %}}{{{{- {between} }}}}{{%- endif %}}"
        "{{- plain(message['content'] | tojson) }}"
        "{%- if loop.last or messages[loop.index0 + 1]['role'] != 'tool' %}"
        f"{{{{- {after} }}}}{{%- endif %}}"
        f"{{%- else %}}{{{{- {header} }}}}"
        f"{{%- if tools and loop.first %}}{{{{- {literal(llama3.TOOLS)} }}}}"
        "{%- for tool in tools %}{{- plain(tool | tojson(indent=4)) + '\\n\\n' }}{%- endfor %}{%- endif %}"
        "{{- written(message['content']) | trim + '<|eot_id|>' }}"
        "{%- endif %}{%- endfor %}"
        f"{{%- if add_generation_prompt %}}{{{{- {literal(chat_format.opening)} }}}}{{%- endif %}}"
    )


_LLAMA3_ANSWER = (
    "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
    "{%- set calls = message['tool_calls'] or [] %}"
    "{%- if calls | length > 1 %}{{- fail('several calls in one answer') }}{%- endif %}"
    "{%- if calls %}"
    "{%- set function = calls[0]['function'] or calls[0] %}{%- set arguments = function['arguments'] %}"
    "{%- if function['name'] == 'python' and arguments is mapping %}"
    "{{- written(message['content']).lstrip() + '<|python_tag|>' + plain(arguments['code']) + '<|eom_id|>' }}"
    "{%- else %}{%- if arguments is not string %}{%- set arguments = arguments | tojson %}{%- endif %}"
    "{{- '{\"name\": \"' + plain(function['name']) + '\", \"parameters\": ' + plain(arguments) + '}<|eot_id|>' }}"
    "{%- endif %}"
    "{%- else %}{{- written(message['content']) | trim + '<|eot_id|>' }}{%- endif %}"
)
