"""How fast the engine generates, beside transformers' `generate` and a plain static-batch loop, in one run.

    python benchmarks/engine.py [--model demo|depth-4|d20] [--dtype bfloat16] [--repeats 3] [--json]

All three generate from the same weights. The static loop is the obvious one over transformers' forward pass: read the
prompts together, then one token of each row until the longest answer is done. On a CPU those two are timed in bf16 and
in fp32, and the faster one counts, case by case. All alternate and medians count.
`ragged` is 16 samples of one prompt that end after 16 to 256 tokens: only tokens that were asked for count, and the
others generate 256 of each row, as a static batch does. Needs the extra `hf` for the other two.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from lanbot.chat.formats.base import ChatFormat
from lanbot.core import hardware
from lanbot.core.console import say, table
from lanbot.inference.engine import Engine
from lanbot.inference.request import Request
from lanbot.inference.sampling import Sampling
from lanbot.models.config import ModelConfig
from lanbot.models.init import init_weights
from lanbot.models.transformer import Transformer
from lanbot.models.weights import save_model

MODELS = {
    "demo": ModelConfig(1_024, 192, 4, 6, 6, 32, 512, 1_024),
    "depth-4": ModelConfig(8_192, 256, 4, 4, 4, 64, 704, 1_024),
    "d20": ModelConfig(65_536, 1_280, 20, 10, 10, 128, 3_456, 2_048),
}
PROMPT, NEW, TOP_K = 32, 128, 50
RAGGED = [16 * (i + 1) for i in range(16)]
"""Tokens of each of the 16 samples of one prompt."""


class Plain:
    """A chat format without stop tokens and calls: answers have the length that was asked for."""

    stop_tokens: frozenset[int] = frozenset()

    def __init__(self, vocab_size: int) -> None:
        self.tokenizer = SimpleNamespace(vocab_size=vocab_size)

    class Parser:
        def feed(self, token: int, sampled: bool = True) -> list[Any]:
            return []

        def finish(self) -> list[Any]:
            return []

    def stream(self) -> Parser:
        return self.Parser()


def make_engine(model: Transformer) -> Engine:
    chat_format: Any = Plain(model.config.vocab_size)
    plain: ChatFormat = chat_format
    return Engine(model, plain)


def of_engine(engine: Engine, prompts: list[list[int]], limits: list[int], on_first: Callable[[], None]) -> None:
    made: list[Request] = []
    for i, (prompt, limit) in enumerate(zip(prompts, limits, strict=True)):
        engine.submit(prompt, Sampling(limit, temperature=1.0, top_k=TOP_K), key=str(i))
    while engine.live or engine.waiting:
        made += engine.step()
        on_first()
    assert sorted(len(request.completion.ids) for request in made) == sorted(limits)


def of_transformers(model: Any, prompts: list[list[int]], limits: list[int], on_first: Callable[[], None]) -> None:
    ids = torch.tensor(prompts, device=model.device)
    most = max(limits)
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=True,
        top_k=TOP_K,
        max_new_tokens=most,
        min_new_tokens=most,
        pad_token_id=0,
    )
    assert out.shape[1] == len(prompts[0]) + most


@torch.inference_mode()
def of_static_loop(model: Any, prompts: list[list[int]], limits: list[int], on_first: Callable[[], None]) -> None:
    ids, cache = torch.tensor(prompts, device=model.device), None
    for _ in range(max(limits)):
        out = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        values, tokens = out.logits[:, -1].float().topk(TOP_K)
        ids, cache = tokens.gather(-1, values.softmax(-1).multinomial(1)), out.past_key_values
        ids[:, 0].tolist()  # a loop looks for ends
        on_first()


def python_share(engine: Engine, prompts: list[list[int]]) -> float:
    """The share of a step that is not in the runner's and the sampler's operations."""
    from lanbot.inference import engine as module

    inside = 0.0

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            nonlocal inside
            began = time.perf_counter()
            result = function(*args)
            inside += time.perf_counter() - began
            return result

        return call

    runner: Any = engine.runner
    whole, forward, logits, sample = 0.0, runner.forward, runner.logits, module.sample_each
    runner.forward, runner.logits, module.sample_each = timed(forward), timed(logits), timed(sample)
    try:
        began = time.perf_counter()
        of_engine(engine, prompts, [NEW] * len(prompts), lambda: None)
        whole = time.perf_counter() - began
    finally:
        runner.forward, runner.logits, module.sample_each = forward, logits, sample
    return 1 - inside / whole


def bandwidth() -> float:
    """Bytes read a second by a sum over 256 MB, the best of five."""
    data, best = torch.ones(1 << 26), 0.0
    for _ in range(5):
        began = time.perf_counter()
        data.sum()
        best = max(best, 4 * len(data) / (time.perf_counter() - began))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="depth-4")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    dtype, config = getattr(torch, asked.dtype), MODELS[asked.model]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = Transformer(config, dtype)
    init_weights(model, torch.Generator().manual_seed(0))
    dtypes = {dtype, torch.float32} if device.type == "cpu" else {dtype}
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, Path(folder))
        theirs = [AutoModelForCausalLM.from_pretrained(folder, dtype=one).eval().to(device) for one in dtypes]
    engine = make_engine(model.to(device))
    generator = torch.Generator().manual_seed(1)

    def some(n: int) -> list[list[int]]:
        return torch.randint(config.vocab_size, (n, PROMPT), generator=generator).tolist()

    cases = {f"batch {n}": (n, [NEW] * n) for n in (1, 16, 64)} | {"ragged": (16, RAGGED)}
    ways = {
        "engine": (of_engine, [engine]),
        "transformers": (of_transformers, theirs),
        "static loop": (of_static_loop, theirs),
    }
    rates: dict[str, dict[str, list[float]]] = {case: {way: [] for way in ways} for case in cases}
    first: dict[str, list[float]] = {case: [] for case in cases}
    for repeat in range(asked.repeats + 1):  # the first one warms up
        for case, (n, limits) in cases.items():
            prompts = some(1) * n if case == "ragged" else some(n)
            for way, (run, models) in ways.items():
                took, times = [], []
                for what in models:
                    engine.prefixes.clear()
                    began = time.perf_counter()
                    run(what, prompts, limits, lambda: times.append(time.perf_counter()))  # type: ignore[operator] # noqa: B023
                    took.append(time.perf_counter() - began)
                if repeat:
                    rates[case][way].append(sum(limits) / min(took))
                    if way == "engine":
                        first[case].append(times[0] - began)
            say(f"{case}: {rates[case]['engine'][-1]:,.0f} tokens/s" if repeat else f"{case}: warmed up")

    middle = statistics.median
    flops, memory = hardware.matmul_ceiling(device, dtype), bandwidth() if device.type == "cpu" else None
    weights = config.matmul_params() * dtype.itemsize
    rows, results = [], {}
    for case, (n, _) in cases.items():
        ours, hf, loop = (middle(rates[case][way]) for way in ways)
        ratios = [
            [a / b for a, b in zip(rates[case]["engine"], rates[case][way], strict=True)] for way in list(ways)[1:]
        ]
        share = ours / n * weights / memory if memory and case != "ragged" else None
        products = ours * 2 * config.matmul_params() / flops
        results[case] = {
            "engine": ours, "transformers": hf, "static_loop": loop,
            "over_transformers": middle(ratios[0]), "over_static_loop": middle(ratios[1]),
            "first_token_ms": 1_000 * middle(first[case]), "memory_share": share, "matmul_share": products,
        }  # fmt: skip
        rows.append(
            (
                case,
                f"{ours:,.0f}", f"{hf:,.0f}", f"{loop:,.0f}", f"{middle(ratios[0]):.1f}x", f"{middle(ratios[1]):.1f}x",
                f"{1_000 * middle(first[case]):.1f} ms", "" if share is None else f"{share:.0%}", f"{products:.1%}",
            )
        )  # fmt: skip
    header = ("", "engine", "transformers", "static loop", "over it", "over loop", "first token", "memory", "products")
    say(f"{asked.model}, {asked.dtype}, {device.type}: tokens/s, {PROMPT} tokens of prompt, {NEW} new, top-k {TOP_K}")
    print(table(rows, header))
    began = time.perf_counter()
    engine.prefixes.clear()
    prompts = [torch.randint(config.vocab_size, (config.context // 2,), generator=generator).tolist() for _ in range(8)]
    of_engine(engine, prompts, [1] * 8, lambda: None)
    results["prefill"] = sum(map(len, prompts)) / (time.perf_counter() - began)
    results["python_share"] = python_share(engine, some(16))
    say(f"prefill: {results['prefill']:,.0f} tokens/s of 8 prompts of {config.context // 2:,}")
    say(f"Python: {results['python_share']:.0%} of a step at batch 16")
    if asked.json:
        print(json.dumps({"model": asked.model, "dtype": asked.dtype, "device": device.type, **results}))


if __name__ == "__main__":
    main()
