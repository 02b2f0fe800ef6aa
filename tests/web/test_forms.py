"""Answers of a form that was asked for, through the official clients, of a model that knows nothing."""

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import httpx2
import pytest
from anthropic import Anthropic
from openai import BadRequestError, LengthFinishReasonError, OpenAI
from pydantic import BaseModel, Field

from lanbot.web.calls import ClientTools


class Place(BaseModel):
    kind: Literal["town", "sea"]
    grid: list[bool] = Field(min_length=1, max_length=2)


class Answer(BaseModel):
    where: Place
    others: list[Place] = Field(max_length=1)
    sure: bool
    note: Literal["é", None]


MOVE: dict[str, Any] = {
    "type": "object",
    "properties": {"to": {"enum": ["left", "it's right"]}, "far": {"type": "boolean"}},
    "required": ["to"],
    "additionalProperties": False,
}
STOP: dict[str, Any] = {"type": "object", "properties": {}}
TOOLS: Any = [
    {"type": "function", "function": {"name": name, "parameters": schema}}
    for name, schema in (("move", MOVE), ("stop", STOP))
]
FORMATS = ("lanbot", "qwen2.5", "qwen3", "llama3")


def client(url: str) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)


def asked(text: str = "Where?", **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], **more}


def schema(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": of, "strict": True}}


@pytest.mark.parametrize("form", FORMATS)
def test_a_clients_own_class_is_the_answer(make_engine, serve, form) -> None:
    made = client(serve(make_engine(form=form, context=1_024)))
    for seed in range(4):
        found = made.chat.completions.parse(**asked(response_format=Answer, temperature=1.0, seed=seed))
        assert isinstance(found.choices[0].message.parsed, Answer)
        assert found.choices[0].finish_reason == "stop"
        again = made.responses.parse(
            model="tiny", input="Where?", text_format=Answer, temperature=1.0, extra_body={"seed": seed}
        )
        assert again.output_parsed == found.choices[0].message.parsed


def test_a_streamed_answer_is_the_same(make_engine, serve) -> None:
    made = client(serve(make_engine()))
    more: dict[str, Any] = {"temperature": 1.0, "seed": 3}
    whole = made.chat.completions.parse(**asked(response_format=Answer, **more)).choices[0].message
    with made.chat.completions.stream(**asked(response_format=Answer, **more)) as stream:
        pieces = [event.delta for event in stream if event.type == "content.delta"]
        assert stream.get_final_completion().choices[0].message.parsed == whole.parsed
    assert "".join(pieces) == whole.content
    with made.responses.stream(
        model="tiny", input="Where?", text_format=Answer, temperature=1.0, extra_body={"seed": 3}
    ) as events:
        assert events.get_final_response().output_parsed == whole.parsed


def test_an_object_is_json_and_a_cut_one_says_so(make_engine, serve) -> None:
    made = client(serve(make_engine({"Where?": ['{"a": [1, {"b": "<tool_call>"}]}']})))
    found = made.chat.completions.create(**asked(response_format={"type": "json_object"})).choices[0]
    assert json.loads(found.message.content) == {"a": [1, {"b": "<tool_call>"}]} and found.finish_reason == "stop"
    cut = made.chat.completions.create(**asked(response_format={"type": "json_object"}, max_tokens=5)).choices[0]
    assert (cut.message.content, cut.finish_reason) == ('{"a":', "length")
    with pytest.raises(LengthFinishReasonError):
        made.chat.completions.parse(**asked("Hm", response_format=Answer, max_tokens=5))


def test_what_the_model_would_rather_say_is_not_said(make_engine, serve) -> None:
    script = {"Where?": ["Well, ", "<|python_start|>", "2+2", "<|python_end|>"]}
    made = client(serve(make_engine(script)))
    found = made.chat.completions.create(**asked(response_format=schema({"enum": ["here"]})))
    assert found.choices[0].message.content == '"here"'


@pytest.mark.parametrize("form", ["qwen2.5", "llama3"])
def test_an_answer_that_looks_like_a_call_is_none(make_engine, serve, form) -> None:
    of = {"type": "object", "properties": {"name": {"const": "<tool_call>"}}, "required": ["name"]}
    made = client(serve(make_engine(form=form)))
    of["additionalProperties"] = False
    found = made.chat.completions.create(**asked(response_format=schema(of))).choices[0]
    assert json.loads(found.message.content) == {"name": "<tool_call>"} and not found.message.tool_calls


@pytest.mark.parametrize("stream", [False, True])
def test_a_thought_comes_before_the_answer(make_engine, serve, stream) -> None:
    script = {"Where?": ["<think>", "\nHm, {}.\n", "</think>", '\n\n"here"']}
    made = client(serve(make_engine(script, "qwen3")))
    more: Any = {"response_format": schema({"enum": ["here", "there"]}), "reasoning_effort": "high", "stream": stream}
    found = made.chat.completions.create(**asked(**more))
    if stream:
        deltas = [chunk.choices[0].delta for chunk in found]
        thought = "".join(getattr(delta, "reasoning", None) or "" for delta in deltas)
        content = "".join(delta.content or "" for delta in deltas)
    else:
        thought, content = found.choices[0].message.reasoning, found.choices[0].message.content
    assert (thought, content) == ("Hm, {}.", '"here"')


# -- calls that must be made


def fits(name: str, arguments: dict[str, Any]) -> bool:
    if name == "stop":
        return arguments == {}
    rest = {**arguments}
    return (
        name == "move"
        and rest.pop("to") in ("left", "it's right")
        and rest.pop("far", True) in (True, False)
        and not rest
    )


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("stream", [False, True])
def test_a_required_call_is_made(make_engine, serve, form, stream) -> None:
    made = client(serve(make_engine(form=form, context=2_048)))
    for seed in range(5):
        more: dict[str, Any] = {"tools": TOOLS, "tool_choice": "required", "temperature": 1.0, "seed": seed}
        found = made.chat.completions.create(**asked(**more, parallel_tool_calls=False, stream=stream))
        if stream:
            choices = [chunk.choices[0] for chunk in found]
            (call,) = [call for one in choices for call in one.delta.tool_calls or []]
            text, reason = "".join(one.delta.content or "" for one in choices), choices[-1].finish_reason
        else:
            choice = found.choices[0]
            (call,), text, reason = choice.message.tool_calls, choice.message.content or "", choice.finish_reason
        assert (text, reason) == ("", "tool_calls")
        assert fits(call.function.name, json.loads(call.function.arguments))


@pytest.mark.parametrize("form", ["lanbot", "qwen2.5"])
def test_a_named_function_is_called_in_every_api(make_engine, serve, form) -> None:
    url = serve(make_engine(form=form, context=1_024))
    made, anthropic = client(url), Anthropic(base_url=url, api_key="none", max_retries=0)
    for name in ("move", "stop"):
        choice: Any = {"type": "function", "function": {"name": name}}
        one = made.chat.completions.create(
            **asked(tools=TOOLS, tool_choice=choice, parallel_tool_calls=False, temperature=1.0, seed=1)
        )
        (call,) = one.choices[0].message.tool_calls
        assert call.function.name == name and fits(name, json.loads(call.function.arguments))
        flat: Any = [{"type": "function", **tool["function"]} for tool in TOOLS]
        two = made.responses.create(
            model="tiny",
            input="Where?",
            tools=flat,
            tool_choice={"type": "function", "name": name},
            parallel_tool_calls=False,
        )
        (item,) = two.output
        assert item.type == "function_call" and item.name == name and fits(name, json.loads(item.arguments))
        theirs: Any = [
            {"name": tool["function"]["name"], "input_schema": tool["function"]["parameters"]} for tool in TOOLS
        ]
        for chosen in ({"type": "tool", "name": name}, {"type": "any"}):
            three = anthropic.messages.create(
                model="tiny",
                max_tokens=300,
                messages=[{"role": "user", "content": "Where?"}],
                tools=theirs,
                tool_choice={**chosen, "disable_parallel_tool_use": True},  # type: ignore[arg-type]
            )
            (block,) = three.content
            assert block.type == "tool_use" and three.stop_reason == "tool_use" and fits(block.name, block.input)
            assert chosen["type"] == "any" or block.name == name


def test_an_answer_in_json_or_a_call(make_engine, serve) -> None:
    script = {
        "Answer": ['{"sure": true}'],
        "Call": ["<|python_start|>", "move('left')", "<|python_end|>"],
        "Chat": ["Well."],
    }
    made = client(serve(make_engine(script)))
    of = {"type": "object", "properties": {"sure": {"type": "boolean"}}, "required": ["sure"]}
    of["additionalProperties"] = False
    more: dict[str, Any] = {"tools": TOOLS, "response_format": schema(of)}
    assert made.chat.completions.create(**asked("Answer", **more)).choices[0].message.content == '{"sure": true}'
    (call,) = made.chat.completions.create(**asked("Call", **more)).choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"to": "left"}
    other = made.chat.completions.create(**asked("Chat", **more)).choices[0].message
    assert other.tool_calls or set(json.loads(other.content)) == {"sure"}


def test_only_the_first_of_several_calls_where_one_is_wanted(make_engine, serve) -> None:
    call = '<tool_call>\n{"name": "stop", "arguments": {}}\n</tool_call>'
    made = client(serve(make_engine({"Twice": [f"{call}\n{call}"]}, "qwen2.5", 2_048)))
    for several, calls in ((True, 2), (False, 1)):
        found = made.chat.completions.create(**asked("Twice", tools=TOOLS, parallel_tool_calls=several))
        assert len(found.choices[0].message.tool_calls) == calls


def test_a_call_that_json_cannot_express_is_the_models_to_correct(make_engine, serve) -> None:
    script = {"far": ['<tool_call>\n{"name": "stop", "arguments": {"n": 1e999}}\n</tool_call>', "<|im_end|>", "Sorry."]}
    made = client(serve(make_engine(script, "qwen2.5", 2_048)))
    message = made.chat.completions.create(**asked("far", tools=TOOLS)).choices[0].message
    assert message.content.endswith("Sorry.") and not message.tool_calls


def test_half_a_surrogate_pair_in_a_call_is_spelled_out() -> None:
    part: Any = {"type": "call", "text": "", "name": "stop", "arguments": {"n": "\ud800"}}
    made = ClientTools(TOOLS).of_part(part)
    assert made is not None and made.arguments.encode() == b'{"n": "\\ud800"}'


# -- among others, and what is refused


def test_those_without_a_form_answer_as_they_do_alone(make_engine, serve) -> None:
    made = client(serve(make_engine(), together=16))

    def answer(i: int) -> str | None:
        form = {"response_format": schema(Answer.model_json_schema())} if i % 3 else {}
        more = {"temperature": 1.0, "seed": i, "max_tokens": 60}
        return made.chat.completions.create(**asked(f"number {i}", **form, **more)).choices[0].message.content

    alone = [answer(i) for i in range(12)]
    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(answer, range(12))) == alone


def refusal(made: OpenAI, **more: Any) -> BadRequestError:
    with pytest.raises(BadRequestError) as error:
        made.chat.completions.create(**asked(**more))
    return error.value


def test_a_form_that_cannot_be_is_refused_with_the_reason(make_engine, serve) -> None:
    made = client(serve(make_engine()))
    big = {"enum": [f"value {i}" for i in range(10_000)]}
    deep: dict[str, Any] = {}
    for _ in range(150):
        deep = {"items": deep}
    for of, why in (
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "string", "pattern": "^(?=a)b$"}, "look-around|regex"),
        ({"$ref": "#/$defs/none"}, "none"),
        ({"type": "integer", "multipleOf": 99_999_989, "minimum": 0}, "multipleOf"),
        (big, "more than 65,536 characters"),
        (deep, ""),
    ):
        error = refusal(made, response_format=schema(of))
        assert error.param == "response_format"
        assert re.search(why, error.message), error.message
    error = refusal(made, tools=[{"type": "function", "function": {"name": "get-it"}}], tool_choice="required")
    assert error.param == "tool_choice" and "get-it cannot be called" in error.message
    looks_like_text = client(serve(make_engine(form="llama3", context=2_048)))
    error = refusal(looks_like_text, tools=TOOLS, response_format={"type": "json_object"})
    assert "this model's calls look like text" in error.message


def test_a_form_that_becomes_too_complex_ends_its_own_request_only(make_engine, serve) -> None:
    many = {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(1_500)}}
    of = {"type": "object", "properties": {"a": {"const": 1}, "b": many}, "required": ["a", "b"]}
    made = client(serve(make_engine({"Say": ["Hello."]})))
    done = threading.Event()
    said: list[str] = []

    def others() -> None:
        while not done.is_set():
            said.append(made.chat.completions.create(**asked("Say")).choices[0].message.content or "")

    thread = threading.Thread(target=others)
    thread.start()
    try:
        assert "too complex" in refusal(made, response_format=schema(of)).message
    finally:
        done.set()
        thread.join()
    assert set(said) == {"Hello."}


def test_the_description_says_it(make_engine, serve) -> None:
    made = httpx2.get(f"{serve(make_engine())}/openapi.json").json()["components"]["schemas"]
    kinds = made["ChatBody"]["properties"]["response_format"]["anyOf"][0]["discriminator"]["mapping"]
    assert set(kinds) == {"text", "json_object", "json_schema"}


@pytest.mark.parametrize("form", ["lanbot", "qwen2.5"])
def test_a_strict_functions_arguments_are_under_its_schema(make_engine, serve, form) -> None:
    script = {
        "lanbot": ["<|python_start|>", "move('lefo')", "<|python_end|>"],
        "qwen2.5": ['<tool_call>\n{"name": "move", "arguments": {"to": "lefo"}}\n</tool_call>'],
    }
    made = client(serve(make_engine({"Left": script[form]}, form, 2_048)))
    for strict, to in ((False, "lefo"), (True, "left"), (None, "lefo")):
        function = {"name": "move", "parameters": MOVE, "strict": strict}
        tools: Any = [{"type": "function", "function": function}]
        (call,) = made.chat.completions.create(**asked("Left", tools=tools)).choices[0].message.tool_calls
        assert json.loads(call.function.arguments) == {"to": to}
    odd: Any = {"type": "object", "properties": {"to": {"type": "array", "uniqueItems": True}}}
    tools = [{"type": "function", "function": {"name": "move", "parameters": odd, "strict": True}}]
    if form != "lanbot":  # which takes less of a schema
        assert "uniqueItems" in refusal(made, tools=tools).message
