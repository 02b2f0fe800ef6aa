"""Continuous batching: who is in the batch, what is held from before and how a prompt is read make no difference."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from whole_pass import logits_of

from lanbot.chat.formats.base import ChatFormat
from lanbot.inference import engine as module
from lanbot.inference.engine import Engine
from lanbot.inference.graphs import Graphs, Step
from lanbot.inference.request import Request
from lanbot.inference.sampling import Sampling
from lanbot.models.families import FAMILIES
from lanbot.models.transformer import Transformer

MakeModel = Callable[..., Transformer]
CLOSE = 1e-4
"""Where the two best logits are closer, another order of sums may choose the other token."""
CALM = Sampling(max_tokens=10)
WARM = Sampling(max_tokens=10, temperature=1.0)


def prompt_of(chat_format: ChatFormat, text: str) -> list[int]:
    return chat_format.prompt([{"role": "user", "content": text}])


def check_greedy(model: Transformer, request: Request) -> int:
    """Asserts that each token is the likeliest after all before it, by a forward pass without cache and batch. Returns
    how often another one was within CLOSE of it."""
    prompt, ids = request.completion.prompt, request.completion.ids
    logits = logits_of(model, prompt + ids)[len(prompt) - 1 : -1]
    best = logits.topk(2).values
    chosen = logits.gather(-1, torch.tensor(ids)[:, None])[:, 0]
    near = best[:, 0] - best[:, 1] <= CLOSE
    assert torch.all((chosen == best[:, 0]) | (near & (chosen >= best[:, 0] - CLOSE)))
    assert request.completion.logprobs == pytest.approx(
        logits.log_softmax(-1).gather(-1, torch.tensor(ids)[:, None])[:, 0].tolist(), abs=1e-4
    )
    return int(near.sum())


def drain(engine: Engine) -> None:
    while engine.live or engine.waiting:
        engine.step()


# -- the same whatever the batch -----------------------------------------------------------------------------


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    arrivals=st.lists(
        st.tuples(st.integers(0, 6), st.integers(0, 3), st.integers(1, 40), st.integers(1, 12), st.booleans()),
        min_size=1,
        max_size=12,
    ),
    slots=st.integers(1, 5),
    piece=st.integers(1, 40),
)
def test_requests_that_join_and_leave_get_what_they_get_alone(
    arrivals: list[tuple[int, int, int, int, bool]],
    slots: int,
    piece: int,
    model: Transformer,
    chat_format: ChatFormat,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """arrivals: after how many steps, with which of four beginnings and how much of it, how long, and whether sampled.
    Several share beginnings, or are equal; they are read in pieces, and wait for slots."""
    monkeypatch.setitem(module.SLOTS, "cpu", slots)
    monkeypatch.setitem(module.PREFILL_TOKENS, "cpu", piece)
    generator = torch.Generator().manual_seed(1)
    texts = [torch.randint(0, 250, (40,), generator=generator).tolist() for _ in range(3)]
    texts.append(texts[0][:25] + texts[1][25:])
    engine, made = Engine(model, chat_format), []
    for number, (pause, which, length, limit, warm) in enumerate(arrivals):
        for _ in range(pause):
            engine.step()
        sampling = Sampling(limit, temperature=1.0 if warm else 0.0)
        made.append(engine.submit(texts[which][:length], sampling, seed=7, key=str(number)))
    drain(engine)
    for number, request in enumerate(made):
        if request.sampling.temperature == 0:
            check_greedy(model, request)
        else:
            alone = Engine(model, chat_format).submit
            (other,) = [alone(request.completion.prompt, request.sampling, seed=7, key=str(number))]
            drain(alone.__self__)  # type: ignore[attr-defined]
            assert request.completion.ids == other.completion.ids
            assert request.completion.logprobs == pytest.approx(other.completion.logprobs, abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_every_family_generates_what_its_forward_pass_says(
    family: str, tied: bool, make_model: MakeModel, chat_format: ChatFormat
) -> None:
    model = make_model(seed=2, family=family, tie_embeddings=tied)
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # norms and biases that do something
            if parameter.ndim == 1:
                torch.manual_seed(len(name))
                parameter.add_(torch.randn_like(parameter) * 0.3)
    engine = Engine(model, chat_format)
    made = [engine.submit(prompt_of(chat_format, text), CALM) for text in ("Hi", "Who are you?", "What is 2 + 2?")]
    drain(engine)
    close = [check_greedy(model, request) for request in made]
    assert sum(close) <= 1, "hardly any token is a coin toss"


class Replayed:
    """Stands in for a captured graph: the same step again, on the same tensors."""

    def __init__(self, step: Step) -> None:
        self.step, self.result = step, step()

    def __call__(self) -> torch.Tensor:
        return self.result.copy_(self.step())


@pytest.mark.parametrize("slots", [1, 3, 8])
def test_steps_of_rounded_shapes_give_the_same(
    make_model: MakeModel, chat_format: ChatFormat, slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What captured graphs need: fixed tensors, rows and lengths rounded up."""
    engine = Engine(make_model(seed=4, context=300), chat_format)
    monkeypatch.setitem(module.SLOTS, "cpu", slots)
    prompts = [prompt_of(chat_format, text) for text in ("Hi", "Who are you, then?", "Tell me of Mia.", "7", "Hello")]
    expected = [one.ids for one in engine.generate(prompts, WARM)]
    engine.prefixes.clear()
    engine.graphs = Graphs(engine.runner, engine.slots, Replayed)
    assert [one.ids for one in engine.generate(prompts, WARM)] == expected
    assert {rows for rows, _ in engine.graphs.graphs} <= {1, 2, 4, 8}
    address = engine.slots.held.data_ptr()
    made = [engine.submit((prompt * 99)[:140], CALM) for prompt in prompts]
    drain(engine)
    assert engine.slots.held.data_ptr() != address, "the slots have grown"
    for request in made:
        check_greedy(engine.source, request)


def test_samples_of_one_prompt_read_it_once(engine: Engine, chat_format: ChatFormat, counted: list[int]) -> None:
    prompt = prompt_of(chat_format, "What is the name of the town where Mia lives, and who lives there with her?")
    engine.generate([prompt] * 16, WARM)
    assert sum(counted) == len(prompt) - 1


def test_a_later_turn_reads_only_what_is_new(engine: Engine, chat_format: ChatFormat, counted: list[int]) -> None:
    prompt = prompt_of(chat_format, "Tell me about the town where Mia lives, please.")
    (first,) = engine.generate([prompt], CALM)
    more = [*prompt, *first.ids, *prompt_of(chat_format, "And who lives there?")[1:]]
    counted.clear()
    (second,) = engine.generate([more], CALM)
    assert sum(counted) == len(more) - len(prompt) - len(first.ids)  # the last token of the first was never fed
    engine.refresh()  # other weights, for all the engine knows
    counted.clear()
    assert engine.generate([more], CALM)[0].ids == second.ids
    assert sum(counted) == len(more) - 1


@pytest.fixture
def counted(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The tokens of each piece of prompts that the engine reads, padding left out."""
    pieces: list[int] = []
    forward = engine.runner.forward

    def counting(slots, ids, positions, rows, longest):  # type: ignore[no-untyped-def]
        if ids.shape[1] > 1 or rows is not None:
            pieces.append(sum(len(set(row)) for row in positions.tolist()))
        return forward(slots, ids, positions, rows, longest)

    monkeypatch.setattr(engine.runner, "forward", counting)
    return pieces


def test_settings_of_neighbours_change_nothing(engine: Engine, chat_format: ChatFormat) -> None:
    kinds = [
        Sampling(8),
        Sampling(8, temperature=1.0),
        Sampling(8, temperature=0.7, top_k=5),
        Sampling(8, temperature=1.3, top_p=0.8, min_p=0.05),
        Sampling(8, temperature=1.0, top_k=40, top_logprobs=3),
    ]
    prompt = prompt_of(chat_format, "Hello")
    together = [engine.submit(prompt, kind, seed=5, key=str(i)) for i, kind in enumerate(kinds)]
    drain(engine)
    for i, kind in enumerate(kinds):
        alone = engine.submit(prompt, kind, seed=5, key=str(i))
        drain(engine)
        assert alone.completion.ids == together[i].completion.ids


def test_alternatives_are_the_likeliest_tokens(engine: Engine, model: Transformer, chat_format: ChatFormat) -> None:
    made = engine.submit(prompt_of(chat_format, "Hello"), Sampling(6, temperature=1.0, top_logprobs=3))
    other = engine.submit(prompt_of(chat_format, "Hello"), Sampling(6, temperature=1.0))
    drain(engine)
    prompt, ids = made.completion.prompt, made.completion.ids
    logprobs = logits_of(model, prompt + ids).log_softmax(-1)[len(prompt) - 1 : -1]
    assert len(made.completion.top_logprobs) == len(ids)
    for alternatives, row in zip(made.completion.top_logprobs, logprobs, strict=True):
        values, tokens = row.topk(3)
        assert [token for token, _ in alternatives] == tokens.tolist()
        assert [value for _, value in alternatives] == pytest.approx(values.tolist(), abs=1e-4)
    assert not other.completion.top_logprobs


# -- limits --------------------------------------------------------------------------------------------------


def test_keys_and_values_stay_within_the_memory(model: Transformer, chat_format: ChatFormat) -> None:
    budget = 40 * 128 * 2 * model.config.n_layers * model.config.n_kv_heads * model.config.head_dim * 4
    engine = Engine(model, chat_format, memory=budget)
    made = [engine.submit(prompt_of(chat_format, f"Question {i}, which is a long one?"), CALM) for i in range(60)]
    most = 0
    while engine.live or engine.waiting:
        engine.step()
        most = max(most, engine.slots.bytes + engine.prefixes.bytes)
    assert all(request.finished for request in made)
    assert 0.5 * budget < most <= budget


def test_a_cancelled_request_leaves_and_the_others_go_on(engine: Engine, chat_format: ChatFormat) -> None:
    prompts = [prompt_of(chat_format, text) for text in ("Hello", "What is your name, please?", "Hello")]
    expected = [one.ids for one in engine.generate(prompts, CALM)]
    made = [engine.submit(prompt, CALM, key=str(i)) for i, prompt in enumerate(prompts)]
    engine.step()
    engine.cancel(made[0])
    engine.cancel(made[0])
    drain(engine)
    assert made[0].completion.finished == "cancelled" and made[0].completion.ids == expected[0][:1]
    assert [request.completion.ids for request in made[1:]] == expected[1:]
    waiting = [engine.submit(prompts[0], CALM) for _ in range(2)]
    for request in waiting:
        engine.cancel(request)
    assert not engine.waiting and engine.step() == []


def test_a_listener_may_cancel_any_request(engine: Engine, chat_format: ChatFormat) -> None:
    prompts = [prompt_of(chat_format, text) for text in ("Hello", "What is your name, please?", "Who lives there?")]
    expected = [one.ids for one in engine.generate(prompts, CALM)]
    made: list[Request] = []
    made.append(engine.submit(prompts[0], CALM, on_event=lambda _: engine.cancel(made[0])))
    made.append(engine.submit(prompts[1], CALM, on_event=lambda _: engine.cancel(made[0])))
    made.append(engine.submit(prompts[2], CALM))
    drain(engine)
    assert made[0].completion.finished == "cancelled"
    assert [request.completion.ids for request in made[1:]] == expected[1:]


def test_an_error_in_a_listener_leaves_an_empty_engine(engine: Engine, chat_format: ChatFormat) -> None:
    def listen(index: int, event: object) -> None:
        raise KeyError("gone")

    prompts = [prompt_of(chat_format, text) for text in ("Hello", "Who are you?")]
    with pytest.raises(KeyError):
        engine.generate(prompts, Sampling(40), on_event=listen)
    assert not engine.live and not engine.waiting
    assert len(engine.generate(prompts, CALM)) == 2


def test_a_stop_text_ends_the_answer_at_the_token_that_completes_it(engine: Engine, chat_format: ChatFormat) -> None:
    prompt = prompt_of(chat_format, "Hello")
    whole = engine.generate([prompt], Sampling(24))[0]
    decode = chat_format.tokenizer.decode
    text = decode(whole.ids)
    stop = next(
        text[i : i + 3] for i in range(6, len(text) - 3) if text.find(text[i : i + 3]) == i and text[i].isalnum()
    )
    made = engine.generate([prompt], Sampling(24, stop=("no such text", stop)))[0]
    assert made.finished == "stop"
    assert stop in decode(made.ids) and stop not in decode(made.ids[:-1])


# -- calls ---------------------------------------------------------------------------------------------------


def calling(engine: Engine, chat_format: ChatFormat, handler: Callable[[str], object], **budget: object) -> Request:
    """A request that has just written a call of `x`."""
    made = engine.submit(prompt_of(chat_format, "Hello"), Sampling(60), call_handler=handler, **budget)  # type: ignore[arg-type]
    special = chat_format.tokenizer.special
    for token in (special["<|python_start|>"], *chat_format.tokenizer.encode("x"), special["<|python_end|>"]):
        made.advance(token, 0.0)
    return made


def outputs(chat_format: ChatFormat, request: Request) -> list[str]:
    content = chat_format.parse(request.completion.ids, request.completion.sampled)["content"]
    return [part["text"] for part in content if part["type"] == "output"]  # type: ignore[union-attr,index]


def test_a_slow_call_does_not_hold_the_others_up(engine: Engine, chat_format: ChatFormat) -> None:
    go = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        slow = calling(engine, chat_format, lambda code: pool.submit(lambda: (go.wait(30) and "done") or "late"))
        others = [engine.submit(prompt_of(chat_format, text), CALM) for text in ("Hi", "Who are you?")]
        while not all(request.finished for request in others):
            engine.step()
        assert not slow.finished and outputs(chat_format, slow) == []
        go.set()
        drain(engine)
    assert outputs(chat_format, slow)[0] == "done"
    assert slow.completion.calls == 1
    alone = calling(engine, chat_format, lambda code: "done")
    drain(engine)
    assert alone.completion.ids == slow.completion.ids


def test_a_call_without_a_result_in_time_is_an_error_that_the_model_reads(
    engine: Engine, chat_format: ChatFormat
) -> None:
    never: Future[str | None] = Future()
    began = time.monotonic()
    made = calling(engine, chat_format, lambda code: never, call_seconds=0.05)
    drain(engine)
    assert outputs(chat_format, made)[0] == "error: no result after 0.05 s"
    assert time.monotonic() - began >= 0.05
    assert never.cancelled()


def test_calls_beyond_the_budget_are_errors(engine: Engine, chat_format: ChatFormat) -> None:
    made = calling(engine, chat_format, lambda code: "7", max_calls=1)
    special = chat_format.tokenizer.special
    for token in (special["<|python_start|>"], *chat_format.tokenizer.encode("y"), special["<|python_end|>"]):
        made.advance(token, 0.0)
    assert outputs(chat_format, made) == ["7", "error: no more than 1 calls"]


def test_what_a_call_raises_reaches_the_caller(engine: Engine, chat_format: ChatFormat) -> None:
    failed: Future[str | None] = Future()
    failed.set_exception(RuntimeError("the sandbox is gone"))
    calling(engine, chat_format, lambda code: failed)
    with pytest.raises(RuntimeError, match="the sandbox is gone"):
        drain(engine)
