"""/v1/messages through Anthropic's own client."""

import asyncio
from typing import Any

import pytest
from anthropic import Anthropic, AsyncAnthropic, AuthenticationError, BadRequestError, NotFoundError

from lanbot.web.security import Access

WEATHER: Any = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
SCRIPT = {
    "Say hello": ["Hello, wörld!"],
    "Paris?": ["I look. ", "<|python_start|>", "get_weather(city='Paris')", "<|python_end|>"],
}


def client(url: str, key: str = "none") -> Anthropic:
    return Anthropic(base_url=url, api_key=key, max_retries=0, timeout=60)


def asked(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "max_tokens": 100, "messages": [{"role": "user", "content": text}], **more}


def test_a_message_has_its_text_usage_and_reason(make_engine, serve) -> None:
    made = client(serve(make_engine(SCRIPT))).messages.create(**asked("Say hello", system="Be brief."))
    assert made.content[0].text == "Hello, wörld!" and made.stop_reason == "end_turn"
    assert made.usage.output_tokens == len("Hello, wörld!".encode()) + 1
    assert made.usage.input_tokens > len("Be brief.Say hello")


def test_a_stream_says_the_same(make_engine, serve) -> None:
    made = client(serve(make_engine(SCRIPT)))
    with made.messages.stream(**asked("Say hello")) as stream:
        assert "".join(stream.text_stream) == "Hello, wörld!"
        final = stream.get_final_message()
    assert final.stop_reason == "end_turn" and final.usage.output_tokens == len("Hello, wörld!".encode()) + 1


def test_async_streams_of_many_do_not_mix(make_engine, serve) -> None:
    url = serve(make_engine({f"number {i}.": [f"This is {i}."] for i in range(8)}))

    async def all_of_them() -> list[str]:
        async with AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as made:

            async def one(i: int) -> str:
                async with made.messages.stream(**asked(f"number {i}.")) as stream:
                    return await stream.get_final_text()

            return await asyncio.gather(*map(one, range(8)))

    assert asyncio.run(all_of_them()) == [f"This is {i}." for i in range(8)]


def test_what_ended_a_message_is_said(make_engine, serve) -> None:
    made = client(serve(make_engine(SCRIPT)))
    stopped = made.messages.create(**asked("Say hello", stop_sequences=["xx", "wör"]))
    assert (stopped.content[0].text, stopped.stop_reason, stopped.stop_sequence) == ("Hello, ", "stop_sequence", "wör")
    assert made.messages.create(**asked("Say hello", **{"max_tokens": 5})).stop_reason == "max_tokens"


@pytest.mark.parametrize("stream", [False, True])
def test_tools_and_their_results(make_engine, serve, stream) -> None:
    made = client(serve(make_engine(SCRIPT)))
    if stream:
        with made.messages.stream(**asked("Paris?", tools=[WEATHER])) as events:
            found = events.get_final_message()
    else:
        found = made.messages.create(**asked("Paris?", tools=[WEATHER]))
    said, use = found.content
    assert (said.text, found.stop_reason, use.name, use.input) == (
        "I look. ",
        "tool_use",
        "get_weather",
        {"city": "Paris"},
    )
    history: Any = [
        {"role": "user", "content": "Paris?"},
        {"role": "assistant", "content": [block.model_dump() for block in found.content]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}]},
    ]
    again = made.messages.create(model="tiny", max_tokens=1, messages=history, tools=[WEATHER])
    assert again.usage.input_tokens + again.usage.cache_read_input_tokens > 40
    with pytest.raises(BadRequestError, match="a call has no result"):
        made.messages.create(model="tiny", max_tokens=1, messages=history[:-1])


@pytest.mark.parametrize("stream", [False, True])
def test_thinking_is_a_block_of_its_own(make_engine, serve, stream) -> None:
    script = {"Why?": ["<think>", "\nLet me see.\n", "</think>", "\n\nBecause."]}
    made = client(serve(make_engine(script, "qwen3")))
    more: Any = {"thinking": {"type": "enabled", "budget_tokens": 1_024}}
    if stream:
        with made.messages.stream(**asked("Why?", **more)) as events:
            found = events.get_final_message()
    else:
        found = made.messages.create(**asked("Why?", **more))
    thought, said = found.content
    assert (thought.thinking, said.text) == ("Let me see.", "Because.")


def test_errors_are_in_anthropics_shape(make_engine, serve) -> None:
    url = serve(make_engine(SCRIPT), Access(("right",)))
    with pytest.raises(AuthenticationError) as refused:
        client(url).messages.create(**asked("Hm"))
    assert refused.value.body["error"]["type"] == "authentication_error"  # type: ignore[index]
    made = client(url, "right")
    with pytest.raises(NotFoundError) as missing:
        made.messages.create(**asked("Hm", **{"model": "claude"}))
    assert missing.value.body["error"]["type"] == "not_found_error"  # type: ignore[index]
    with pytest.raises(BadRequestError, match="temperature") as wrong:
        made.messages.create(**asked("Hm", extra_body={"temperature": 7}))
    assert wrong.value.body["type"] == "error"  # type: ignore[index]
