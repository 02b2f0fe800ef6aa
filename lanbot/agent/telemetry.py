"""A conversation as OpenTelemetry spans, by its conventions for generative AI: a turn is `invoke_agent`, a reply in it
`chat MODEL`, a call `execute_tool NAME`.

Spans hold names, counts and times. What was said, called or returned is not in them.
https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-agent-spans/
"""

import ast
import logging
import os
import time
from typing import TYPE_CHECKING, Any

from lanbot import __version__
from lanbot.agent.events import Asked, Called, Calling, Ended, Event, Replied
from lanbot.agent.limits import ANSWERED
from lanbot.core.console import say, visible

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""The standard variables: where spans are sent. Without one nothing is."""
SECONDS = 2.0  # for a collector that does not answer, unless OTEL_EXPORTER_OTLP_TIMEOUT is set


def open_telemetry(model: str, conversation: str) -> "Telemetry | None":
    """A listener that sends spans to where the environment says; None if it does not.

    model: its name. conversation: the run and the session.
    """
    if not any(os.environ.get(name) for name in ENDPOINTS):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        say(f"{ENDPOINTS[0]} is set, but no spans are sent: pip install 'lanbot[otel]'")
        return None
    provider = TracerProvider(resource=Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", "lanbot")}))
    timeout = None if os.environ.get("OTEL_EXPORTER_OTLP_TIMEOUT") else SECONDS
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=timeout)))
    return Telemetry(provider, model, conversation, _Faults())


class _Faults(logging.Handler):
    """Keeps the last message of the SDK's logger, which would else be written into what the terminal shows."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last = ""
        logger = logging.getLogger("opentelemetry")
        logger.addHandler(self)
        logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        self.last = record.getMessage()


class Telemetry:
    """A listener for the agent's events. The provider is its own; `close` sends what is left."""

    def __init__(
        self, provider: "TracerProvider", model: str, conversation: str, faults: "_Faults | None" = None
    ) -> None:
        self.faults = faults
        self.provider, self.model, self.conversation = provider, model, conversation
        self.tracer = provider.get_tracer("lanbot", __version__)
        self.turn: Span | None = None
        self.call: Span | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, Asked):
            self._end("interrupted")
            self.turn = self._start("invoke_agent", {"gen_ai.request.model": self.model})
        elif isinstance(event, Replied):
            self._replied(event)
        elif isinstance(event, Calling):
            name = tool_name(event.code)
            tool = {"gen_ai.tool.name": name, "gen_ai.tool.type": "function", "gen_ai.tool.call.id": str(event.number)}
            self.call = self._start("execute_tool", tool, name)
        elif isinstance(event, Called) and self.call is not None:
            failed = "refused" if event.refused else "tool_error" if event.output.startswith("error:") else ""
            _finish(self.call, failed)
            self.call = None
        elif isinstance(event, Ended):
            self._end("" if event.reason == ANSWERED else event.reason.replace(" ", "_"))

    def close(self) -> None:
        """Ends what is open and sends it; says so if that fails."""
        self._end("interrupted")
        self.provider.shutdown()
        if self.faults is not None and self.faults.last:
            say(f"telemetry: {visible(self.faults.last)[:200]}")

    def _replied(self, event: Replied) -> None:
        figures = {
            "gen_ai.request.model": self.model,
            "gen_ai.usage.input_tokens": event.prompt_tokens,
            "gen_ai.usage.cache_read.input_tokens": event.cached_tokens,
            "gen_ai.usage.output_tokens": event.tokens,
            "gen_ai.response.finish_reasons": [{"call": "tool_calls"}.get(event.finished, event.finished)],
        }
        _finish(self._start("chat", figures, self.model, event.seconds), "")

    def _start(self, operation: str, attributes: dict[str, Any], name: str = "", ago: float = 0.0) -> "Span":
        """A span that began so many seconds ago, within the turn's."""
        from opentelemetry.trace import SpanKind, set_span_in_context

        common = {"gen_ai.operation.name": operation, "gen_ai.provider.name": "lanbot"}
        return self.tracer.start_span(
            f"{operation} {name}".rstrip(),
            set_span_in_context(self.turn) if self.turn is not None else None,
            SpanKind.CLIENT if operation == "chat" else SpanKind.INTERNAL,
            {**common, "gen_ai.conversation.id": self.conversation, **attributes},
            start_time=time.time_ns() - round(ago * 1e9),
        )

    def _end(self, failed: str) -> None:
        """Ends the call and the turn that are open."""
        for span in (self.call, self.turn):
            if span is not None:
                _finish(span, failed)
        self.call = self.turn = None


def tool_name(code: str) -> str:
    """The tool that a call's code names; anything more than one call is `python`."""
    try:
        tree = ast.parse(code.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "python"
    return tree.func.id if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) else "python"


def _finish(span: "Span", failed: str) -> None:
    from opentelemetry.trace import StatusCode

    if failed:
        span.set_attribute("error.type", failed)
        span.set_status(StatusCode.ERROR)
    span.end()
