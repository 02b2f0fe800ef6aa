"""Continuous batching: requests join and leave a batch at every step, and calls are answered while it generates.

A step reads a piece of the prompts that wait and then generates one token of each request whose prompt is read. The
live requests have the first slots: when one ends, the last one's keys and values are copied to its place. A beginning
that another request holds, or held lately, is copied, not computed: of 16 samples of a question one reads it.

Each request draws from its own seed, so what it samples does not depend on the other requests of the batch.
"""

import math
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from functools import partial

import torch

from lanbot.chat.formats.base import ChatFormat, Event
from lanbot.core import hardware
from lanbot.core.errors import UserError
from lanbot.distributed.fsdp import gathered
from lanbot.inference.constraint import Constraint
from lanbot.inference.graphs import Graphs, row_count
from lanbot.inference.prefixes import SHORTEST, Prefixes, shared
from lanbot.inference.request import Alternatives, Completion, Handler, OnEvent, Request
from lanbot.inference.runner import Runner
from lanbot.inference.sampling import Sampling, sample_each
from lanbot.inference.slots import Held, Slots
from lanbot.models.transformer import Transformer
from lanbot.tools.calculator import answer

SLOTS = {"cpu": 256, "cuda": 512, "mps": 64}  # maximum number of conversations generated at the same time
PREFILL_TOKENS = {"cpu": 2_048, "cuda": 16_384, "mps": 4_096}  # of prompts, in one step


class Engine:
    """Generates with the current weights of `model`; call `refresh` after they have changed.

    memory: bytes for keys and values, four fifths for slots, one for beginnings; by default hardware.for_cache().
    """

    def __init__(
        self,
        model: Transformer,
        chat_format: ChatFormat,
        call_handler: Handler = answer,
        memory: int | None = None,
    ) -> None:
        self.source, self.chat_format, self.call_handler = model, chat_format, call_handler
        self.model = gathered(model)
        self.runner = Runner(self.model)
        self.device = self.runner.device
        budget = hardware.for_cache() if memory is None else memory
        self.slots = Slots(model.config, self.runner.cache_dtype, self.device, budget * 4 // 5)
        self.graphs = Graphs(self.runner, self.slots) if self.device.type == "cuda" else None
        self.prefixes = Prefixes(budget // 5)
        self.live: list[Request] = []
        """The request of each slot, from the first on."""
        self.waiting: dict[tuple[int, ...], deque[Request]] = {}
        """By prompt: equal ones are admitted together."""
        self._longest, self._in_step = 0, False

    def refresh(self) -> None:
        """Takes the model's current weights. Raises ValueError while requests are generated."""
        if self.live:
            raise ValueError("the weights cannot change while requests are generated")
        self.model = gathered(self.source)
        self.runner.refresh(self.model)
        self.prefixes.clear()

    # -- requests ----------------------------------------------------------------------------------------------

    def submit(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        seed: int = 0,
        key: str = "0",
        call_handler: Handler | None = None,
        max_calls: int | None = None,
        call_seconds: float | None = None,
        on_event: OnEvent | None = None,
        constraint: Constraint | None = None,
    ) -> Request:
        """Queues a prompt; `step` generates its completion.

        key: what the draws depend on besides the seed. call_handler: what answers calls, by default the engine's own.
        If it returns a Future, the other requests go on until the result is there. max_calls, call_seconds: budgets;
        beyond them the model reads an error. on_event: gets each event of the answer as it is generated.
        constraint: restricts what is sampled; reported log probabilities are the model's own.

        Raises UserError if the prompt leaves no room in the context.
        """
        context = self.model.config.context
        if len(prompt) >= context:
            raise UserError(
                f"a conversation of {len(prompt):,} tokens; the model's context is {context:,}",
                "Shorten it, or train with a longer model.context.",
            )
        limit = min(sampling.max_tokens, context - len(prompt))
        handler = self.call_handler if call_handler is None else call_handler
        draws = random.Random(f"{seed}/{key}")
        prompt = list(prompt)
        bounds = max_calls, call_seconds, on_event, constraint
        made = Request(prompt, sampling, limit, draws, self.chat_format, handler, *bounds)
        if not (self.live or self.waiting):
            self._longest = 0
        self._longest = max(self._longest, len(prompt) + limit)
        self.waiting.setdefault(tuple(prompt), deque()).append(made)
        return made

    @torch.inference_mode()
    def cancel(self, request: Request) -> None:
        """Ends a request where it is, also while a step is made; its completion keeps what was generated."""
        request.cancel()
        group = self.waiting.get(key := tuple(request.completion.prompt))
        if group is not None and request in group:
            group.remove(request)
            if not group:
                del self.waiting[key]
        if not self._in_step:
            self._leave()

    def generate(
        self,
        prompts: Sequence[list[int]],
        sampling: Sampling,
        seed: int = 0,
        on_event: Callable[[int, Event], None] | None = None,
        keys: Sequence[str] | None = None,
        call_handlers: Sequence[Handler] | None = None,
        on_finished: Callable[[int], None] | None = None,
        constraints: Sequence[Constraint | None] | None = None,
    ) -> list[Completion]:
        """A completion for each prompt, in order; see `submit`. on_event(index, event) is called during generation.

        keys: the index of a prompt by default. on_finished(n): n prompts are complete.

        Raises UserError if a prompt leaves no room in the context.
        """
        requests: list[Request] = []
        done = 0
        try:
            for i, prompt in enumerate(prompts):
                handler = call_handlers[i] if call_handlers else None
                hear = partial(on_event, i) if on_event else None
                key = keys[i] if keys else str(i)
                bound = constraints[i] if constraints else None
                requests.append(self.submit(prompt, sampling, seed, key, handler, on_event=hear, constraint=bound))
            mine = set(requests)
            while done < len(requests):
                done += len(mine.intersection(self.step()))
                if on_finished is not None:
                    on_finished(done)
        finally:
            if done < len(requests):
                for request in requests:
                    self.cancel(request)
        return [request.completion for request in requests]

    # -- steps -------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def step(self) -> list[Request]:
        """Reads a piece of the waiting prompts, then generates one token of each request that is ready. Returns the
        requests that ended."""
        self._in_step = True
        try:
            self._admit()
            self._take_results()
            behind = self._prefill()
            ready = [i for i, request in enumerate(self.live) if request.ready]
            if ready and (not behind or 2 * len(ready) >= len(self.live)):  # else more prompts are read first
                self._decode(ready)
        finally:
            self._in_step = False
        return self._leave()

    def _admit(self) -> None:
        """Gives waiting requests slots, and the beginnings that are held. A prompt waits for one that is being read if
        it begins alike."""
        if not self.waiting:
            return
        allowed = min(SLOTS[self.device.type], self.slots.room(self._longest))
        if self.graphs is not None:
            allowed = max(1, row_count(allowed + 1) // 2)  # a power of two, as graphs have rows
        if len(self.live) >= allowed:
            return
        wanted = min(allowed, len(self.live) + sum(map(len, self.waiting.values())))
        for prompt, group in list(self.waiting.items()):
            ids = list(prompt)
            while group and len(self.live) < allowed:
                length, source, wait_for_it = self._beginning(ids)
                if wait_for_it:
                    break
                place = len(self.live)
                self.slots.reserve(row_count(wanted) if self.graphs else wanted, self._longest, used=place)
                if isinstance(source, Held):
                    self.slots.restore(source, place, length)
                elif source is not None:
                    self.slots.copy(self.live.index(source), place, length)
                request = group.popleft()
                request.cached = request.reused = length
                self.live.append(request)
            if not group:
                del self.waiting[prompt]
            if len(self.live) >= allowed:
                return

    def _beginning(self, prompt: list[int]) -> tuple[int, Request | Held | None, bool]:
        """The length of the longest beginning of a prompt that is held, without the last token, which is read to
        generate; what holds it; and whether a longer one is being read."""
        length, source = self.prefixes.longest(prompt)
        best: Request | Held | None = source
        reading = 0
        for request in self.live:
            alike = shared(request.tokens, prompt, max(SHORTEST, length + 1))
            if min(alike, request.cached) > length:
                length, best = min(alike, request.cached), request
            if request.behind:
                reading = max(reading, alike)
        last = len(prompt) - 1
        if min(reading, last) >= min(length, last) + SHORTEST:
            return 0, None, True
        length = min(length, last)
        return (length, best, False) if length >= SHORTEST else (0, None, False)

    def _take_results(self) -> None:
        """Takes the results of calls; waits for the first one if no request can go on without."""
        pending = [request for request in self.live if request.pending is not None]
        if pending and len(pending) == len(self.live):
            left = min(request.expires for request in pending) - time.monotonic()
            calls = [request.pending for request in pending if request.pending is not None]
            wait(calls, None if left == float("inf") else max(0.0, left), FIRST_COMPLETED)
        for request in pending:
            request.poll()

    def _prefill(self) -> bool:
        """Reads tokens that are not in the cache yet, all but the last one of each request: at most PREFILL_TOKENS.
        Returns whether some are left."""
        behind = [i for i, request in enumerate(self.live) if request.behind and not request.finished]
        if not behind:
            return False
        most, T = PREFILL_TOKENS[self.device.type], 0
        rows: list[int] = []
        for i in behind:
            left = min(len(self.live[i].tokens) - 1 - self.live[i].cached, most)
            if rows and (len(rows) + 1) * max(T, left) > most:
                break
            rows.append(i)
            T = max(T, left)
        ids, positions = [], []
        for i in rows:
            request = self.live[i]
            at = range(request.cached, min(request.cached + T, len(request.tokens) - 1))
            padded = [*at, *[at[-1]] * (T - len(at))]  # the last token again, written to its own place
            ids.append([request.tokens[position] for position in padded])
            positions.append(padded)
            request.cached = at[-1] + 1
        longest = max(max(row) for row in positions) + 1
        where = None if rows == list(range(len(rows))) else self._sent(rows)
        self.runner.forward(self.slots, self._sent(ids), self._sent(positions), where, longest)
        return any(request.behind for request in self.live)

    def _decode(self, ready: list[int]) -> None:
        """One more token of each ready request. Others among them read their last token again, without effect."""
        rows = self.live[: ready[-1] + 1]
        if len(ready) == len(rows):
            positions = [request.cached for request in rows]
        else:
            positions = [max(0, request.cached - (not request.ready)) for request in rows]
        ids = [request.tokens[position] for request, position in zip(rows, positions, strict=True)]
        logits = self._logits(self._sent([ids, positions]), max(positions) + 1, ready)
        known = self.chat_format.tokenizer.vocab_size  # rows beyond are padding: no text has their ids
        logprobs = logits[:, :known].log_softmax(-1)
        requests = [self.live[i] for i in ready]
        draws = self._sent([r.draws.random() if r.sampling.temperature else 0.0 for r in requests])
        drawn = sample_each(self._possible(requests, logprobs), [request.sampling for request in requests], draws)
        chosen = logprobs.gather(-1, drawn[:, None])[:, 0]
        alternatives = self._alternatives(requests, logprobs)
        tokens, chances = torch.stack((drawn.float(), chosen)).tolist()  # one copy; ids are below 2**24
        for request, token, logprob, others in zip(requests, tokens, chances, alternatives, strict=True):
            request.cached += 1
            request.advance(int(token), logprob, others)

    def _logits(self, ids_and_positions: torch.Tensor, longest: int, ready: list[int]) -> torch.Tensor:
        """(ready, V): those of the ready rows, after one more token of each row."""
        ids, positions = ids_and_positions.unsqueeze(-1)
        chosen = None if len(ready) == len(ids) else self._sent(ready)
        if self.graphs is not None:
            logits = self.graphs.logits(ids, positions, longest)
            return logits if chosen is None else logits[chosen]
        hidden = self.runner.forward(self.slots, ids, positions, None, longest)[:, 0]
        return self.runner.logits(hidden if chosen is None else hidden[chosen])

    def _possible(self, requests: list[Request], logprobs: torch.Tensor) -> torch.Tensor:
        """The log probabilities, -inf for tokens that a request's constraint rules out."""
        allowed = {i: mask for i, request in enumerate(requests) if (mask := request.allowed()) is not None}
        if not allowed:
            return logprobs
        masks = torch.stack([torch.from_numpy(mask) for mask in allowed.values()]).to(self.device)
        rows = torch.tensor(list(allowed), device=self.device)
        return logprobs.index_put((rows,), logprobs[rows].masked_fill(~masks, -math.inf))

    def _alternatives(self, requests: list[Request], logprobs: torch.Tensor) -> Sequence[Alternatives | None]:
        most = max(request.sampling.top_logprobs for request in requests)
        if not most:
            return [None] * len(requests)
        values, ids = logprobs.topk(min(most, logprobs.shape[-1]))
        pairs = zip(ids.tolist(), values.tolist(), requests, strict=True)
        return [list(zip(i, v, strict=True))[: request.sampling.top_logprobs] for i, v, request in pairs]

    def _leave(self) -> list[Request]:
        """Takes ended requests out of the slots; holds what they have read and written."""
        ended = []
        for i in reversed(range(len(self.live))):
            request = self.live[i]
            if not request.finished:
                continue
            ended.append(request)
            if request.cached >= SHORTEST:
                self.prefixes.add(self.slots.hold(i, request.tokens[: request.cached]))
            last = self.live.pop()
            if last is not request:
                self.slots.copy(len(self.live), i, last.cached)
                self.live[i] = last
        return ended

    def _sent(self, values: list[int] | list[float] | list[list[int]]) -> torch.Tensor:
        sent = torch.tensor(values)
        return (
            sent.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else sent.to(self.device)
        )
