"""/v1/chat/completions through OpenAI's own client."""

import asyncio
import json
from typing import Any

import httpx2
import pytest
from openai import APIError, AsyncOpenAI, AuthenticationError, BadRequestError, NotFoundError, OpenAI

from lanbot.web.security import Access

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}
SCRIPT = {
    "Say hello": ["Hello, wörld! 👋"],
    "2+2?": ["It is ", "<|python_start|>", "2+2", "<|python_end|>", "4."],
    "Paris?": ["I look. ", "<|python_start|>", "get_weather('Paris', days=1+1)", "<|python_end|>"],
    "broken": ["<|python_start|>", "get_weather(town='Paris')", "<|python_end|>", "Sorry."],
}


def client(url: str, key: str = "none") -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=60)


def asked(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], **{"max_tokens": 100, **more}}


def test_an_answer_has_its_text_usage_and_reason(make_engine, serve) -> None:
    made = client(serve(make_engine(SCRIPT))).chat.completions.create(**asked("Say hello"))
    assert made.choices[0].message.content == "Hello, wörld! 👋"
    assert made.choices[0].finish_reason == "stop"
    assert made.usage.completion_tokens == len("Hello, wörld! 👋".encode()) + 1
    assert made.usage.total_tokens == made.usage.prompt_tokens + made.usage.completion_tokens
    assert made.model == "tiny" and made.object == "chat.completion"


def test_a_stream_says_the_same_in_pieces_and_ends_with_the_usage(make_engine, serve) -> None:
    made = client(serve(make_engine(SCRIPT)))
    whole = made.chat.completions.create(**asked("Say hello"))
    chunks = list(
        made.chat.completions.create(**asked("Say hello", stream=True, stream_options={"include_usage": True}))
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1 and len(chunks) > 3


def test_a_stream_without_the_option_has_no_usage(make_engine, serve) -> None:
    chunks = list(client(serve(make_engine(SCRIPT))).chat.completions.create(**asked("Say hello", stream=True)))
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


def test_async_answers_of_many_do_not_mix(make_engine, serve) -> None:
    script = {f"number {i}.": [f"This is {i}, said {i} times."] for i in range(24)}
    url = serve(make_engine(script))

    async def all_of_them() -> list[str]:
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as made:

            async def one(i: int) -> str:
                if i % 2:
                    stream = await made.chat.completions.create(**asked(f"number {i}.", stream=True))
                    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
                return (await made.chat.completions.create(**asked(f"number {i}."))).choices[0].message.content or ""

            return await asyncio.gather(*map(one, range(24)))

    assert asyncio.run(all_of_them()) == [f"This is {i}, said {i} times." for i in range(24)]


def test_n_answers_by_seed(make_engine, serve) -> None:
    made = client(serve(make_engine()))
    more: dict[str, Any] = {"n": 3, "temperature": 1.0, "seed": 5, "max_tokens": 12}
    first, again = (made.chat.completions.create(**asked("Hm", **more)) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in again.choices]
    assert len(set(texts)) == 3 and [choice.index for choice in first.choices] == [0, 1, 2]
    streamed = ["", "", ""]
    for chunk in made.chat.completions.create(**asked("Hm", stream=True, **more)):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts
    other = made.chat.completions.create(**asked("Hm", **{**more, "seed": 6}))
    assert [choice.message.content for choice in other.choices] != texts


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_text_ends_the_answer_and_is_no_part_of_it(make_engine, serve, stream) -> None:
    made = client(serve(make_engine({"count": ["one two three four"]})))
    for stop, text in ((["three"], "one two "), (" tw", "one"), (["zz", "four"], "one two three ")):
        found = made.chat.completions.create(**asked("count", stop=stop, stream=stream))
        if stream:
            chunks = [chunk.choices[0] for chunk in found]
            assert "".join(choice.delta.content or "" for choice in chunks) == text
            assert chunks[-1].finish_reason == "stop"
        else:
            assert (found.choices[0].message.content, found.choices[0].finish_reason) == (text, "stop")


def test_a_text_that_only_begins_like_a_stop_text_is_whole(make_engine, serve) -> None:
    made = client(serve(make_engine({"count": ["one tw"]})))
    assert made.chat.completions.create(**asked("count", stop="two")).choices[0].message.content == "one tw"


def test_the_limit_ends_an_answer(make_engine, serve) -> None:
    made = client(serve(make_engine(SCRIPT)))
    for name in ("max_tokens", "max_completion_tokens"):
        found = made.chat.completions.create(**{**asked("Say hello"), "max_tokens": None, name: 5})
        assert (found.choices[0].message.content, found.choices[0].finish_reason) == ("Hello", "length")


def test_logprobs_are_of_the_answers_tokens(make_engine, serve) -> None:
    made = client(serve(make_engine(SCRIPT)))
    more: dict[str, Any] = {"logprobs": True, "top_logprobs": 2}
    for text, content in (("Say hello", "Hello, wörld! 👋"), ("2+2?", "It is 4.")):
        found = made.chat.completions.create(**asked(text, **more)).choices[0].logprobs.content
        assert b"".join(bytes(one.bytes) for one in found).decode() == content
        assert all(one.logprob > -0.01 and len(one.top_logprobs) == 2 for one in found)
        assert all(one.top_logprobs[0].bytes == one.bytes for one in found)
        streamed = [
            token
            for chunk in made.chat.completions.create(**asked(text, stream=True, **more))
            for token in (chunk.choices[0].logprobs.content if chunk.choices[0].logprobs else [])
        ]
        assert streamed == found
    cut = made.chat.completions.create(**asked("Say hello", stop="lo", logprobs=True)).choices[0]
    assert "".join(one.token for one in cut.logprobs.content) == cut.message.content == "Hel"


def test_the_server_answers_the_calculator_itself_and_shows_it(make_engine, serve) -> None:
    made = client(serve(make_engine(SCRIPT)))
    message = made.chat.completions.create(**asked("2+2?")).choices[0].message
    assert message.content == "It is 4." and not message.tool_calls
    parts = [("text", "It is "), ("python", "2+2"), ("output", "4"), ("text", "4.")]
    assert [(part["type"], part["text"]) for part in message.parts] == parts  # type: ignore[attr-defined]
    streamed = [
        part
        for chunk in made.chat.completions.create(**asked("2+2?", stream=True))
        for part in getattr(chunk.choices[0].delta, "parts", [])
    ]
    assert [(part["type"], part["text"]) for part in streamed] == parts[1:3]


def test_parts_that_are_sent_back_are_read_as_they_were_written(make_engine, serve) -> None:
    engine = make_engine(SCRIPT)
    made = client(serve(engine))
    message = made.chat.completions.create(**asked("2+2?")).choices[0].message
    ask = {"role": "user", "content": "And then?"}
    history = [{"role": "user", "content": "2+2?"}, message.model_dump(exclude_none=True), ask]
    again = made.chat.completions.create(model="tiny", messages=history, max_tokens=1)
    assert again.usage.prompt_tokens_details.cached_tokens >= 20, "the first turn is still held: it was read alike"


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_in_python_of_a_clients_function_is_a_tool_call(make_engine, serve, stream) -> None:
    made = client(serve(make_engine(SCRIPT)))
    found = made.chat.completions.create(**asked("Paris?", tools=[WEATHER], stream=stream))
    if stream:
        deltas = [chunk.choices[0] for chunk in found]
        (call,) = (call for one in deltas for call in one.delta.tool_calls or [])
        text, reason = "".join(one.delta.content or "" for one in deltas), deltas[-1].finish_reason
        assert call.index == 0
    else:
        (call,) = found.choices[0].message.tool_calls
        text, reason = found.choices[0].message.content, found.choices[0].finish_reason
    assert (text, reason, call.function.name) == ("I look. ", "tool_calls", "get_weather")
    assert json.loads(call.function.arguments) == {"city": "Paris", "days": 2}
    assert call.id.startswith("call_")


def test_a_result_is_read_by_the_model_where_it_called(make_engine, serve) -> None:
    engine = make_engine(SCRIPT)
    made = client(serve(engine))
    question = {"role": "user", "content": "Paris?"}
    called = made.chat.completions.create(**asked("Paris?", tools=[WEATHER])).choices[0].message
    result = {"role": "tool", "tool_call_id": called.tool_calls[0].id, "content": "sunny"}
    history = [question, called.model_dump(exclude_none=True), result]
    prompts: list[list[int]] = []
    submit = engine.submit
    engine.submit = lambda prompt, *args, **more: prompts.append(list(prompt)) or submit(prompt, *args, **more)
    made.chat.completions.create(model="tiny", messages=history, tools=[WEATHER], max_tokens=1)
    text = engine.chat_format.tokenizer.decode(prompts[0])
    assert text.endswith("<|python_end|><|output_start|>sunny<|output_end|>")
    assert "get_weather(city: string, days: integer = ...): The weather of a city." in text


def test_a_call_that_does_not_fit_is_the_models_to_correct(make_engine, serve) -> None:
    found = client(serve(make_engine(SCRIPT))).chat.completions.create(**asked("broken", tools=[WEATHER]))
    message = found.choices[0].message
    assert message.content == "Sorry." and not message.tool_calls
    assert "unexpected keyword argument 'town'" in message.parts[1]["text"]  # type: ignore[attr-defined]


JSON_SCRIPT = {
    "Paris?": ['<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'],
    "both?": [
        'Two.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome", "days": 2}}\n</tool_call>'
    ],
}


@pytest.mark.parametrize("stream", [False, True])
def test_calls_in_json_are_tool_calls(make_engine, serve, stream) -> None:
    made = client(serve(make_engine(JSON_SCRIPT, "qwen2.5", 1_024)))
    for text, cities in (("Paris?", ["Paris"]), ("both?", ["Paris", "Rome"])):
        more: dict[str, Any] = {"tools": [WEATHER], "max_tokens": 300, "stream": stream}
        found = made.chat.completions.create(**{**asked(text), **more})
        if stream:
            choices = [chunk.choices[0] for chunk in found]
            calls = [call for one in choices for call in one.delta.tool_calls or []]
            reason = choices[-1].finish_reason
            assert [call.index for call in calls] == list(range(len(cities)))
        else:
            calls, reason = found.choices[0].message.tool_calls, found.choices[0].finish_reason
        assert [json.loads(call.function.arguments)["city"] for call in calls] == cities
        assert reason == "tool_calls" and len({call.id for call in calls}) == len(cities)


def test_a_call_is_a_tool_call_in_llamas_format_too(make_engine, serve) -> None:
    script = {"Paris?": ['{"name": "get_weather", "parameters": {"city": "Paris"}}']}
    made = client(serve(make_engine(script, "llama3", 2_048)))
    (call,) = made.chat.completions.create(**asked("Paris?", tools=[WEATHER])).choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Paris"})


def test_a_call_by_name_that_is_nobodys_is_answered_by_the_server(make_engine, serve) -> None:
    calls = {"sum": '{"name": "python", "arguments": {"code": "12*7"}}', "bad": "{no json"}
    script = {
        question: [f"<tool_call>\n{call}\n</tool_call>", "<|im_end|>", "There."] for question, call in calls.items()
    }
    made = client(serve(make_engine(script, "qwen2.5", 2_048)))
    for question, result in (("sum", "84"), ("bad", "error: ")):
        choice = made.chat.completions.create(**asked(question, tools=[WEATHER], max_tokens=400)).choices[0]
        assert choice.message.content.endswith("There.") and choice.finish_reason == "stop"
        (output,) = (part["text"] for part in choice.message.parts if part["type"] == "output")  # type: ignore[attr-defined]
        assert output.startswith(result)


def test_an_answer_that_was_begun_is_gone_on_with(make_engine, serve) -> None:
    engine = make_engine({"Greet": ["lo"]})
    messages = [{"role": "user", "content": "Greet"}, {"role": "assistant", "content": "Hel"}]
    found = client(serve(engine)).chat.completions.create(model="tiny", messages=messages)  # type: ignore[arg-type]
    assert found.choices[0].message.content == "lo"
    assert found.usage.prompt_tokens == len("GreetHel") + 4, "bos, two around the user's, one before the assistant's"


@pytest.mark.parametrize("stream", [False, True])
def test_thoughts_are_reasoning(make_engine, serve, stream) -> None:
    script = {"Why?": ["<think>", "\nLet me see.\n", "</think>", "\n\nBecause."]}
    made = client(serve(make_engine(script, "qwen3")))
    found = made.chat.completions.create(**asked("Why?", reasoning_effort="high", stream=stream))
    if stream:
        deltas = [chunk.choices[0].delta for chunk in found]
        thought = "".join(getattr(delta, "reasoning", None) or "" for delta in deltas)
        content = "".join(delta.content or "" for delta in deltas)
    else:
        thought, content = found.choices[0].message.reasoning, found.choices[0].message.content
    assert (thought, content) == ("Let me see.", "Because.")


def test_models_are_listed(make_engine, serve) -> None:
    made = client(serve(make_engine()))
    assert [model.id for model in made.models.list()] == ["other", "tiny"]
    assert made.models.retrieve("tiny").id == "tiny"
    assert made.models.retrieve("tiny").max_model_len == 512  # type: ignore[attr-defined]
    with pytest.raises(NotFoundError, match="no model 'gpt-4o'; there are: other, tiny"):
        made.chat.completions.create(**asked("Hm", **{"model": "gpt-4o"}))


def test_errors_are_in_the_clients_words(make_engine, serve) -> None:
    made = client(serve(make_engine(context=128)))
    for wrong, param in (
        ({"temperature": 9}, "temperature"),
        ({"n": 9}, "n"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"response_format": {"type": "grammar"}}, "response_format"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "other"}}, "tools": [WEATHER]}, "tool_choice"),
        ({"messages": [{"role": "user", "content": "x" * 200}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages"),
    ):
        with pytest.raises(BadRequestError) as error:
            made.chat.completions.create(**{**asked("Hm"), **wrong})
        assert error.value.param == param and error.value.type == "invalid_request_error"
    with pytest.raises(BadRequestError, match="the model's context is 128") as error:
        made.chat.completions.create(**asked("x" * 1_000_000))
    assert error.value.code == "context_length_exceeded"


def test_harmless_fields_are_accepted(make_engine, serve) -> None:
    more = {"user": "me", "store": False, "metadata": {"a": "b"}, "parallel_tool_calls": True, "presence_penalty": 0}
    made = client(serve(make_engine(SCRIPT))).chat.completions.create(**asked("Say hello", **more))
    assert made.choices[0].message.content


def test_a_wrong_key_is_an_authentication_error(make_engine, serve) -> None:
    url = serve(make_engine(SCRIPT), Access(("right",)))
    with pytest.raises(AuthenticationError):
        client(url, "wrong").chat.completions.create(**asked("Say hello"))
    assert client(url, "right").chat.completions.create(**asked("Say hello")).choices


def test_an_error_within_a_stream_reaches_the_client(make_engine, serve) -> None:
    engine = make_engine()
    engine.seconds = 0.05
    made = client(serve(engine, seconds=0.5))
    with pytest.raises(APIError, match="not finished within"):
        list(made.chat.completions.create(**asked("Hm", stream=True, max_tokens=400)))


def test_plain_http_is_all_a_client_needs(make_engine, serve) -> None:
    made = httpx2.post(f"{serve(make_engine(SCRIPT))}/v1/chat/completions", json=asked("Say hello", stream=True))
    assert made.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in made.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]"
