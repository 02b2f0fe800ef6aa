"""A model at an OpenAI-compatible endpoint: JSON calls are the same calls, and what goes wrong is mended or said."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from agent_server import AgentServer, says

from lanbot.agent import endpoint
from lanbot.agent.endpoint import EndpointModel
from lanbot.agent.endpoint_answer import BROKEN
from lanbot.agent.model import Reply
from lanbot.chat.formats.base import Event
from lanbot.chat.messages import Message, call, output, python, text
from lanbot.config.agent import Endpoint
from lanbot.core.errors import UserError
from lanbot.inference.sampling import Sampling
from lanbot.tools.python_call import PYTHON

KEY = "sk-not-to-be-seen-4711"
ASKED: list[Message] = [{"role": "user", "content": "What is 2+2?"}]


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "WAIT", 0.002)
    monkeypatch.setattr(endpoint, "TIMEOUT", httpx2.Timeout(0.3))
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def model_of(notes: list[str]) -> Iterator[Callable[..., EndpointModel]]:
    made: list[EndpointModel] = []

    def make(server: AgentServer, model: str = "m", **keys: Any) -> EndpointModel:
        made.append(EndpointModel(Endpoint(url=server.url, model=model, **keys), notes.append))
        return made[-1]

    yield make
    for one in made:
        one.close()


def heard(model: EndpointModel, messages: list[Message] = ASKED) -> tuple[list[Event], Reply]:
    events: list[Event] = []
    stream = model.stream(messages, Sampling(50), 3, [PYTHON])
    while True:
        try:
            events.append(next(stream))
        except StopIteration as done:
            return events, done.value


def shown(events: list[Event]) -> str:
    return "".join(event.text for event in events if event.kind == "piece" and event.part == "text")


@pytest.mark.parametrize("fault", ["", "whole", "no index", "no usage"])
def test_calls_in_json_are_calls_in_python(fault: str, model_of: Callable[..., EndpointModel]) -> None:
    calls = [("read_file", {"path": "a.txt", "lines": 3}), ("python", {"code": "2+2"})]
    with AgentServer([says("I look. ", *calls)], [fault]) as server:
        events, reply = heard(model_of(server))
    assert reply.finished == "call"
    assert reply.calls == ("read_file(path='a.txt', lines=3)", "2+2")
    assert [part["type"] for part in reply.parts] == ["text", "call", "python"]
    assert shown(events) == "I look. "
    assert [event.text for event in events if event.kind == "piece" and event.part == "call"] == [reply.calls[0]]


def test_a_conversation_is_sent_with_results_for_every_call(model_of: Callable[..., EndpointModel]) -> None:
    first = [text("Hm. "), call("read_file", {"path": "a"}, "x"), call("read_file", {"path": "b"}, "x"), output("A")]
    messages: list[Message] = [
        {"role": "system", "content": "Be brief."},
        *ASKED,
        {"role": "assistant", "content": [*first, text("A it is.")]},
        {"role": "user", "content": "And 2+2?"},
        {"role": "assistant", "content": []},
        {"role": "user", "content": "Well?"},
        {"role": "assistant", "content": [python("2+2"), output("4")]},
    ]
    with AgentServer([says("4.")]) as server:
        _, reply = heard(model_of(server), messages)
        sent = server.bodies[0]
    assert (reply.parts, reply.finished) == ([text("4.")], "stop")
    roles = [message["role"] for message in sent["messages"]]
    assert roles == ["system", "user", "assistant", "tool", "tool", "assistant", "user", "user", "assistant", "tool"]
    ids = [one["id"] for message in sent["messages"] for one in message.get("tool_calls", ())]
    assert ids == [message["tool_call_id"] for message in sent["messages"] if message["role"] == "tool"]
    assert len(set(ids)) == 3
    assert [message["content"] for message in sent["messages"] if message["role"] == "tool"] == [
        "A",
        "error: this call was not run",
        "4",
    ]
    assert sent["messages"][-2]["tool_calls"][0]["function"] == {"name": "python", "arguments": '{"code": "2+2"}'}
    assert sent["tools"] == [PYTHON] and (sent["max_tokens"], sent["seed"], sent["temperature"]) == (50, 3, 0.0)


def test_a_connection_that_drops_shows_nothing_twice(model_of: Callable[..., EndpointModel], notes: list[str]) -> None:
    answer = "The answer is four, as everybody knows."
    with AgentServer([says(answer)], ["drop", "error", "drop"]) as server:
        events, reply = heard(model_of(server))
        assert len(server.bodies) == 4
    assert shown(events) == answer and reply.parts == [text(answer)]
    assert any("overloaded" in note for note in notes) and "try 2 of 5" in notes[0]


def test_an_answer_that_is_another_after_a_drop_goes_on_from_there(model_of: Callable[..., EndpointModel]) -> None:
    with AgentServer([says("The answer is four.")], ["drop"]) as server:
        stream = model_of(server).stream(ASKED, Sampling(50))
        events = [next(event for event in stream if event.text)]
        server.turns[0] = says("The sum is 4.")
        reply = None
        while reply is None:
            try:
                events.append(next(stream))
            except StopIteration as done:
                reply = done.value
    begun, _, rest = shown(events).partition(BROKEN)
    assert "The answer is four.".startswith(begun) and begun
    assert rest == "sum is 4." and reply.parts == [text("The sum is 4.")]


def test_what_may_pass_is_tried_again_and_what_stays_is_an_error(
    model_of: Callable[..., EndpointModel], notes: list[str]
) -> None:
    with AgentServer([says("4.")], ["429", "503", "hang", "500"]) as server:
        _, reply = heard(model_of(server))
        assert reply.parts == [text("4.")] and len(server.bodies) == 5
    assert [note for note in notes if "429 (not now)" in note] and [note for note in notes if "0.3s" in note]
    with AgentServer([says("4.")], ["429"] * 9) as server:
        with pytest.raises(UserError, match=r"429 .not now. .5 tries.\n") as raised:
            heard(model_of(server))
        assert len(server.bodies) == 5 and len(str(raised.value).split("\n")) == 2


def test_a_server_that_asks_to_wait_is_waited_for(model_of: Callable[..., EndpointModel]) -> None:
    with AgentServer([says("4.")], ["429", "429"]) as server:
        server.retry_after = "0.2"
        heard(model_of(server))
        first, second, third = server.arrived
    assert min(second - first, third - second) >= 0.2


def test_a_call_that_is_no_json_is_text_and_others_go_on(model_of: Callable[..., EndpointModel]) -> None:
    wrong = '{"path": "a.txt", "text": "no end'
    with AgentServer([says("", ("write_file", wrong)), says("", ("f", "[1]"), ("f", "{}"))]) as server:
        model = model_of(server)
        events, reply = heard(model)
        assert (reply.finished, reply.calls) == ("call", (f"write_file({wrong})",))
        assert reply.parts == [text(f"write_file({wrong})")]
        assert Event("piece", "call", f"write_file({wrong})") in events
        _, reply = heard(model)
    assert (reply.finished, reply.calls) == ("call", ("f()", "f([1])"))
    assert [part["type"] for part in reply.parts] == ["call", "text"]


def test_a_call_that_is_cut_by_the_limit_is_not_run(model_of: Callable[..., EndpointModel]) -> None:
    with AgentServer([says("I write. ", ("write_file", '{"path": "a'), finish="length")]) as server:
        _, reply = heard(model_of(server))
    assert (reply.finished, reply.calls) == ("length", ())
    assert reply.parts == [text("I write. "), text('write_file({"path": "a)')]


def test_parameters_that_it_does_not_take_are_left_out_from_then_on(model_of: Callable[..., EndpointModel]) -> None:
    with AgentServer([says("4."), says("5.")]) as server:
        server.unknown = ("stream_options", "seed", "max_tokens")
        model = model_of(server)
        heard(model)
        assert heard(model)[1].parts == [text("5.")]
        assert len(server.bodies) == 5
        last = server.bodies[-1]
    assert last["max_completion_tokens"] == 50 and not {"seed", "max_tokens", "stream_options"} & set(last)


def test_costs_and_tokens_are_the_endpoints(model_of: Callable[..., EndpointModel]) -> None:
    with AgentServer([says("4."), says("4.")], ["", "no usage"]) as server:
        model = model_of(server, price_in=2.0, price_out=10.0)
        before = model.count_tokens(ASKED)
        _, reply = heard(model)
        read = reply.prompt_tokens
        assert (read, reply.tokens) == (server.usage(server.bodies[0])["prompt_tokens"], 7)
        assert reply.cost == pytest.approx((read * 2 + 7 * 10) / 1e6)
        assert model.count_tokens(ASKED, [PYTHON]) == read and model.count_tokens(ASKED) != before
        _, estimated = heard(model)
        assert estimated.prompt_tokens == read and estimated.cost > 0


def test_the_context_is_that_of_the_settings_or_of_the_list_of_models(
    model_of: Callable[..., EndpointModel], notes: list[str]
) -> None:
    with AgentServer([]) as server:
        assert model_of(server, context=777).context_length == 777
        assert model_of(server).context_length == endpoint.CONTEXT
        assert "how long its context is" in notes[0]
        server.models = [{"id": "other", "max_model_len": 5}, {"id": "m", "max_model_len": 4096}]
        assert model_of(server).context_length == 4096
        server.models = [{"id": "m", "meta": {"n_ctx_train": 2048}}]
        assert model_of(server).context_length == 2048


def test_errors_are_two_lines_and_never_show_the_key(
    model_of: Callable[..., EndpointModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    with AgentServer([says("4.")] * 3, key="another") as server:
        cases = [(model_of(server, key="MY_KEY"), "401", "MY_KEY"), (model_of(server), "401", "--key-env")]
        server_of_all = model_of(server, "nope", key="MY_KEY")
        for model, what, remedy in cases:
            with pytest.raises(UserError) as raised:
                heard(model)
            assert what in raised.value.problem and remedy in raised.value.remedy
            assert KEY not in str(raised.value) and len(str(raised.value).split("\n")) == 2
        server.key = KEY
        with pytest.raises(UserError, match=r"does not exist.*\n.*nope.*/v1"):
            heard(server_of_all)
        assert heard(model_of(server, key="MY_KEY"))[1].parts == [text("4.")]
    with pytest.raises(UserError, match=f"{server.url[7:-3]}: no connection.*\n.*does it run"):
        heard(model_of(server))
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(UserError, match="MY_KEY is not set\nSet it: export MY_KEY="):
        model_of(server, key="MY_KEY")


def test_stopping_to_listen_ends_the_request(model_of: Callable[..., EndpointModel]) -> None:
    with AgentServer([says("x" * 9_000), says("4.")]) as server:
        model = model_of(server)
        stream = model.stream(ASKED, Sampling(50))
        next(stream)
        stream.close()
        assert heard(model)[1].parts == [text("4.")]


def test_whoever_waits_for_a_slow_endpoint_can_look_at_the_time(model_of: Callable[..., EndpointModel]) -> None:
    with AgentServer([says("4.")]) as server:
        server.delay = 30.0
        stream = model_of(server).stream(ASKED, Sampling(50))
        assert next(stream) == Event("piece", "text", "")
        stream.close()
