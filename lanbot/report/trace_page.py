"""The trace of a session as a page: one file that needs no network and runs no script."""

from lanbot.agent.trace import Trace, cost, seconds
from lanbot.report.page import environment


def trace_page(trace: Trace) -> str:
    """Everything that the user, the model or a tool wrote is escaped."""
    return environment().get_template("trace.html.j2").render(trace=trace, seconds=seconds, cost=cost)
