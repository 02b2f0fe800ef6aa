"""What /metrics says, in Prometheus' text format and with the names that vLLM's dashboards know after their prefix."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable

PREFIX = "lanbot:"
FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
BETWEEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5)
WHOLE = (0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480)


class Histogram:
    """Counts of values up to each bound, and their sum."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds, self.counts, self.sum = bounds, [0] * (len(bounds) + 1), 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def lines(self, name: str) -> Iterable[str]:
        total = 0
        for bound, count in zip((*self.bounds, "+Inf"), self.counts, strict=True):
            total += count
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f"{name}_sum {self.sum}"
        yield f"{name}_count {total}"


class Metrics:
    """Written by the engine's thread and read by the server's; each value alone is right."""

    def __init__(self) -> None:
        self.running = self.waiting = 0
        self.kv_cache_usage = 0.0
        self.prompt_tokens = self.generation_tokens = self.prefix_queries = self.prefix_hits = 0
        self.ended: Counter[str] = Counter()
        """Requests by how they ended: stop, length, tool_calls, abort (the client left), timeout, error, refused."""
        self.first_token, self.between, self.whole = Histogram(FIRST_TOKEN), Histogram(BETWEEN), Histogram(WHOLE)

    def text(self) -> str:
        gauges = {
            "num_requests_running": (self.running, "Requests that are generated."),
            "num_requests_waiting": (self.waiting, "Requests in the queue."),
            "kv_cache_usage_perc": (self.kv_cache_usage, "Share of the memory for keys and values in use, 0 to 1."),
        }
        counters = {
            "prompt_tokens_total": (self.prompt_tokens, "Tokens of prompts."),
            "generation_tokens_total": (self.generation_tokens, "Tokens that were generated."),
            "prefix_cache_queries_total": (self.prefix_queries, "Tokens of prompts that were looked up."),
            "prefix_cache_hits_total": (self.prefix_hits, "Tokens of prompts whose keys and values were held."),
        }
        histograms = {
            "time_to_first_token_seconds": (self.first_token, "From a request's arrival to its first token."),
            "inter_token_latency_seconds": (self.between, "Between two tokens of an answer."),
            "e2e_request_latency_seconds": (self.whole, "From a request's arrival to its end."),
        }
        lines: list[str] = []
        for kind, group in (("gauge", gauges), ("counter", counters)):
            for name, (value, help) in group.items():
                lines += [*_head(name, kind, help), f"{PREFIX}{name} {value}"]
        lines += _head("request_success_total", "counter", "Requests that ended, by the reason.")
        lines += [
            f'{PREFIX}request_success_total{{finished_reason="{reason}"}} {count}'
            for reason, count in sorted(self.ended.items())
        ]
        for name, (histogram, help) in histograms.items():
            lines += [*_head(name, "histogram", help), *histogram.lines(PREFIX + name)]
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, help: str) -> list[str]:
    return [f"# HELP {PREFIX}{name} {help}", f"# TYPE {PREFIX}{name} {kind}"]
