"""The thread that the engines run in: a bounded queue, fair between clients, with a deadline for each request.

Engines get no more requests than they can generate at once. Whoever has least in work is next; among equals, whose turn
is longest ago. If the queue is full, the newest request of the client with most in it gives way.
"""

import asyncio
import sys
import threading
import time
import traceback
from collections import Counter, deque
from contextlib import suppress

from lanbot.core.errors import UserError
from lanbot.inference.engine import SLOTS, Engine
from lanbot.web.errors import ApiError, busy
from lanbot.web.job import Items, Job
from lanbot.web.metrics import Metrics

QUEUE = 256
"""Requests that may wait."""
TOGETHER = {"cpu": 64, "cuda": 256, "mps": 32}
"""Answers that are generated at the same time; more would each be slower."""
RETRY_SECONDS = 2
PIECE_SECONDS, PIECE_SECONDS_EACH = 0.01, 0.0005
"""Between two pieces of a stream: at least, and for each stream that there is. Sending a piece costs what a token does,
and nobody sees that it has two."""


class Scheduler:
    """submit and cancel are called in the server's thread, which `start` is called in."""

    def __init__(self, metrics: Metrics, queue: int = QUEUE, together: int | None = None) -> None:
        self.metrics, self.queue, self.together = metrics, queue, together
        self._waiting: dict[str, deque[Job]] = {}
        """By client, in the order of arrival."""
        self._running: list[Job] = []
        self._turns: dict[str, float] = {}
        """When each client that has requests was last given one."""
        self._changed = threading.Condition()
        self._stopping = False
        self._due = 0.0  # when streams are next sent what is new
        self._outbox: list[tuple[Job, Items, ApiError | None]] = []
        self._thread = threading.Thread(target=self._work, name="engines", daemon=True)

    # -- the server's side

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._stopping

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """Fails what is left."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def submit(self, job: Job) -> None:
        """Queues a job. Raises ApiError if the queue is full, or the server stops."""
        with self._changed:
            if not self.alive:
                raise ApiError(503, "the server is shutting down", headers={"Retry-After": "10"})
            waiting = sum(map(len, self._waiting.values()))
            mine = len(self._waiting.get(job.client, ()))
            if waiting >= self.queue:
                most = max(self._waiting, key=lambda client: len(self._waiting[client]))
                self.metrics.ended["refused"] += 1
                if len(self._waiting[most]) <= mine + 1:
                    raise busy(f"{waiting} requests are waiting", RETRY_SECONDS)
                victim = self._waiting[most].pop()
                victim.over = True
                victim.deliver([], busy(f"{waiting} requests are waiting", RETRY_SECONDS))
            self._waiting.setdefault(job.client, deque()).append(job)
            self._count()
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Ends a job whose client has left; without effect on one that is over."""
        with self._changed:
            if not job.over:
                job.cancelled = True
                self._changed.notify()

    # -- the engines' thread

    def _work(self) -> None:
        while self._wait():
            for job in self._next():
                self._start(job)
            for engine in dict.fromkeys(job.wanted.engine for job in self._running):
                self._step(engine)
            try:
                self._collect()
            except Exception as error:
                self._broken(error, list(self._running))
            self._post()
        for job in [*self._running, *(job for jobs in self._waiting.values() for job in jobs)]:
            self._fail(job, ApiError(503, "the server is shutting down"), "error")
        self._post()

    def _wait(self) -> bool:
        """Waits for something to do; False: the server stops."""
        with self._changed:
            while not (self._stopping or self._running or self._waiting):
                self._changed.wait()
            if self._stopping:
                return False
            now = time.monotonic()
            jobs = [*self._running, *(job for jobs in self._waiting.values() for job in jobs)]
            gone = [job for job in jobs if job.cancelled or job.expires <= now]
            for job in gone:
                seconds = job.expires - job.arrived
                late = ApiError(504, f"not finished within {seconds:,.0f} s", code="timeout")
                self._fail(job, None if job.cancelled else late, "abort" if job.cancelled else "timeout")
            return True

    def _next(self) -> list[Job]:
        """Takes from the queue what can be generated now."""
        taken: list[Job] = []
        with self._changed:
            working = Counter(job.client for job in self._running)
            used = sum(job.wanted.n - job.ended for job in self._running)
            while self._waiting:
                client = min(self._waiting, key=lambda one: (working[one], self._turns.get(one, 0.0)))
                job = self._waiting[client][0]
                most = self.together or TOGETHER.get(job.wanted.engine.device.type, max(SLOTS.values()))
                if used and used + job.wanted.n > most:
                    break
                self._waiting[client].popleft()
                if not self._waiting[client]:
                    del self._waiting[client]
                self._turns[client] = time.monotonic()
                working[client] += 1
                used += job.wanted.n
                taken.append(job)
                self._running.append(job)
            present = self._waiting.keys() | {job.client for job in self._running}
            self._turns = {client: turn for client, turn in self._turns.items() if client in present}
            self._count()
        return taken

    def _start(self, job: Job) -> None:
        try:
            job.start()
            self.metrics.prompt_tokens += len(job.wanted.prompt)
            self.metrics.prefix_queries += len(job.wanted.prompt)
        except UserError as error:
            self._fail(job, ApiError(400, f"{error.problem}. {error.remedy}"), "error")
        except Exception as error:
            self._broken(error, [job])

    def _step(self, engine: Engine) -> None:
        try:
            engine.step()
        except Exception as error:
            self._broken(error, [job for job in self._running if job.wanted.engine is engine])

    def _broken(self, error: Exception, jobs: list[Job]) -> None:
        """A fault of ours: these jobs fail, others go on. The traceback names no text of a client's."""
        traceback.print_tb(error.__traceback__)
        print(f"lanbot: the engine failed: {type(error).__name__}", file=sys.stderr)
        for job in jobs:
            self._fail(job, ApiError(500, "the engine failed; the server's log says more"), "error")

    def _fail(self, job: Job, error: ApiError | None, how: str) -> None:
        """Ends a job, running or waiting; without an error nobody listens."""
        for answer in job.answers:
            if answer.request is not None and not answer.request.finished:
                job.wanted.engine.cancel(answer.request)
        with self._changed:
            if job in self._running:
                self._running.remove(job)
            elif job in self._waiting.get(job.client, ()):
                self._waiting[job.client].remove(job)
                if not self._waiting[job.client]:
                    del self._waiting[job.client]
            job.over = True
            self.metrics.ended[how] += 1
            self._count()
        if error is not None:
            self._outbox.append((job, job.pending if job.wanted.stream else [], error))

    def _collect(self) -> None:
        """Takes what the last step brought; jobs that are complete leave."""
        now = time.monotonic()
        due, used = now >= self._due, 0
        for job in list(self._running):
            for i, answer in enumerate(job.answers):
                request = answer.request
                if request is None or answer.over:
                    continue
                self._measure(job, i, len(request.completion.ids), now)
                used += len(request.tokens)
                pieces = answer.take()
                job.pending += [(i, piece) for piece in pieces]
                if answer.over:
                    job.ended += 1
                    self.metrics.ended[pieces[-1].text] += 1
            if problem := next((answer.problem for answer in job.answers if answer.problem), ""):
                self._fail(job, ApiError(400, f"the form that was asked for is too complex: {problem}"), "error")
                continue
            done = job.ended == job.wanted.n
            if done:
                self._leave(job, now)
            if job.pending and (done or (job.wanted.stream and (due or not job.begun))):
                self._outbox.append((job, job.pending, None))
                job.pending, job.begun = [], True
        if due:
            streams = sum(job.wanted.stream for job in self._running)
            self._due = now + max(PIECE_SECONDS, PIECE_SECONDS_EACH * streams)
        engines = dict.fromkeys(job.wanted.engine for job in self._running)
        room = sum(engine.slots.budget / engine.slots.token_bytes for engine in engines)
        self.metrics.kv_cache_usage = min(1.0, used / room) if room else 0.0

    def _measure(self, job: Job, i: int, tokens: int, now: float) -> None:
        new = tokens - job.written[i]
        if not new:
            return
        if not job.written[i]:
            if i == 0:
                self.metrics.first_token.observe(now - job.arrived)
                self.metrics.prefix_hits += job.cached_tokens
        else:
            self.metrics.between.observe(now - job.last[i])
        self.metrics.generation_tokens += new
        job.written[i], job.last[i] = tokens, now

    def _leave(self, job: Job, now: float) -> None:
        with self._changed:
            self._running.remove(job)
            job.over = True
            self._count()
        self.metrics.whole.observe(now - job.arrived)

    def _count(self) -> None:
        self.metrics.running = len(self._running)
        self.metrics.waiting = sum(map(len, self._waiting.values()))

    def _post(self) -> None:
        """Hands everything to the server's thread at once: waking it for each token would cost more than a step."""
        if self._outbox:
            outbox, self._outbox = self._outbox, []
            with suppress(RuntimeError):  # the loop is closed: nobody listens
                self._loop.call_soon_threadsafe(_deliver, outbox)


def _deliver(outbox: list[tuple[Job, Items, ApiError | None]]) -> None:
    for job, items, error in outbox:
        job.deliver(items, error)
