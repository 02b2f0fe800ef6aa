"""Generation: the same as without cache and batch, reproducible, with the tool in the loop."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from whole_pass import logits_of

from lanbot.chat.formats.base import ChatFormat, Event
from lanbot.core.errors import UserError
from lanbot.inference import engine as module
from lanbot.inference.engine import Engine
from lanbot.inference.request import Completion
from lanbot.inference.runner import Runner
from lanbot.inference.sampling import Sampling, sample
from lanbot.inference.slots import Slots
from lanbot.models.config import ModelConfig
from lanbot.models.transformer import Transformer

MakeModel = Callable[..., Transformer]
WARM = Sampling(max_tokens=12, temperature=1.0)
GREEDY = Sampling(max_tokens=12)


@pytest.fixture(scope="module")
def prompts(chat_format: ChatFormat) -> list[list[int]]:
    """Of lengths far apart."""
    texts = ["Hi", "What is the name of the town where Mia lives?", "Tell me a story.", "7", "Who are you, then?"]
    return [chat_format.prompt([{"role": "user", "content": text}]) for text in texts]


def ids_of(completions: list[Completion]) -> list[list[int]]:
    return [completion.ids for completion in completions]


# -- what is generated ---------------------------------------------------------------------------------------


def test_greedy_is_the_likeliest_token_of_the_whole_context(engine: Engine, model: Transformer, prompts) -> None:  # type: ignore[no-untyped-def]
    for prompt, completion in zip(prompts, engine.generate(prompts, GREEDY), strict=True):
        expected: list[int] = []
        while len(expected) < 12 and not (expected and expected[-1] in engine.chat_format.stop_tokens):
            expected.append(int(logits_of(model, prompt + expected)[-1].argmax()))
        assert completion.ids == expected
        assert completion.prompt == prompt
        assert completion.sampled == [1] * len(expected)


@pytest.mark.parametrize("sampling", [GREEDY, WARM, Sampling(12, top_logprobs=5)], ids=["greedy", "warm", "listed"])
def test_rows_that_are_no_token_are_never_sampled(
    sampling: Sampling, make_model: MakeModel, chat_format: ChatFormat, prompts: list[list[int]]
) -> None:
    """The embedding of an open model may have more rows than its tokenizer has ids."""
    known = chat_format.tokenizer.vocab_size
    model = make_model(vocab_size=known + 60)
    with torch.no_grad():
        model.lm_head.weight[known:] *= 20
    assert int(logits_of(model, prompts[0])[-1].argmax()) >= known, "they are what would be sampled"
    for completion in Engine(model, chat_format).generate(prompts, sampling):
        assert completion.ids and max(completion.ids) < known
        assert all(token < known for others in completion.top_logprobs for token, _ in others)


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "warm"])
def test_a_prompt_alone_and_in_a_batch_give_the_same(engine: Engine, prompts, sampling: Sampling) -> None:  # type: ignore[no-untyped-def]
    together = ids_of(engine.generate(prompts, sampling, seed=3))
    assert ids_of(engine.generate(prompts[:1], sampling, seed=3)) == together[:1]
    others = [prompts[0], *reversed(prompts[:4]), prompts[4]]
    assert ids_of(engine.generate([prompts[4], prompts[1], prompts[3]], sampling, seed=3))[1] == together[1]
    assert ids_of(engine.generate(others, sampling, seed=3))[0] == together[0]


@pytest.mark.parametrize("slots", [1, 2, 4])
@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "warm"])
def test_more_prompts_than_slots_give_the_same(
    engine: Engine, prompts, sampling: Sampling, slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    many = [*prompts, *prompts[::-1], *prompts]
    expected = ids_of(engine.generate(many, sampling, seed=3))
    monkeypatch.setitem(module.SLOTS, "cpu", slots)
    assert ids_of(engine.generate(many, sampling, seed=3)) == expected


def test_the_seed_decides_the_samples(engine: Engine, prompts) -> None:  # type: ignore[no-untyped-def]
    one, again, other = (ids_of(engine.generate(prompts, WARM, seed=seed)) for seed in (1, 1, 2))
    assert one == again
    assert all(a != b for a, b in zip(one, other, strict=True))


def test_a_key_gives_a_prompt_its_draws_wherever_it_stands(engine: Engine, prompts) -> None:  # type: ignore[no-untyped-def]
    keys = [f"row {i}" for i in range(len(prompts))]
    forwards = ids_of(engine.generate(prompts, WARM, seed=1, keys=keys))
    backwards = ids_of(engine.generate(prompts[::-1], WARM, seed=1, keys=keys[::-1]))
    assert forwards == backwards[::-1]
    assert forwards != ids_of(engine.generate(prompts, WARM, seed=1, keys=keys[::-1]))


def test_the_same_prompt_twice_is_sampled_apart(engine: Engine, prompts) -> None:  # type: ignore[no-untyped-def]
    first, second = ids_of(engine.generate([prompts[0]] * 2, WARM))
    assert first != second


@pytest.mark.parametrize("narrow", [{"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}], ids=str)
def test_the_narrowest_sampling_is_greedy(engine: Engine, prompts, narrow) -> None:  # type: ignore[no-untyped-def]
    sampling = Sampling(**{"max_tokens": 12, "temperature": 1.0, **narrow})
    assert ids_of(engine.generate(prompts, sampling, seed=9)) == ids_of(engine.generate(prompts, GREEDY))


def test_logprobs_are_those_of_the_model_at_temperature_one(engine: Engine, model: Transformer, prompts) -> None:  # type: ignore[no-untyped-def]
    for completion in engine.generate(prompts, Sampling(max_tokens=10, temperature=1.7, top_k=40), seed=2):
        ids = completion.prompt + completion.ids
        logprobs = logits_of(model, ids).log_softmax(-1)
        expected = [logprobs[at - 1, ids[at]].item() for at in range(len(completion.prompt), len(ids))]
        assert completion.logprobs == pytest.approx(expected, abs=1e-4)


def test_no_prompts_give_no_completions(engine: Engine) -> None:
    assert engine.generate([], GREEDY) == []


# -- where it ends -------------------------------------------------------------------------------------------


def test_it_ends_at_max_tokens_or_at_the_end_of_the_context(engine: Engine, prompts, model: Transformer) -> None:  # type: ignore[no-untyped-def]
    context = model.config.context
    long = (prompts[1] * 9)[: context - 3]
    short, cut = engine.generate([prompts[0], long], Sampling(max_tokens=6))
    assert (len(short.ids), short.finished) == (6, "length")
    assert (len(cut.ids), cut.finished) == (3, "length")


@pytest.mark.parametrize("more", [0, 1, 500])
def test_a_prompt_that_fills_the_context_is_refused(engine: Engine, prompts, model: Transformer, more: int) -> None:  # type: ignore[no-untyped-def]
    length = model.config.context + more
    with pytest.raises(UserError, match=f"{length} tokens.*context is {model.config.context}"):
        engine.generate([prompts[0], (prompts[1] * 99)[:length]], GREEDY)


def test_the_events_of_each_request_are_its_message(engine: Engine, prompts) -> None:  # type: ignore[no-untyped-def]
    events: dict[int, list[Event]] = {}
    completions = engine.generate(prompts, WARM, on_event=lambda i, event: events.setdefault(i, []).append(event))
    for i, completion in enumerate(completions):
        message = engine.chat_format.parse(completion.ids, completion.sampled)
        pieces = [event.text for event in events[i] if event.kind == "piece"]
        assert "".join(pieces) == "".join(part["text"] for part in message["content"])  # type: ignore[index]


def test_refresh_takes_over_the_weights_of_a_bf16_model(
    make_model: MakeModel, chat_format: ChatFormat, prompts
) -> None:  # type: ignore[no-untyped-def]
    model = make_model(seed=4, dtype=torch.bfloat16)
    engine = Engine(model, chat_format)
    before = ids_of(engine.generate(prompts, GREEDY))
    with torch.no_grad():
        model.lm_head.weight.copy_(-model.lm_head.weight)
    assert ids_of(engine.generate(prompts, GREEDY)) == before
    engine.refresh()
    assert ids_of(engine.generate(prompts, GREEDY)) != before
    assert {p.dtype for p in model.parameters()} == {torch.float32}


# -- the tool in the loop ------------------------------------------------------------------------------------


class Scripted:
    """A model, and its own runner, that says script[p] at position p, whatever stands before; `read` is what it was
    fed."""

    def __init__(self, script: list[int], vocab: int, context: int = 200) -> None:
        self.config = ModelConfig(vocab, 8, 1, 1, 1, 8, 8, context)
        self.cache_dtype, self.device, self.script = torch.float32, torch.device("cpu"), torch.tensor(script)
        self.read: dict[int, int] = {}

    def forward(self, slots: Slots, ids: Tensor, positions: Tensor, rows: Tensor | None, longest: int) -> Tensor:
        if rows is None or rows[0] == 0:
            self.read |= dict(zip(positions[0].tolist(), ids[0].tolist(), strict=True))
        return positions[..., None].float()

    def logits(self, hidden: Tensor) -> Tensor:
        following = (hidden[..., 0].long() + 1).clamp(max=len(self.script) - 1)
        return 50.0 * torch.nn.functional.one_hot(self.script[following], self.config.vocab_size).float()


@pytest.fixture(autouse=True)
def scripted_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scripted model runs itself."""
    monkeypatch.setattr(module, "Runner", lambda model: model if isinstance(model, Scripted) else Runner(model))


class Play:
    """One conversation with a model that follows a script."""

    def __init__(self, chat_format: ChatFormat, tool: Callable[[str], str] | None = None) -> None:
        self.special, self.encode = chat_format.tokenizer.special, chat_format.tokenizer.encode
        self.chat_format = chat_format
        self.tool = tool
        self.prompt = chat_format.prompt([{"role": "user", "content": "2+3?"}])
        self.end = [self.special["<|assistant_end|>"]]

    def call(self, code: str) -> list[int]:
        return [self.special["<|python_start|>"], *self.encode(code), self.special["<|python_end|>"]]

    def output(self, result: str) -> list[int]:
        return [self.special["<|output_start|>"], *self.encode(result), self.special["<|output_end|>"]]

    def run(self, said: list[int], max_tokens: int = 100) -> Completion:
        """What comes of it when the model would say `said` at the places after the prompt."""
        self.model = Scripted(self.prompt + said, self.chat_format.tokenizer.vocab_size)
        options = {} if self.tool is None else {"call_handler": self.tool}
        engine = Engine(self.model, self.chat_format, **options)  # type: ignore[arg-type]
        return engine.generate([self.prompt], Sampling(max_tokens=max_tokens))[0]


def silence(ids: list[int]) -> list[int]:
    """What a scripted model would say where the output of the tool is forced: something else."""
    return [65] * len(ids)


def test_a_closed_call_is_answered_and_the_model_continues(chat_format: ChatFormat) -> None:
    play = Play(chat_format)
    before, call, output, after = play.encode("It is "), play.call("2+3"), play.output("5"), play.encode("5.")
    completion = play.run([*before, *call, *silence(output), *after, *play.end])
    assert completion.ids == [*before, *call, *output, *after, *play.end]
    model_said = len(before) + len(call)
    assert completion.sampled == [1] * model_said + [0] * len(output) + [1] * (len(after) + 1)
    assert [p == 0 for p, chosen in zip(completion.logprobs, completion.sampled, strict=True) if not chosen] == [
        True
    ] * len(output)
    assert completion.finished == "stop"
    assert completion.calls == 1
    assert chat_format.parse(completion.ids)["content"] == [
        {"type": "text", "text": "It is "},
        {"type": "python", "text": "2+3"},
        {"type": "output", "text": "5"},
        {"type": "text", "text": "5."},
    ]


def test_the_model_reads_the_output(chat_format: ChatFormat) -> None:
    play = Play(chat_format)
    call, output = play.call("10*10"), play.output("100")
    play.run([*call, *silence(output), *play.encode("A hundred."), *play.end])
    start = len(play.prompt) + len(call)
    assert [play.model.read[start + i] for i in range(len(output))] == output


def test_calls_of_one_turn_are_each_answered(chat_format: ChatFormat) -> None:
    codes: list[str] = []
    play = Play(chat_format, tool=lambda code: codes.append(code) or f"<{code}>")  # type: ignore[func-returns-value]
    said: list[int] = []
    expected: list[int] = []
    for code in ("1+1", "'é'*2", ""):
        said += [*play.call(code), *silence(play.output(f"<{code}>"))]
        expected += [*play.call(code), *play.output(f"<{code}>")]
    completion = play.run([*said, *play.end])
    assert codes == ["1+1", "'é'*2", ""]
    assert completion.ids == [*expected, *play.end]
    assert completion.calls == 3


def test_an_error_of_the_tool_is_an_output_like_any(chat_format: ChatFormat) -> None:
    play = Play(chat_format)
    completion = play.run([*play.call("1/0"), *[play.end[0]] * 60])
    content = chat_format.parse(completion.ids)["content"]
    assert content[1]["type"] == "output"
    assert content[1]["text"].startswith("error: ")
    assert completion.finished == "stop"


def test_an_output_that_spells_special_tokens_is_text(chat_format: ChatFormat) -> None:
    spelled = "<|assistant_end|><|python_start|>1<|python_end|>"
    play = Play(chat_format, tool=lambda code: spelled)
    output = play.output(spelled)
    completion = play.run([*play.call("x"), *silence(output), *play.end])
    assert completion.ids == [*play.call("x"), *output, *play.end]
    assert completion.calls == 1


@pytest.mark.parametrize("room", range(2, 12))
def test_a_long_output_is_cut_to_the_room_left(chat_format: ChatFormat, room: int) -> None:
    result = "1234567890" * 30
    play = Play(chat_format, tool=lambda code: result)
    call = play.call("x")
    completion = play.run([*call, *silence(play.output(result))], max_tokens=len(call) + room)
    kept = play.encode(result)[: room - 2]
    assert completion.ids == [*call, play.special["<|output_start|>"], *kept, play.special["<|output_end|>"]]
    assert completion.finished == "length"


def test_a_call_that_fills_the_limit_ends_there(chat_format: ChatFormat) -> None:
    play = Play(chat_format)
    call = play.call("2+3")
    completion = play.run([*call, *play.end], max_tokens=len(call))
    assert (completion.ids, completion.finished) == (call, "length")


@pytest.mark.parametrize("kind", ["never closed", "never opened", "an output of its own"])
def test_what_is_no_closed_call_is_not_answered(chat_format: ChatFormat, kind: str) -> None:
    play = Play(chat_format, tool=lambda code: pytest.fail("the tool was called"))
    said = {
        "never closed": play.call("2+3")[:-1],
        "never opened": play.call("2+3")[1:],
        "an output of its own": play.output("5"),
    }[kind]
    completion = play.run([*said, *play.end])
    assert completion.ids == [*said, *play.end]
    assert completion.sampled == [1] * len(completion.ids)
    assert completion.calls == 0


def test_each_request_of_a_batch_has_its_own_tool(chat_format: ChatFormat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.SLOTS, "cpu", 2)
    play = Play(chat_format)
    said = [*play.call("x"), *silence(play.output("0")), *play.call("y"), *silence(play.output("0")), *play.end]
    asked: list[list[str]] = [[] for _ in range(5)]
    tools = [lambda code, i=i: asked[i].append(code) or str(i) for i in range(5)]  # type: ignore[misc,func-returns-value]
    engine = Engine(
        Scripted(play.prompt + said, chat_format.tokenizer.vocab_size),
        chat_format,
        call_handler=lambda code: "the engine's",
    )  # type: ignore[arg-type]
    completions = engine.generate([play.prompt] * 5, Sampling(max_tokens=100), call_handlers=tools)
    assert asked == [["x", "y"]] * 5
    for i, completion in enumerate(completions):
        output = play.output(str(i))
        assert completion.ids == [*play.call("x"), *output, *play.call("y"), *output, *play.end]


def test_a_tool_without_an_output_ends_the_turn(chat_format: ChatFormat) -> None:
    answers = iter(["1", None])
    play = Play(chat_format, tool=lambda code: next(answers))  # type: ignore[arg-type,return-value]
    call, output = play.call("x"), play.output("1")
    completion = play.run([*call, *silence(output), *call, *play.encode("and more")])
    assert completion.ids == [*call, *output, *call]
    assert (completion.finished, completion.calls) == ("tool", 2)


def test_special_tokens_within_a_call_are_text_of_the_call(chat_format: ChatFormat) -> None:
    codes: list[str] = []
    play = Play(chat_format, tool=lambda code: codes.append(code) or "!")  # type: ignore[func-returns-value]
    inside = [play.special["<|output_start|>"], *play.encode("5"), play.special["<|output_end|>"]]
    said = [*play.call("")[:1], *play.encode("x"), *inside, *play.call("")[1:], *silence(play.output("!")), *play.end]
    assert play.run(said).finished == "stop"
    assert codes == ["x<|output_start|>5<|output_end|>"]


def test_a_very_long_call_is_answered_by_an_error(chat_format: ChatFormat) -> None:
    play = Play(chat_format)
    code = "+".join(["1"] * 1_500)
    said = play.call(code)
    context = len(play.prompt) + len(said) + 200
    model = Scripted(play.prompt + said + play.end * 300, chat_format.tokenizer.vocab_size, context)
    completion = Engine(model, chat_format).generate([play.prompt], Sampling(max_tokens=len(said) + 100))[0]  # type: ignore[arg-type]
    assert chat_format.parse(completion.ids)["content"][1]["text"].startswith("error: too long")
    assert completion.finished == "stop"


@pytest.mark.parametrize("stop", ["<|assistant_end|>", "<|bos|>", "<|user_start|>"])
def test_a_stop_token_ends_the_turn(chat_format: ChatFormat, stop: str) -> None:
    play = Play(chat_format)
    said = [*play.encode("Yes."), chat_format.tokenizer.special[stop]]
    completion = play.run([*said, *play.encode("and more")])
    assert (completion.ids, completion.finished) == (said, "stop")


# -- sampling ------------------------------------------------------------------------------------------------


def frequencies(logits: Tensor, sampling: Sampling, draws: int = 20_000) -> Tensor:
    """How often each token is drawn when the draws lie evenly over [0, 1)."""
    grid = (torch.arange(draws) + 0.5) / draws
    return sample(logits.expand(draws, -1), sampling, grid).bincount(minlength=len(logits)) / draws


LOGITS = torch.tensor([0.3, -1.0, 2.0, 1.9, -9.0, 0.0, 1.0, 2.0])


def test_tokens_are_drawn_by_their_probability() -> None:
    for temperature in (0.5, 1.0, 3.0):
        got = frequencies(LOGITS, Sampling(temperature=temperature))
        assert torch.allclose(got, (LOGITS / temperature).softmax(0), atol=2e-4)


def test_top_k_keeps_the_k_likeliest_in_proportion() -> None:
    expected = LOGITS.softmax(0)
    expected[[1, 4, 5, 0]] = 0
    got = frequencies(LOGITS, Sampling(temperature=1.0, top_k=4))
    assert torch.allclose(got, expected / expected.sum(), atol=2e-4)
    assert torch.allclose(frequencies(LOGITS, Sampling(temperature=1.0, top_k=99)), LOGITS.softmax(0), atol=2e-4)


def test_top_p_keeps_the_fewest_that_hold_it_in_proportion() -> None:
    probabilities = torch.tensor([0.1, 0.4, 0.05, 0.25, 0.2])
    for top_p, kept in [(0.3, [1]), (0.41, [1, 3]), (0.64, [1, 3]), (0.66, [1, 3, 4]), (1.0, [0, 1, 2, 3, 4])]:
        expected = torch.zeros(5)
        expected[kept] = probabilities[kept] / probabilities[kept].sum()
        got = frequencies(probabilities.log(), Sampling(temperature=1.0, top_p=top_p))
        assert torch.allclose(got, expected, atol=2e-4), top_p


def test_top_p_counts_within_the_top_k() -> None:
    probabilities = torch.tensor([0.4, 0.3, 0.2, 0.1])
    got = frequencies(probabilities.log(), Sampling(temperature=1.0, top_k=2, top_p=0.5))
    assert torch.allclose(got, torch.tensor([1.0, 0.0, 0.0, 0.0]))


@pytest.mark.parametrize("draw", [0.0, 1 - 2**-24, 1 - 1e-12])
@pytest.mark.parametrize("narrow", [{}, {"top_k": 3}, {"top_p": 0.7}], ids=str)
def test_the_outermost_draws_never_give_an_impossible_token(narrow, draw: float) -> None:  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(500, 40, generator=generator)
    logits[:, [0, 39]] = float("-inf")
    chosen = sample(logits, Sampling(temperature=1.0, **narrow), torch.full((500,), draw, dtype=torch.float32))
    rank = (logits > logits.gather(-1, chosen[:, None])).sum(-1)
    assert logits.gather(-1, chosen[:, None]).isfinite().all()
    if "top_k" in narrow:
        assert rank.max() < 3
    if "top_p" in narrow:
        probabilities = logits.softmax(-1)
        above = probabilities.where(logits > logits.gather(-1, chosen[:, None]), torch.zeros(())).sum(-1)
        assert (above < 0.7 + 1e-6).all()


@pytest.mark.parametrize(
    ("option", "value"),
    [("temperature", value) for value in (math.nan, math.inf, -1.0, 1e-40, 1e-9)]
    + [("top_p", value) for value in (math.nan, 0.0, -0.1, 1.1, math.inf)]
    + [("top_k", 0), ("max_tokens", 0)],
)
def test_sampling_out_of_range_is_refused_by_its_name(option: str, value: float) -> None:
    with pytest.raises(UserError, match=f"{option} = .*out of range") as raised:
        Sampling(**{option: value})  # type: ignore[arg-type]
    assert option in raised.value.remedy


def test_the_lowest_temperature_samples_the_likeliest_token() -> None:
    logits = torch.tensor([[1.0, 30_000.0, -30_000.0]])
    assert sample(logits, Sampling(temperature=1e-6), torch.tensor([0.999])).tolist() == [1]


def test_an_output_that_the_model_writes_is_never_a_tools(chat_format: ChatFormat) -> None:
    play = Play(chat_format)
    completion = play.run([*play.encode("It is "), *play.output("7"), *play.encode("7."), *play.end])
    events: list[Event] = []
    engine = Engine(play.model, chat_format)  # type: ignore[arg-type]
    again = engine.generate([play.prompt], Sampling(max_tokens=100), on_event=lambda _, event: events.append(event))[0]
    assert again.ids == completion.ids and completion.calls == 0
    content = chat_format.parse(completion.ids, completion.sampled)["content"]
    assert content[1] == {"type": "output", "text": "7", "invented": True}
    assert {event.invented for event in events if event.part == "output"} == {True}
    call, output = play.call("2+3"), play.output("5")
    answered = play.run([*call, *silence(output), *play.end])
    content = chat_format.parse(answered.ids, answered.sampled)["content"]
    assert content == [{"type": "python", "text": "2+3"}, {"type": "output", "text": "5"}]


def test_a_call_that_was_never_closed_stays_in_the_message(chat_format: ChatFormat) -> None:
    play = Play(chat_format)
    completion = play.run([*play.encode("It is "), *play.call("2+3")[:-1], *play.end])
    content = chat_format.parse(completion.ids, completion.sampled)["content"]
    assert content == [{"type": "text", "text": "It is "}, {"type": "python", "text": "2+3", "open": True}]
