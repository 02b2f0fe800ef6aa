import ast
import json
import random
from collections.abc import Callable

import pytest
import torch

from lanbot.chat.formats import get_format
from lanbot.chat.formats.base import TOOL_TOKENS, ChatFormat
from lanbot.chat.messages import parts
from lanbot.inference.constraint import CallConstraint
from lanbot.inference.engine import Engine
from lanbot.inference.request import Completion
from lanbot.inference.sampling import Sampling
from lanbot.models.transformer import Transformer
from lanbot.tokenizers.bpe import BPETokenizer
from lanbot.tools.calculator import is_calculation
from lanbot.tools.memory import Memory
from lanbot.tools.python_call import PythonCalls
from lanbot.tools.tool import Toolset
from lanbot.tools.workspace import Workspace


def read_rows(path: str, start: int = 1, rows: int = 20) -> str:
    """Reads rows."""
    return f"{path} {start} {rows}"


TOOLS = PythonCalls(Toolset([read_rows, *Workspace({}).tools, *Memory().tools]))
NAMES = set(TOOLS.functions)


def generated(
    model: Transformer, chat_format: ChatFormat, opening: list[int], constrained: bool, samples: int = 24
) -> list[Completion]:
    """Answers that begin with these tokens, of a model that knows nothing."""
    engine = Engine(model, chat_format)
    requests = []
    for i in range(samples):
        limit = CallConstraint(chat_format, TOOLS.declarations) if constrained else None
        prompt = chat_format.prompt([{"role": "user", "content": f"question {i}"}])
        sampling = Sampling(150, temperature=1.0)
        request = engine.submit(prompt, sampling, i, call_handler=lambda code: None, constraint=limit)
        for token in opening:
            request.advance(token, 0.0)
        requests.append(request)
    while not all(request.finished for request in requests):
        engine.step()
    return [request.completion for request in requests]


def walk(chat_format: ChatFormat, opening: str, seed: int) -> str | None:
    """A call of allowed tokens, drawn blindly, those that close something more often; None if it never ends."""
    draw, tokenizer = random.Random(seed), chat_format.tokenizer
    closing = {tokenizer.special["<|python_end|>"], *(tokenizer.encode(sign)[0] for sign in "\"')]}")}
    made, parser = CallConstraint(chat_format, TOOLS.declarations), chat_format.stream()
    tokens: list[int] = []
    for token in [tokenizer.special["<|python_start|>"], *tokenizer.encode(opening)]:
        tokens.append(token)
        parser.feed(token)
        allowed = made.allowed(parser, tokens)
    for _ in range(150):
        assert allowed is not None
        choices = allowed.nonzero()[0].tolist()
        assert choices, chat_format.tokenizer.decode(tokens)
        likely = [token for token in choices if token in closing]
        tokens.append(draw.choice(likely if likely and draw.random() < 0.6 else choices))
        events = parser.feed(tokens[-1])
        if events and events[-1].kind == "call":
            return events[-1].text
        allowed = made.allowed(parser, tokens)
    return None


@pytest.mark.parametrize("opening", ["", "read_rows("])
def test_whatever_is_sampled_is_a_call_that_python_can_read_and_the_tool_can_take(
    chat_format: ChatFormat, opening: str
) -> None:
    made = [code for seed in range(80) if (code := walk(chat_format, opening, seed))]
    assert len(made) > 20
    for code in made:
        assert is_calculation(code, NAMES), code
        for node in ast.walk(ast.parse(code, mode="eval")):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in NAMES:
                tool = TOOLS.toolset[node.func.id]
                keywords = {str(keyword.arg): keyword for keyword in node.keywords}
                tool.bind(node.args, keywords)  # raises if an argument is missing, unknown or there twice


def test_an_untrained_model_writes_calls_of_the_language_once_it_opens_one(
    make_model: Callable[..., Transformer], chat_format: ChatFormat
) -> None:
    model, start = make_model(context=256), chat_format.tokenizer.special["<|python_start|>"]
    closed = 0
    for constrained in (True, False):
        for completion in generated(model, chat_format, [start], constrained, samples=40):
            if completion.finished == "tool":
                code = parts(chat_format.parse(completion.ids, completion.sampled))[-1]["text"]
                closed += constrained
                assert is_calculation(code, NAMES) or not constrained, code
    assert closed


@pytest.mark.parametrize("tags", [("<tool_call>", "</tool_call>"), ()], ids=["tokens", "text"])
def test_an_untrained_model_writes_json_that_fits_the_schemas(
    make_model: Callable[..., Transformer], tags: tuple[str, ...]
) -> None:
    kind = get_format("qwen2.5")
    tokenizer = BPETokenizer.of_bytes((*kind.special_tokens, *TOOL_TOKENS, *tags))
    chat_format = kind(tokenizer)
    model = make_model(vocab_size=tokenizer.vocab_size, context=4_096)
    opening = [tokenizer.special["<tool_call>"]] if tags else tokenizer.encode("<tool_call>\n{")
    closed = 0
    for completion in generated(model, chat_format, opening, constrained=True):
        raw = tokenizer.decode(completion.ids).removeprefix("<tool_call>")
        call, found, _ = raw.partition("</tool_call>")
        if found:
            closed += 1
            made = json.loads(call)
            tool = TOOLS.toolset[made["name"]] if made["name"] != "python" else None
            if tool is not None:
                tool.bind((), made["arguments"])
        else:
            assert call.lstrip().startswith('{"name": "')
    assert closed > 3


def test_nothing_else_is_constrained_and_reported_chances_are_the_models_own(
    make_model: Callable[..., Transformer], chat_format: ChatFormat
) -> None:
    model = make_model(context=256)
    engine = Engine(model, chat_format)
    prompts = [chat_format.prompt([{"role": "user", "content": f"question {i}"}]) for i in range(8)]
    sampling = Sampling(40, temperature=1.0)
    plain = engine.generate(prompts, sampling, 3)
    bound = engine.generate(prompts, sampling, 3, constraints=[CallConstraint(chat_format, TOOLS.declarations)] * 8)
    start = chat_format.tokenizer.special["<|python_start|>"]
    same = [(one, other) for one, other in zip(plain, bound, strict=True) if start not in one.ids]
    assert len(same) > 4
    for one, other in same:
        assert one.ids == other.ids and one.logprobs == other.logprobs
    written = generated(model, chat_format, [start], constrained=True, samples=1)[0]
    ids = torch.tensor([[*written.prompt, *written.ids]])
    with torch.inference_mode():
        chances = model.logits(model(ids))[0, :, : chat_format.tokenizer.vocab_size].log_softmax(-1)
    at = len(written.prompt) + 5
    assert written.logprobs[5] == pytest.approx(float(chances[at - 1, ids[0, at]]), abs=2e-2)


def test_programs_are_not_constrained_where_the_python_tool_runs_them(chat_format: ChatFormat) -> None:
    def python(code: str) -> str:
        """Runs code."""
        return code

    made = CallConstraint(chat_format, PythonCalls(Toolset([python])).declarations)
    parser, start = chat_format.stream(), chat_format.tokenizer.special["<|python_start|>"]
    parser.feed(start)
    assert made.allowed(parser, [start]) is None
    bound = CallConstraint(chat_format, TOOLS.declarations).allowed(parser, [start])
    assert bound is not None and 0 < bound.sum() < len(bound)
