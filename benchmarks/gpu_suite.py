"""Correctness and speed of training on one GPU, in two runs of under nine minutes.

    python benchmarks/gpu_suite.py --part 1 [--out FILE.json]     # correctness, speed at depth 12
    python benchmarks/gpu_suite.py --part 2 [--data TOKENS.npy]   # depth 20, fp8, a loss curve of five minutes

Needs lanbot/models, lanbot/training and what they import, numpy and torch; no tokenizer and no data: it generates
tokens of a known entropy, or reads --data (.npy, or .bin of uint16; documents begin with --bos). Every section has a
time limit. A section that fails is reported and the next one runs. After each section the results so far are written to
--out (by default gpu_suite.json in $OUT, or here).

Utilisation is the model's FLOP/s (6 x matmul parameters, with the head and without the embedding, and causal attention
at half; optimiser and recomputation do not count) over the best matmul FLOP/s in bf16, measured before and after in
this process. The parts of a step are device times; "rest" is the time between update and forward.
--smoke: both parts at toy sizes, on any machine, to test the script.
"""

import argparse
import copy
import json
import os
import signal
import statistics
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from lanbot.core import hardware
from lanbot.core.console import size, table
from lanbot.data.packing import Batch, make_batch
from lanbot.distributed.runtime import Runtime
from lanbot.models import attention, compile, fp8
from lanbot.models.config import ModelConfig
from lanbot.models.init import init_weights
from lanbot.models.loss import weighted_nll
from lanbot.models.transformer import Transformer
from lanbot.training import memory
from lanbot.training.optim import MuonAdamW, Rates
from lanbot.training.schedule import wsd
from lanbot.training.step import training_step

RUNTIME = Runtime.single()

CLASSES = 64
MAX_SECONDS = 530
"""Time limit of a run."""


@dataclass(frozen=True)
class Size:
    """A model and its batches."""

    depth: int
    vocab: int = 65_536
    sequence: int = 2_048
    batch_tokens: int = 131_072
    """As lanbot/config/scaling.py sets it for the depth."""

    def config(self) -> ModelConfig:
        dim = 64 * self.depth
        head_dim = 64 if dim < 1_024 else 128
        heads = dim // head_dim
        mlp = max(64, round(8 * dim / 3 / 64) * 64)
        return ModelConfig(self.vocab, dim, self.depth, heads, heads, head_dim, mlp, self.sequence)


D12, D20 = Size(12), Size(20, batch_tokens=524_288)
TOY = Size(1, 512, 64, 256)


class Source:
    """An endless stream of rows: classes follow a random chain of order 2, tokens within a class Zipf's law.

    The model can learn which four of 64 classes follow each pair, so the loss has a known floor.
    """

    chances = np.array([0.5, 0.25, 0.15, 0.1])

    def __init__(self, vocab: int, sequence: int, data: Path | None, bos: int, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.sequence, self.bos, self.place = sequence, bos, 0
        self.tokens = None if data is None else _read(data)
        if self.tokens is not None and int(self.tokens.max()) >= vocab:
            raise ValueError(f"{data} holds token {int(self.tokens.max()):,}; the vocabulary is {vocab:,}")
        self.following = self.rng.integers(0, CLASSES, (CLASSES, CLASSES, len(self.chances)))
        zipf = 1 / np.arange(1, vocab // CLASSES + 1)
        self.zipf = zipf / zipf.sum()

    @property
    def floor(self) -> float | None:
        """The lowest possible loss in nats a token; None with --data. Only classes, initially ln 64, can be learnt."""
        if self.tokens is not None:
            return None
        return float(-sum((p * np.log(p)).sum() for p in (self.chances, self.zipf)))

    def batch(self, rows: int) -> Batch:
        """Loss weights are 1 / tokens, so that the loss is a mean."""
        T = self.sequence + 1
        if self.tokens is not None:
            index = (self.place + np.arange(rows)[:, None] * self.sequence + np.arange(T)) % len(self.tokens)
            self.place += rows * self.sequence
            tokens = self.tokens[index].astype(np.int64)
        else:
            choices = self.rng.choice(len(self.chances), (T, rows), p=self.chances)
            classes = np.empty((T, rows), dtype=np.int64)
            classes[:2] = self.rng.integers(0, CLASSES, (2, rows))
            for t in range(2, T):
                classes[t] = self.following[classes[t - 2], classes[t - 1], choices[t]]
            ranks = np.searchsorted(self.zipf.cumsum(), self.rng.random((T, rows))).clip(max=len(self.zipf) - 1)
            tokens = (classes + CLASSES * ranks).T
            tokens[self.rng.random(tokens.shape) < 1 / 700] = self.bos
        return make_batch(tokens, np.full(tokens.shape, 1 / (rows * self.sequence), np.float32), self.bos)


def _read(path: Path) -> np.ndarray:
    tokens = np.load(path, mmap_mode="r") if path.suffix == ".npy" else np.memmap(path, dtype=np.uint16, mode="r")
    return tokens.reshape(-1)


class Timeline:
    """Times at which the device reached each part of a step."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.seen: list[tuple[str, Any]] = []

    def __call__(self, part: str) -> None:
        if self.cuda:
            event: Any = torch.cuda.Event(enable_timing=True)
            event.record()
        else:
            event = time.perf_counter()
        self.seen.append((part, event))

    def milliseconds(self, steps: int) -> dict[str, float]:
        """Milliseconds of a step by part."""
        synchronise()
        sums: dict[str, float] = defaultdict(float)
        for (part, begin), (_, end) in zip(self.seen, self.seen[1:], strict=False):
            sums[part] += begin.elapsed_time(end) if self.cuda else 1e3 * (end - begin)
        return {part: total / steps for part, total in sums.items()}


class Training:
    """A model, its optimiser and a step whose parts can be timed."""

    def __init__(self, what: Size, compiled: bool, eight_bits: bool, dtype: torch.dtype | None = None) -> None:
        place = RUNTIME
        self.what, self.config = what, what.config()
        with place.device:
            self.model = Transformer(self.config, dtype or place.dtype)
        init_weights(self.model, torch.Generator(place.device).manual_seed(0))
        if eight_bits:
            fp8.enable(self.model, place.device, "fp8")
        compiling(compiled)
        compile.compile_blocks(self.model)
        width = (self.config.dim / 768) ** -0.5
        self.optimizer = MuonAdamW(self.model, Rates(0.02, 0.2 * width, 0.004 * width, 0.005), place.dtype)
        self.timeline: Timeline | None = None
        self._add_hooks()

    def step(self, batch: Batch, rows: int, scale: float = 1.0) -> torch.Tensor:
        return training_step(self.model, self.optimizer, batch, scale, 1.0, rows, RUNTIME).loss

    def _add_hooks(self) -> None:
        def mark(part: str) -> None:
            if self.timeline is not None:
                self.timeline(part)

        def after(_: Any, __: Any, hidden: torch.Tensor) -> None:
            mark("head and loss")
            if hidden.requires_grad:
                hidden.register_hook(lambda _: mark("backward"))

        self.model.register_forward_pre_hook(lambda *_: mark("forward"))
        self.model.register_forward_hook(after)
        clip_to, zero = self.optimizer.clip_gradients, self.optimizer.zero_grad

        def clip_gradients(clip: float) -> torch.Tensor:
            mark("update")
            return clip_to(clip)

        def zero_grad() -> None:
            zero()
            mark("rest")

        vars(self.optimizer).update(clip_gradients=clip_gradients, zero_grad=zero_grad)


def compiling(on: bool) -> None:
    os.environ["LANBOT_COMPILE"] = str(int(on))
    torch._dynamo.reset()


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ceiling() -> float:
    """The best matmul FLOP/s now, in the model's dtype (bf16 for fp8 too). A CPU (--smoke) is measured once."""
    if torch.cuda.is_available():
        hardware._ceilings.clear()
    return hardware.matmul_ceiling(RUNTIME.device, RUNTIME.dtype)


class Suite:
    def __init__(self, out: Path, data: Path | None, bos: int) -> None:
        self.out, self.data, self.bos = out, data, bos
        self.results: dict[str, Any] = {}
        self.until, self.end = 0.0, time.monotonic() + MAX_SECONDS

    def section(self, name: str, seconds: float, what: Callable[[], dict[str, Any]]) -> None:
        """Runs `what`, which should take `seconds` and is stopped after 1.5 times as long."""
        began = time.monotonic()
        seconds = min(seconds, self.end - began)
        print(f"\n== {name} ({seconds:.0f} s)", flush=True)
        self.until = began + seconds
        try:
            if seconds <= 0:
                raise TimeoutError("no time left")
            with alarm(min(1.5 * seconds + 10, self.end - began)):
                result = what()
        except Exception as error:  # the next section may still work
            traceback.print_exc(limit=-3)
            result = {"failed": f"{type(error).__name__}: {error}"}
        self.results[name] = {**result, "seconds": round(time.monotonic() - began, 1)}
        self.out.write_text(json.dumps(self.results, indent=1) + "\n", encoding="utf-8")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def left(self) -> float:
        return self.until - time.monotonic()

    # -- sections ------------------------------------------------------------------------------------------

    def machine(self) -> dict[str, Any]:
        place = RUNTIME
        facts: dict[str, Any] = {"torch": torch.__version__, "dtype": str(place.dtype), "device": place.device.type}
        if place.device.type == "cuda":
            facts |= {
                "device": torch.cuda.get_device_name(place.device),
                "capability": torch.cuda.get_device_capability(place.device),
                "memory": hardware.total(),
                "flash": attention.has_flash(place.device, place.dtype, 128),
            }
        facts["ceiling_tflops"] = ceiling() / 1e12
        show(facts)
        return facts

    def speed(self, what: Size, compiled: bool = True, eight_bits: bool = False, rows: int = 0) -> dict[str, Any]:
        """Throughput, utilisation, memory and the parts of a step. rows: of a forward pass; 0: as many as fit."""
        compiling(compiled)
        config, before = what.config(), ceiling()
        rows = rows or memory.micro_batch(config, what.sequence, RUNTIME)
        batch_rows = max(rows, what.batch_tokens // what.sequence)
        training = Training(what, compiled, eight_bits)
        batch = Source(what.vocab, what.sequence, self.data, self.bos).batch(batch_rows)
        hardware.reset_peak()
        while True:
            try:
                began = time.perf_counter()
                training.step(batch, rows).item()
                first = time.perf_counter() - began
                break
            except (RuntimeError, MemoryError) as error:
                if not hardware.exhausted(error) or rows == 1:
                    raise
            training.optimizer.zero_grad()
            rows = (rows + 1) // 2
            print(f"out of memory: {rows} rows at a time", flush=True)
        training.step(batch, rows).item()
        half = self.left() / 2
        seconds: list[float] = []
        while len(seconds) < 2 or (len(seconds) < 10 and self.left() > half):
            begin = time.perf_counter()
            training.step(batch, rows).item()
            seconds.append(time.perf_counter() - begin)
        # asynchronously, as in training, with the parts timed
        steps = max(2, min(8, int(self.left() / 2 / seconds[-1])))
        training.timeline = Timeline(RUNTIME.device)
        begin = time.perf_counter()
        for _ in range(steps):
            training.step(batch, rows)
        host = (time.perf_counter() - begin) / steps
        synchronise()
        steady = (time.perf_counter() - begin) / steps
        parts = training.timeline.milliseconds(steps)
        training.timeline = None
        after = ceiling()
        rate = batch_rows * what.sequence / steady
        place = RUNTIME
        planned = memory.state_bytes(config) + memory.activation_bytes(config, rows, what.sequence, place)
        result = {
            "depth": what.depth, "sequence": what.sequence, "batch_tokens": batch_rows * what.sequence, "rows": rows,
            "compiled": compile.enabled(place.device), "fp8": eight_bits, "parameters": config.params(),
            "tokens_per_second": rate, "step_ms": 1e3 * steady,
            "step_ms_waiting_each": 1e3 * statistics.median(seconds), "host_ms": 1e3 * host,
            "utilisation": rate * config.flops_per_token(what.sequence) / max(before, after),
            "ceiling_tflops": [before / 1e12, after / 1e12], "first_step_seconds": first,
            "compile_seconds": max(0.0, first - seconds[0]), "peak_memory": hardware.peak(),
            "planned_memory": planned,
            "parts_ms": parts, "rest_share": parts.get("rest", 0.0) / sum(parts.values()),
        }  # fmt: skip
        show(result)
        if torch.cuda.is_available() and self.left() > 4 * steady:
            try:
                found = kernels(lambda: training.step(batch, rows))
            except Exception as error:  # keep the figures above
                result["kernels_failed"] = str(error)
            else:
                result |= found
                show({"device_idle": found["device_idle"]})
                print(table([(f"{ms:.1f}", f"{calls:,}", name) for name, ms, calls in found["kernels"]],
                            ("ms a step", "calls", "kernel")), flush=True)  # fmt: skip
        return result

    def right(self, what: Size) -> dict[str, Any]:
        """Compares every code path on the device with fp32 on the CPU, for the same weights and tokens."""
        place, config = RUNTIME, what.config()
        reference = Transformer(config, torch.float32)
        generator = torch.Generator().manual_seed(0)
        init_weights(reference, generator)
        with torch.no_grad():  # these are initialised with zeros or nearly so
            for name, p in reference.named_parameters():
                if name.endswith(("o_proj.weight", "down_proj.weight", "lm_head.weight")):
                    p.normal_(0.0, 0.5 * p.shape[1] ** -0.5, generator=generator)
        batch = Source(what.vocab, what.sequence, None, 0).batch(2)
        expected = run(reference, batch)
        paths = {
            "fp32": (torch.float32, False, True), "16 bits": (place.dtype, False, True),
            "16 bits, by mask": (place.dtype, False, False), "16 bits, compiled": (place.dtype, True, True),
        }  # fmt: skip
        result: dict[str, Any] = {}
        has_flash = attention.has_flash
        for name, (dtype, compiled, flash) in paths.items():
            model = copy.deepcopy(reference).to(place.device)
            model.dtype = dtype
            compiling(compiled)
            attention.has_flash = has_flash if flash else lambda *_: False
            try:
                compile.compile_blocks(model)
                logits, loss, gradients = run(model, batch)
            finally:
                attention.has_flash = has_flash
            cosines = [
                F.cosine_similarity(g.flatten(), e.flatten(), dim=0).item()
                for g, e in zip(gradients, expected[2], strict=True)
            ]
            result[name] = {
                "logits_largest_difference": (logits - expected[0]).abs().max().item(),
                "logits_relative_difference": ((logits - expected[0]).norm() / expected[0].norm()).item(),
                "loss": loss, "loss_on_cpu": expected[1], "least_cosine_of_gradients": min(cosines),
            }  # fmt: skip
        result["documents"] = isolation(copy.deepcopy(reference).to(place.device), batch, place.dtype)
        result["bad batch"] = bad_batch(what, batch)
        for name, figures in result.items():
            print(name)
            show(figures)
        return result

    def kernels_of_attention(self, what: Size) -> dict[str, Any]:
        """Times one layer's attention, forward and backward: document spans, causal over whole rows, and masks."""
        place, config = RUNTIME, what.config()
        rows, T = max(1, 16_384 // what.sequence), what.sequence
        documents = torch.from_numpy(Source(what.vocab, T, None, 0).batch(rows).documents)
        shape = (rows, T, config.n_heads, config.head_dim)
        q, k, v = (torch.randn(shape, device=place.device, dtype=place.dtype).transpose(1, 2) for _ in range(3))
        masks: dict[str, Any] = {
            "causal, whole rows": None,
            "mask": attention.document_mask(documents.to(place.device), place.dtype),
        }
        if attention.has_flash(place.device, place.dtype, config.head_dim):
            masks["spans"] = attention.document_spans(documents, place.device)
            padded = documents.clone()
            padded[:, T // 2 :] = torch.arange(T - T // 2) + T
            masks["spans, half of it padding"] = attention.document_spans(padded, place.device)
        result = {}
        for name, mask in masks.items():
            leaves = [x.detach().requires_grad_() for x in (q, k, v)]
            grad = torch.randn_like(q)

            def once(mask: Any = mask, leaves: Any = leaves, grad: torch.Tensor = grad) -> None:
                attention.attend(leaves[0], leaves[1], leaves[2], mask).backward(grad)

            once()
            synchronise()
            begin, n = time.perf_counter(), 10
            for _ in range(n):
                once()
            synchronise()
            result[name] = 1e3 * (time.perf_counter() - begin) / n
        show(result)
        return {"rows": rows, "sequence": T, "heads": config.n_heads, "milliseconds": result}

    def curve(self, what: Size, seconds: float) -> dict[str, Any]:
        """A loss curve of `seconds` of training, without compilation; the learning rate schedule follows the clock."""
        compiling(True)
        rows = memory.micro_batch(what.config(), what.sequence, RUNTIME)
        batch_rows = max(1, what.batch_tokens // what.sequence)
        rows = min(rows, batch_rows)
        source = Source(what.vocab, what.sequence, self.data, self.bos)
        training = Training(what, True, False)
        training.step(source.batch(batch_rows), rows, 1e-6).item()
        seconds = min(seconds, 0.97 * self.left())
        began, tokens, reported = time.monotonic(), 0, 0.0
        points: list[dict[str, Any]] = []
        losses: list[torch.Tensor] = []
        while (elapsed := time.monotonic() - began) < seconds:
            losses.append(training.step(source.batch(batch_rows), rows, wsd(elapsed / seconds, 0.02, 0.5)))
            tokens += batch_rows * what.sequence
            if len(losses) > 2:
                losses[-3].item()  # the host is at most two steps ahead
            if elapsed - reported >= seconds / 20 or not points:
                reported = elapsed
                recent = torch.stack(losses[-10:]).mean().item()
                points.append({"seconds": round(elapsed, 1), "steps": len(losses), "tokens": tokens, "loss": recent})
                print("  ".join(f"{name} {value:,.4g}" if name == "loss" else f"{name} {value:,}"
                                for name, value in points[-1].items()), flush=True)  # fmt: skip
        last = torch.stack(losses[-20:]).mean().item()
        elapsed = time.monotonic() - began
        result = {"depth": what.depth, "floor": source.floor, "loss": last, "tokens": tokens, "steps": len(losses),
                  "tokens_per_second": tokens / elapsed, "points": points}  # fmt: skip
        show({k: v for k, v in result.items() if k != "points"})
        return result


def run(model: Transformer, batch: Batch) -> tuple[torch.Tensor, float, list[torch.Tensor]]:
    """Logits, loss and gradients, moved to the CPU in fp32."""
    device = model.embed_tokens.weight.device
    ids, targets, weights = (torch.from_numpy(x).to(device) for x in (batch.ids, batch.targets, batch.weights))
    model.zero_grad()
    hidden = model(ids, torch.from_numpy(batch.documents))
    loss, _ = weighted_nll(hidden, model.lm_head.weight, targets, weights)
    loss.backward()
    gradients = [p.grad.float().cpu() for p in model.parameters() if p.grad is not None]
    return model.logits(hidden.detach()).detach().float().cpu(), loss.item(), gradients


@torch.no_grad()
def isolation(model: Transformer, batch: Batch, dtype: torch.dtype) -> dict[str, Any]:
    """Whether changing one document changes the hidden states of others."""
    model.dtype = dtype
    device = model.embed_tokens.weight.device
    ids, documents = torch.from_numpy(batch.ids).to(device), torch.from_numpy(batch.documents)
    own = documents.to(device) == documents[0, -1].item()
    own[1:] = False
    before, after = model(ids, documents), model(torch.where(own, (ids + 1) % model.config.vocab_size, ids), documents)
    moved = (before != after).any(-1)
    return {
        "changed_tokens": int(own.sum()),
        "moved_in_it": int(moved[own].sum()),
        "moved_elsewhere": int(moved[~own].sum()),
    }


def bad_batch(what: Size, batch: Batch) -> dict[str, Any]:
    """Checks that an update that is not finite leaves the model unchanged, and that training continues."""
    training = Training(what, False, False)
    training.step(batch, 2)
    before = [p.detach().clone() for p in training.model.parameters()]
    weights = batch.weights.copy()
    weights[0, 3] = np.nan
    training.step(Batch(batch.ids, batch.targets, weights, batch.documents), 2)
    same = all(torch.equal(b, p) for b, p in zip(before, training.model.parameters(), strict=True))
    training.step(batch, 2)
    moved = any(not torch.equal(b, p) for b, p in zip(before, training.model.parameters(), strict=True))
    return {"skipped": same, "next_update_taken": moved, "steps": int(training.optimizer.steps)}


def kernels(step: Callable[[], Any], steps: int = 2) -> dict[str, Any]:
    """The share of time in which the device is idle, and the kernels with the longest total time."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(steps):
            step()
        synchronise()
    on_device = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    spans = sorted((e.time_range.start, e.time_range.end) for e in on_device)
    busy, end = 0.0, spans[0][0]
    for begin, finish in spans:
        busy += max(0.0, finish - max(begin, end))
        end = max(end, finish)
    totals: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    for event in on_device:
        totals[event.name][0] += (event.time_range.end - event.time_range.start) / 1e3 / steps
        totals[event.name][1] += 1 / steps
    longest = sorted(totals.items(), key=lambda item: -item[1][0])[:12]
    return {
        "device_idle": 1 - busy / (end - spans[0][0]),
        "kernels": [(name[:80], round(ms, 2), round(calls)) for name, (ms, calls) in longest],
    }


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    def ring(*_: Any) -> None:
        raise TimeoutError(f"not finished after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def show(figures: dict[str, Any]) -> None:
    def text(name: str, value: Any) -> str:
        if isinstance(value, dict):
            return ", ".join(f"{k} {text(k, v)}" for k, v in value.items())
        if isinstance(value, list | tuple):
            return ", ".join(text(name, v) for v in value)
        if name.endswith("memory") and isinstance(value, int):
            return size(value)
        if isinstance(value, float):
            return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"
        return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)

    print(table([(name, text(name, value)) for name, value in figures.items()], ("figure", "value")), flush=True)


def part_1(suite: Suite, small: Size, d12: Size, share: float) -> None:
    suite.section("right", 60 * share, lambda: suite.right(small))
    suite.section("attention", 20 * share, lambda: suite.kernels_of_attention(d12))
    suite.section("d12", 90 * share, lambda: suite.speed(d12))
    suite.section("d12 as written", 50 * share, lambda: suite.speed(d12, compiled=False))
    suite.section("d12 fp8", 80 * share, lambda: suite.speed(d12, eight_bits=True))
    for rows in (16, 8, 64):
        suite.section(f"d12 by {rows} rows", 55 * share, lambda rows=rows: suite.speed(d12, rows=rows))  # type: ignore[misc]


def part_2(suite: Suite, d12: Size, d20: Size, share: float) -> None:
    suite.section("d20", 100 * share, lambda: suite.speed(d20))
    suite.section("d20 fp8", 85 * share, lambda: suite.speed(d20, eight_bits=True))
    suite.section("curve", 315 * share, lambda: suite.curve(d12, 300 * share))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", type=int, choices=(1, 2))
    parser.add_argument("--data", type=Path, help="tokens: .npy, or .bin of uint16")
    parser.add_argument("--bos", type=int, default=0, help="the token that begins a document")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".")) / "gpu_suite.json")
    parser.add_argument("--smoke", action="store_true", help="both parts at toy sizes")
    arguments = parser.parse_args()
    if not arguments.smoke and arguments.part is None:
        parser.error("--part 1, --part 2 or --smoke")
    suite = Suite(arguments.out, arguments.data, arguments.bos)
    small, d12, d20 = (TOY, TOY, TOY) if arguments.smoke else (Size(4, 8_192, 512, 8_192), D12, D20)
    share = 0.01 if arguments.smoke else 1.0
    suite.section("machine", 15 * share, suite.machine)
    if arguments.smoke or arguments.part == 1:
        part_1(suite, small, d12, share)
    if arguments.smoke or arguments.part == 2:
        part_2(suite, d12, d20, share)
    print(f"\nwritten to {suite.out}", flush=True)


if __name__ == "__main__":
    main()
