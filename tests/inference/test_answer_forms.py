"""Answers of a form that was asked for, written by a model that knows nothing."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from lanbot.chat.formats import get_format
from lanbot.chat.formats.base import TOOL_TOKENS, ChatFormat
from lanbot.chat.grammar import answer_grammar
from lanbot.chat.messages import parts
from lanbot.chat.turns import by_name
from lanbot.core.errors import UserError
from lanbot.inference.constraint import AnswerConstraint, CallConstraint
from lanbot.inference.engine import Engine
from lanbot.inference.request import Completion
from lanbot.inference.sampling import Sampling
from lanbot.models.transformer import Transformer
from lanbot.tokenizers.bpe import BPETokenizer
from lanbot.web.calls import ClientTools

jsonschema = pytest.importorskip("jsonschema")

MakeModel = Callable[..., Transformer]
POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer"}, "y": {"type": "number", "minimum": -5, "maximum": 5}},
    "required": ["x", "y"],
    "additionalProperties": False,
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "enum": {"enum": ["red", 'it\'s "blue"', 3, None, True]},
    "object": {"type": "object"},
    "required": {
        "type": "object",
        "properties": {"a": {"type": "string", "maxLength": 20}, "b": {"type": "boolean"}, "c": {"type": "null"}},
        "required": ["b", "c"],
        "additionalProperties": False,
    },
    "arrays": {
        "type": "object",
        "properties": {
            "points": {"type": "array", "items": {"$ref": "#/$defs/point"}, "minItems": 1, "maxItems": 3},
            "none": {"type": "array", "maxItems": 0},
        },
        "required": ["points"],
        "additionalProperties": False,
        "$defs": {"point": POINT},
    },
    "many": {"enum": [f"value {i}" for i in range(3_000)]},
    "choice": {
        "type": "object",
        "properties": {
            "of": {"anyOf": [POINT, {"type": "array", "items": {"type": "integer"}, "maxItems": 4}, {"const": "é"}]},
            "maybe": {"type": ["integer", "null"]},
            "code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
        },
        "required": ["of", "maybe", "code"],
        "additionalProperties": False,
    },
}


def function(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": "", "parameters": dict(schema)}}


TOOLS = [
    function("look", {}),
    function("move", SCHEMAS["choice"]),
    function("draw.all", SCHEMAS["arrays"]),
    function("set", SCHEMAS["required"]),
    function("pick", {"type": "object", "properties": {"what": SCHEMAS["enum"]}, "required": ["what"]}),
]
FORMATS = ["lanbot", "qwen2.5", "tokens", "smollm2", "inline", "qwen3", "llama3"]


def form(name: str) -> ChatFormat:
    """A format over bytes. tokens: Qwen's with its tags as tokens; inline: SmolLM2's with LanBot's tool tokens."""
    kind = get_format({"tokens": "qwen2.5", "inline": "smollm2"}.get(name, name))
    more = {"tokens": ("<tool_call>", "</tool_call>"), "inline": TOOL_TOKENS}.get(name, ())
    return kind(BPETokenizer.of_bytes((*kind.special_tokens, *more)))


def written(
    make_model: MakeModel, chat_format: ChatFormat, bound: AnswerConstraint, samples: int = 12, tokens: int = 400
) -> list[Completion]:
    model = make_model(vocab_size=chat_format.tokenizer.vocab_size, context=1_024)
    prompts = [chat_format.prompt([{"role": "user", "content": f"question {i}"}]) for i in range(samples)]
    engine = Engine(model, chat_format, call_handler=lambda code: None)
    return engine.generate(
        prompts, Sampling(tokens, temperature=1.0), 1, constraints=[bound.again() for _ in range(samples)]
    )


@pytest.mark.parametrize("name", SCHEMAS)
def test_whatever_a_model_writes_is_json_under_the_schema(make_model: MakeModel, name: str) -> None:
    chat_format = form("lanbot")
    bound = AnswerConstraint(chat_format, answer_grammar(None, schema=SCHEMAS[name]))
    made = [one for one in written(make_model, chat_format, bound) if one.finished == "stop"]
    assert len(made) > 3
    for one in made:
        assert one.ids[-1] == chat_format.end_of_turn
        jsonschema.validate(json.loads(chat_format.tokenizer.decode(one.ids[:-1])), SCHEMAS[name])


@pytest.mark.parametrize("name", FORMATS)
def test_a_call_that_must_be_made_is_one_of_a_tool_with_arguments_under_its_schema(
    make_model: MakeModel, name: str
) -> None:
    chat_format, tools = form(name), ClientTools(TOOLS)
    called = set()
    for several in (True, False):
        grammar = answer_grammar(chat_format.call_form, TOOLS, several=several)
        bound = AnswerConstraint(chat_format, grammar, calls=True)
        for one in written(make_model, chat_format, bound):
            if one.finished != "tool":
                assert one.finished == "length"
                continue
            (*calls,) = parts(chat_format.parse(one.ids, one.sampled))
            assert several or len(calls) == 1
            for call in calls:
                assert call["type"] in ("python", "call"), call
                made = tools.of_code(call["text"]) if call["type"] == "python" else tools.of_part(by_name(call))
                assert made is not None and not isinstance(made, str), made
                called.add(made.name)
                schema = tools.tools[made.name].schema
                jsonschema.validate(json.loads(made.arguments), {"type": "object", **schema})
    assert len(called) > 2


def test_a_thought_before_the_answer_is_free_and_cannot_end_the_turn(make_model: MakeModel) -> None:
    chat_format = form("qwen3").thinking
    special = chat_format.tokenizer.special
    bound = AnswerConstraint(chat_format, answer_grammar(None, schema=POINT, thinks=True), thinks=True).again()
    parser, tokens = bound.stream(), [0]

    def allowed(*more: int) -> set[str]:
        for token in more:
            tokens.append(token)
            parser.feed(token)
        mask = bound.allowed(parser, tokens)
        assert mask is not None
        return {chat_format.tokenizer.decode([int(id)]) for id in mask.nonzero()[0]}

    assert allowed() == {"{", "\n", "<think>"}
    free = allowed(special["<think>"])
    assert {"a", "}", "</think>"} <= free and not {"<|im_end|>", "<think>"} & free
    for token in chat_format.tokenizer.encode("What? {"):
        assert "}" in allowed(token)
    assert allowed(special["</think>"]) == {"{", "\n"}
    for token in chat_format.tokenizer.encode('\n\n{"x"'):
        last = allowed(token)
    assert last == {":"}
    assert parser.finish() == [] and parser.parts == [{"type": "text", "text": '<think>What? {</think>\n\n{"x"'}], (
        "what looks like a call, or is a tag, is text"
    )


def test_json_or_a_call(make_model: MakeModel) -> None:
    chat_format = form("tokens")
    grammar = answer_grammar(chat_format.call_form, TOOLS, schema=POINT)
    bound, special = AnswerConstraint(chat_format, grammar, calls=True).again(), chat_format.tokenizer.special
    mask = bound.allowed(bound.stream(), [0])
    assert mask is not None
    assert set(mask.nonzero()[0]) == {special["<tool_call>"], chat_format.tokenizer.encode("{")[0]}


def test_others_of_the_batch_are_as_they_are_alone(make_model: MakeModel) -> None:
    chat_format = form("lanbot")
    model = make_model(vocab_size=chat_format.tokenizer.vocab_size, context=256)
    engine, sampling = Engine(model, chat_format), Sampling(40, temperature=1.0)
    prompts = [chat_format.prompt([{"role": "user", "content": f"question {i}"}]) for i in range(8)]
    free = engine.generate(prompts, sampling, 3)
    one = AnswerConstraint(chat_format, answer_grammar(None, schema=POINT))
    mixed = [one.again() if i % 2 else None for i in range(8)]
    together = engine.generate(prompts, sampling, 3, constraints=mixed)
    bound = [one.again() for _ in range(4)]
    alone = engine.generate(prompts[1::2], sampling, 3, keys=["1", "3", "5", "7"], constraints=bound)
    assert [made.ids for made in together[::2]] == [made.ids for made in free[::2]]
    assert [made.ids for made in together[1::2]] == [made.ids for made in alone]
    assert all(chat_format.tokenizer.decode(made.ids).startswith('{"x": ') for made in together[1::2])


def test_a_grammar_that_cannot_be_is_refused(chat_format: ChatFormat) -> None:
    for schema, why in (({"uniqueItems": True}, "uniqueItems"), ({"type": "string", "pattern": "(?=a)"}, "regex")):
        with pytest.raises(UserError, match=why):
            AnswerConstraint(chat_format, answer_grammar(None, schema=schema))
    with pytest.raises(UserError, match="cannot be called by this model"):
        answer_grammar(chat_format.call_form, [function("get-weather", {})])


def test_names_of_a_clients_tools_are_no_grammar(make_model: MakeModel) -> None:
    """A name that would end a text of the grammar is a name; one that Python has not, is not called."""
    odd = [function("odd", {"type": "object", "properties": {'a"\nb: "c': {"type": "integer"}}}), *TOOLS]
    chat_format = form("lanbot")
    parser = chat_format.stream()
    start = chat_format.tokenizer.special["<|python_start|>"]
    parser.feed(start)
    mask = CallConstraint(chat_format, odd).allowed(parser, [start])
    assert mask is not None and 0 < mask.sum() < len(mask)
