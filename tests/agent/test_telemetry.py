"""Spans of a conversation."""

import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from session_events import CHEESE, TEA

from lanbot.agent.events import Asked, Called, Calling, Ended, Event, Streamed
from lanbot.agent.telemetry import ENDPOINTS, Telemetry, open_telemetry, tool_name

pytest.importorskip("opentelemetry.sdk")


def spans(*events: Event):  # type: ignore[no-untyped-def]
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    heard = Telemetry(provider, "demo-rl", "demo/3")
    for event in events:
        heard(event)
    heard.close()
    return exporter.get_finished_spans()


def test_a_turn_holds_its_replies_and_calls() -> None:
    made = spans(*CHEESE, Streamed("piece"), *TEA)
    names = [span.name for span in made]
    assert names == [
        "chat demo-rl",
        "execute_tool python",
        "chat demo-rl",
        "invoke_agent",
        "chat demo-rl",
        "invoke_agent",
    ]
    reply, call, _, turn, _, other = made
    assert reply.parent.span_id == call.parent.span_id == turn.context.span_id != other.context.span_id
    assert turn.parent is None and all(span.status.is_ok or span.status.is_unset for span in made)
    assert {span.attributes["gen_ai.conversation.id"] for span in made} == {"demo/3"}
    assert [span.attributes["gen_ai.operation.name"] for span in made[:4]] == [
        "chat",
        "execute_tool",
        "chat",
        "invoke_agent",
    ]
    used = {name.removeprefix("gen_ai.usage."): value for name, value in reply.attributes.items() if "usage" in name}
    assert used == {"input_tokens": 100, "cache_read.input_tokens": 60, "output_tokens": 14}
    assert reply.attributes["gen_ai.response.finish_reasons"] == ("tool_calls",)
    assert reply.end_time - reply.start_time >= 0.5e9


def test_nothing_that_was_said_is_in_them() -> None:
    secret: list[Event] = [Asked("hunter2"), Calling(1, "f('hunter2')"), Called(1, "hunter2"), Ended("answered")]
    made = spans(*secret)
    assert [span.name for span in made] == ["execute_tool f", "invoke_agent"]
    assert not any("hunter2" in span.to_json() for span in made)


def test_failures_are_marked_and_a_cut_off_turn_is_ended() -> None:
    def kind(*events: Event) -> list[str]:
        return [span.attributes.get("error.type", "") for span in spans(*events)]

    asked, calling = Asked("do"), Calling(1, "f()")
    assert kind(asked, calling, Called(1, "error: no"), Ended("step limit")) == ["tool_error", "step_limit"]
    assert kind(asked, calling, Called(1, "error: no", refused="step limit"), Ended("answered")) == ["refused", ""]
    assert kind(asked, calling) == kind(asked, calling, *TEA)[:2] == ["interrupted", "interrupted"]
    assert kind(calling, Called(1, "1")) == [""]  # a turn that another process began


@pytest.mark.parametrize(
    ("code", "name"),
    [("read_file('a')", "read_file"), ("f(g(1))", "f"), ("1 + 1", "python"), ("a.b()", "python"), ("f(", "python")],
)
def test_a_call_is_named_after_its_tool(code: str, name: str) -> None:
    assert tool_name(code) == name


def test_spans_are_sent_only_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    assert open_telemetry("demo-rl", "demo/3") is None
    code = "import sys, lanbot.agent.telemetry; print('opentelemetry' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_spans_reach_a_collector_and_one_that_is_not_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    received: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    def send(port: int) -> None:
        monkeypatch.setenv(ENDPOINTS[0], f"http://127.0.0.1:{port}")
        heard = open_telemetry("demo-rl", "demo/3")
        assert heard is not None
        for event in CHEESE:
            heard(event)
        heard.close()

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        send(server.server_port)
        server.shutdown()
    assert [path for path, _ in received] == ["/v1/traces"] and b"invoke_agent" in received[0][1]
    assert capsys.readouterr().err == ""
    send(server.server_port)
    assert capsys.readouterr().err.startswith("telemetry: ")


def test_without_the_package_the_agent_works_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(ENDPOINTS[0], "http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    assert open_telemetry("demo-rl", "demo/3") is None
    assert "pip install 'lanbot[otel]'" in capsys.readouterr().err
