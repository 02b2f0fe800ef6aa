"""What any OpenAI-compatible endpoint does: ours, or the one that LANBOT_ENDPOINT names, such as a vLLM server.

LANBOT_ENDPOINT=http://host:8000/v1 LANBOT_ENDPOINT_KEY=... pytest tests/web/test_any_endpoint.py
"""

import asyncio
import json
import os
from collections.abc import Generator
from typing import Any

import pytest
from openai import APIStatusError, AsyncOpenAI, OpenAI

from lanbot.agent.endpoint import EndpointModel
from lanbot.agent.model import Reply
from lanbot.chat.formats.base import Event
from lanbot.chat.messages import Message, output
from lanbot.config.agent import Endpoint
from lanbot.inference.sampling import Sampling


@pytest.fixture
def endpoint(make_engine, serve) -> str:
    return os.environ.get("LANBOT_ENDPOINT") or f"{serve(make_engine())}/v1"


@pytest.fixture
def api(endpoint: str) -> OpenAI:
    return OpenAI(base_url=endpoint, api_key=os.environ.get("LANBOT_ENDPOINT_KEY", "none"), max_retries=0, timeout=120)


@pytest.fixture
def ask(api: OpenAI) -> dict[str, Any]:
    return {
        "model": next(iter(api.models.list())).id,
        "messages": [{"role": "user", "content": "Tell me about a dog."}],
        "temperature": 0.0,
        "max_tokens": 16,
    }


def test_a_model_says_its_context(api: OpenAI) -> None:
    assert next(iter(api.models.list())).max_model_len > 0  # type: ignore[attr-defined]


def test_greedy_answers_are_the_same_streamed_and_not(api: OpenAI, ask: dict[str, Any]) -> None:
    whole = api.chat.completions.create(**ask)
    chunks = list(api.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert whole.choices[0].finish_reason in ("stop", "length")
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_the_limit_and_a_stop_text_are_kept(api: OpenAI, ask: dict[str, Any]) -> None:
    cut = api.chat.completions.create(**{**ask, "max_tokens": 1})
    assert cut.usage.completion_tokens == 1 and cut.choices[0].finish_reason in ("length", "stop")
    said = api.chat.completions.create(**ask).choices[0].message.content or ""
    stop = said[len(said) // 2 :][:2]
    if stop:
        stopped = api.chat.completions.create(**ask, stop=[stop]).choices[0]
        assert stopped.message.content == said.partition(stop)[0] and stopped.finish_reason == "stop"


def test_several_answers_and_their_chances(api: OpenAI, ask: dict[str, Any]) -> None:
    more: dict[str, Any] = {**ask, "temperature": 1.0, "n": 2, "seed": 3, "logprobs": True, "top_logprobs": 2}
    found = api.chat.completions.create(**more)
    assert [choice.index for choice in found.choices] == [0, 1]
    assert all(one.logprob <= 0 for choice in found.choices for one in choice.logprobs.content)


def test_a_text_is_continued(api: OpenAI, ask: dict[str, Any]) -> None:
    found = api.completions.create(model=ask["model"], prompt="Once upon a time", max_tokens=8, temperature=0.0)
    assert found.usage.completion_tokens <= 8


def test_an_answer_in_json_is_json(api: OpenAI, ask: dict[str, Any]) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    form: Any = {"type": "json_schema", "json_schema": {"name": "number", "schema": schema, "strict": True}}
    found = api.chat.completions.create(**ask, response_format=form).choices[0]
    assert json.loads(found.message.content or "") in ({"n": 1}, {"n": 2}) and found.finish_reason == "stop"


def test_errors_have_a_status_and_a_message(api: OpenAI, ask: dict[str, Any]) -> None:
    for wrong, status in (({"model": "no-such-model"}, 404), ({"messages": []}, 400), ({"temperature": -1}, 400)):
        with pytest.raises(APIStatusError) as error:
            api.chat.completions.create(**{**ask, **wrong})
        assert error.value.status_code == status and error.value.message


def whole(made: Generator[Event, None, Reply]) -> Reply:
    while True:
        try:
            next(made)
        except StopIteration as done:
            return done.value


def test_lanbots_own_client_has_its_calls_and_results(make_engine, serve) -> None:
    script = {"Paris?": ["I look. ", "<|python_start|>", "get_weather(city='Paris')", "<|python_end|>"]}
    model = EndpointModel(Endpoint(url=f"{serve(make_engine(script))}/v1", model="tiny"))
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tools = [{"type": "function", "function": {"name": "get_weather", "description": "", "parameters": parameters}}]
    asked: list[Message] = [{"role": "user", "content": "Paris?"}]
    reply = whole(model.stream(asked, Sampling(100), tools=tools))
    assert model.context_length == 512
    assert (reply.finished, reply.calls) == ("call", ("get_weather(city='Paris')",))
    answered: Message = {"role": "assistant", "content": [*reply.parts, output("sunny")]}
    assert whole(model.stream([*asked, answered], Sampling(4), tools=tools)).finished in ("length", "stop", "call")
    model.close()


def test_async_clients_get_their_own_answers(endpoint: str, ask: dict[str, Any]) -> None:
    async def all_of_them() -> tuple[list[str | None], list[str | None]]:
        key = os.environ.get("LANBOT_ENDPOINT_KEY", "none")
        async with AsyncOpenAI(base_url=endpoint, api_key=key, max_retries=0) as api:

            async def one(i: int) -> str | None:
                messages: Any = [{"role": "user", "content": f"Count from {i}."}]
                return (await api.chat.completions.create(**{**ask, "messages": messages})).choices[0].message.content

            alone = [await one(i) for i in range(6)]
            return alone, list(await asyncio.gather(*map(one, range(6))))

    alone, together = asyncio.run(all_of_them())
    assert alone == together
