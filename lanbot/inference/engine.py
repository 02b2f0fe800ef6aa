"""Batched generation with a KV cache, and calls answered while it generates.

When a model closes a call, its result is appended as forced tokens, and generation resumes after them. Each request
draws from its own seed, so what it samples does not depend on the other requests of the batch.
"""

import copy
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from lanbot.chat.formats.base import ChatFormat, Event, StreamParser
from lanbot.core import hardware
from lanbot.core.errors import UserError
from lanbot.distributed.fsdp import gathered
from lanbot.inference.sampling import Sampling, sample
from lanbot.models.kv_cache import KVCache
from lanbot.models.transformer import Transformer
from lanbot.tools.calculator import answer
from lanbot.tools.tool import CallHandler

OnEvent = Callable[[int, Event], None]
SLOTS = {"cpu": 256, "cuda": 512, "mps": 64}  # maximum number of conversations generated at the same time
PREFILL_TOKENS = 32_768  # maximum number of prompt tokens in one forward pass


@dataclass
class Completion:
    """What was generated after a prompt."""

    prompt: list[int]
    ids: list[int] = field(default_factory=list)
    sampled: list[int] = field(default_factory=list)
    """1 where the model chose the token, 0 where a call's output was forced."""
    logprobs: list[float] = field(default_factory=list)
    """Of each sampled token under the model at temperature 1; 0 for forced ones."""
    calls: int = 0  # number of calls that were answered
    finished: str = ""
    """"stop" (the turn ended), "length" (the limit was reached) or "tool" (a call handler returned None)."""


@dataclass
class _Request:
    index: int
    completion: Completion
    draws: random.Random
    limit: int
    call_handler: CallHandler
    parser: StreamParser
    forced: deque[int] = field(default_factory=deque)


class Engine:
    """Generates with the current weights of `model`; call `refresh` after they have changed."""

    def __init__(self, model: Transformer, chat_format: ChatFormat, call_handler: CallHandler = answer) -> None:
        self.source, self.chat_format, self.call_handler = model, chat_format, call_handler
        self.refresh()

    def refresh(self) -> None:
        """Takes the current weights: a copy in the compute dtype, or the fp32 masters themselves."""
        self.model = gathered(self.source)
        if self.model is self.source and self.source.dtype != torch.float32:
            self.model = copy.deepcopy(self.source).to(self.source.dtype).requires_grad_(False)
        self.device = self.model.embed_tokens.weight.device

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[list[int]],
        sampling: Sampling,
        seed: int = 0,
        on_event: OnEvent | None = None,
        keys: Sequence[str] | None = None,
        call_handlers: Sequence[CallHandler] | None = None,
    ) -> list[Completion]:
        """A completion for each prompt, in order. on_event(index, event) is called during generation.

        keys: what a request's draws depend on besides the seed; its index by default.
        call_handlers: what answers each request's calls; the engine's own by default.

        Raises UserError if a prompt leaves no room in the context.
        """
        context = self.model.config.context
        for prompt in prompts:
            if len(prompt) >= context:
                raise UserError(
                    f"a conversation of {len(prompt):,} tokens; the model's context is {context:,}",
                    "Shorten it, or train with a longer model.context.",
                )
        requests = [
            _Request(
                i,
                Completion(list(p)),
                random.Random(f"{seed}/{keys[i] if keys else i}"),
                min(sampling.max_tokens, context - len(p)),
                call_handlers[i] if call_handlers else self.call_handler,
                self.chat_format.stream(),
            )
            for i, p in enumerate(prompts)
        ]
        waiting = deque(requests)
        longest = max((len(r.completion.prompt) + r.limit for r in requests), default=0)
        slots: list[_Request | None] = [None] * min(self._slots(longest), len(requests))
        cache = KVCache(self.model.config, len(slots), longest, self.model.dtype, self.device)
        logits = torch.zeros(len(slots), self.model.config.vocab_size, device=self.device)
        while True:
            free = [i for i, request in enumerate(slots) if request is None]
            if waiting and (len(free) * 4 >= len(slots)):
                admitted = free[: len(waiting)]
                for i in admitted:
                    slots[i] = waiting.popleft()
                rows = max(1, PREFILL_TOKENS // longest)
                for some in (admitted[start : start + rows] for start in range(0, len(admitted), rows)):
                    logits[some] = self._prefill(cache, [slots[i] for i in some], some)  # type: ignore[misc]
            elif not waiting and len(free) * 2 > len(slots):  # the last requests: drop the empty slots
                kept = [i for i, request in enumerate(slots) if request is not None]
                slots = [slots[i] for i in kept]
                cache.keep(torch.tensor(kept, dtype=torch.long, device=self.device))
                logits = logits[kept]
            if not any(slots):
                return [request.completion for request in requests]
            tokens = self._choose(slots, logits, sampling, on_event)
            if any(slots):
                logits = self._decode(cache, slots, tokens)

    def _slots(self, longest: int) -> int:
        """Number of conversations of `longest` tokens whose cache takes at most a quarter of the memory."""
        config = self.model.config
        held = 2 * config.n_layers * config.n_kv_heads * config.head_dim * longest * self.model.dtype.itemsize
        return max(1, min(SLOTS[self.device.type], hardware.total() // 4 // max(1, held)))

    def _prefill(self, cache: KVCache, requests: list[_Request], slots: list[int]) -> torch.Tensor:
        """The logits (rows, V) after each prompt; its keys and values are written to its slot."""
        prompts = [request.completion.prompt for request in requests]
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=self.device)
        ids = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.long, device=self.device)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.tensor(prompt)
        rows = torch.tensor(slots, device=self.device)
        cache.lengths[rows] = 0
        hidden = self.model(ids, cache=cache.view(rows, lengths))
        return self.model.logits(hidden[torch.arange(len(prompts)), lengths - 1])

    def _decode(self, cache: KVCache, slots: list[_Request | None], tokens: torch.Tensor) -> torch.Tensor:
        """The logits (slots, V) after one more token in each slot; empty slots do not advance."""
        active = torch.tensor([request is not None for request in slots], device=self.device)
        view = cache.view(torch.arange(len(slots), device=self.device), cache.lengths + active)
        return self.model.logits(self.model(tokens[:, None], cache=view)[:, 0])

    def _choose(
        self, slots: list[_Request | None], logits: torch.Tensor, sampling: Sampling, on_event: OnEvent | None
    ) -> torch.Tensor:
        """The next token of each slot, forced or sampled. The slot of a finished request becomes None."""
        draws = [0.0 if r is None or r.forced else r.draws.random() for r in slots]
        drawn = sample(logits, sampling, torch.tensor(draws, device=self.device))
        chosen = logits.log_softmax(-1).gather(-1, drawn[:, None])[:, 0].tolist()
        tokens = drawn.tolist()
        for i, request in enumerate(slots):
            if request is None:
                continue
            completion, forced = request.completion, bool(request.forced)
            if forced:
                tokens[i] = request.forced.popleft()
            completion.ids.append(tokens[i])
            completion.sampled.append(0 if forced else 1)
            completion.logprobs.append(0.0 if forced else chosen[i])
            for event in request.parser.feed(tokens[i], not forced):
                if on_event is not None:
                    on_event(request.index, event)
                if event.kind == "call":
                    self._answer_call(request, event.text)
            if tokens[i] in self.chat_format.stop_tokens:
                completion.finished = "stop"
            elif len(completion.ids) >= request.limit and not completion.finished:
                completion.finished = "length"
            if completion.finished:
                slots[i] = None
                if on_event is not None:
                    for event in request.parser.finish():
                        on_event(request.index, event)
        return torch.tensor(tokens, device=self.device)

    def _answer_call(self, request: _Request, code: str) -> None:
        """Queues the result of a call to be forced; None ends the answer."""
        completion = request.completion
        result = request.call_handler(code)
        completion.calls += 1
        if result is None:
            completion.finished = "tool"
            return
        room = request.limit - len(completion.ids)
        request.forced.extend(self.chat_format.forced_output(result, room))
