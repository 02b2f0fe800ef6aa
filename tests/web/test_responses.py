"""/v1/responses and /v1/completions through OpenAI's own client, and an agent library over both."""

import asyncio
import json
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError, OpenAI

WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
SCRIPT = {
    "Say hello": ["Hello, wörld!"],
    "Paris?": ["I look. ", "<|python_start|>", "get_weather(city='Paris')", "<|python_end|>"],
}


def client(url: str) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)


def test_a_response_has_its_text_and_usage(make_engine, serve) -> None:
    made = client(serve(make_engine(SCRIPT))).responses.create(
        model="tiny", input="Say hello", instructions="Be brief."
    )
    assert made.output_text == "Hello, wörld!" and made.status == "completed"
    assert made.usage.output_tokens == len("Hello, wörld!".encode()) + 1
    assert made.usage.input_tokens > len("Be brief.Say hello")


def test_a_streamed_response_tells_each_step_in_order(make_engine, serve) -> None:
    made = client(serve(make_engine(SCRIPT)))
    events = list(made.responses.create(model="tiny", input="Say hello", stream=True))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == "Hello, wörld!" == events[-1].response.output_text and len(deltas) > 1
    with made.responses.stream(model="tiny", input="Say hello") as stream:  # the client's own bookkeeping agrees
        assert stream.get_final_response().output_text == "Hello, wörld!"


def test_the_limit_makes_a_response_incomplete(make_engine, serve) -> None:
    made = client(serve(make_engine(SCRIPT))).responses.create(model="tiny", input="Say hello", max_output_tokens=5)
    assert (made.output_text, made.status, made.incomplete_details.reason) == (
        "Hello",
        "incomplete",
        "max_output_tokens",
    )


@pytest.mark.parametrize("stream", [False, True])
def test_calls_and_their_results(make_engine, serve, stream) -> None:
    made = client(serve(make_engine(SCRIPT)))
    more: dict[str, Any] = {"model": "tiny", "tools": [WEATHER]}
    if stream:
        with made.responses.stream(input="Paris?", **more) as events:
            found = events.get_final_response()
    else:
        found = made.responses.create(input="Paris?", **more)
    said, call = found.output
    assert said.type == "message" and said.content[0].text == "I look. "
    assert call.type == "function_call" and json.loads(call.arguments) == {"city": "Paris"}
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    history: Any = [{"role": "user", "content": "Paris?"}, *(one.model_dump() for one in found.output), result]
    assert made.responses.create(input=history, max_output_tokens=1, **more).usage.input_tokens > 40
    with pytest.raises(BadRequestError, match="a call has no result"):
        made.responses.create(input=history[:-1], **more)


@pytest.mark.parametrize("stream", [False, True])
def test_thoughts_are_an_item_of_their_own(make_engine, serve, stream) -> None:
    script = {"Why?": ["<think>", "\nLet me see.\n", "</think>", "\n\nBecause."]}
    made = client(serve(make_engine(script, "qwen3")))
    asked: dict[str, Any] = {"model": "tiny", "input": "Why?", "reasoning": {"effort": "low"}}
    if stream:
        found = list(made.responses.create(stream=True, **asked))[-1].response
    else:
        found = made.responses.create(**asked)
    thought, said = found.output
    assert thought.type == "reasoning" and thought.content[0].text == "Let me see."
    assert said.content[0].text == "Because."


def test_a_response_that_needs_a_store_is_refused(make_engine, serve) -> None:
    with pytest.raises(BadRequestError, match="send the whole conversation"):
        client(serve(make_engine())).responses.create(model="tiny", input="Hm", previous_response_id="resp_1")


def test_a_text_is_continued_without_a_chat_format(make_engine, serve) -> None:
    engine = make_engine()
    made = client(serve(engine)).completions
    found = made.create(model="tiny", prompt="Once upon", max_tokens=8, logprobs=2)
    assert found.usage.prompt_tokens == len("Once upon") + 1 and found.usage.completion_tokens <= 8
    chances = found.choices[0].logprobs
    assert len(chances.tokens) == len(chances.token_logprobs) == len(chances.text_offset)
    assert all(len(others) == 2 for others in chances.top_logprobs)
    chunks = list(
        made.create(model="tiny", prompt="Once upon", max_tokens=8, stream=True, stream_options={"include_usage": True})
    )
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == found.choices[0].text
    assert chunks[-1].usage.completion_tokens == found.usage.completion_tokens
    assert made.create(model="tiny", prompt="Once upon").usage.completion_tokens <= 16
    ids = engine.chat_format.tokenizer.encode("Once upon")
    as_ids = made.create(model="tiny", prompt=[engine.chat_format.bos, *ids], max_tokens=8)
    assert as_ids.choices[0].text == found.choices[0].text
    for wrong in ({"prompt": [10**6]}, {"prompt": "x", "echo": True}, {"prompt": []}):
        with pytest.raises(BadRequestError):
            made.create(**{"model": "tiny", **wrong})


@pytest.mark.parametrize("responses", [False, True])
def test_an_agent_of_another_library_uses_its_tools(make_engine, serve, responses) -> None:
    agents = pytest.importorskip("agents")
    script = {
        "sunny": ["It is sunny."],
        "What is the weather": ['<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'],
    }
    url = serve(make_engine(script, "qwen2.5", 1_024))
    asked: list[str] = []

    @agents.function_tool
    def get_weather(city: str) -> str:
        """The weather of a city."""
        asked.append(city)
        return "sunny"

    agents.set_tracing_disabled(True)
    kind = agents.OpenAIResponsesModel if responses else agents.OpenAIChatCompletionsModel

    async def run() -> str:
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as one:
            model = kind(model="tiny", openai_client=one)
            agent = agents.Agent(name="helper", instructions="Help.", model=model, tools=[get_weather])
            return str((await agents.Runner.run(agent, "What is the weather in Paris?")).final_output)

    assert asyncio.run(run()) == "It is sunny." and asked == ["Paris"]
