"""An engine that says what it is told to."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest

from lanbot.chat.messages import Part
from lanbot.inference.engine import Completion
from lanbot.tokenizers.bpe import QWEN2_PATTERN, Tokenizer
from lanbot.tools.tool import CallHandler as Tool

BYTES = Tokenizer({bytes([b]): b for b in range(256)}, QWEN2_PATTERN)


class ScriptedEngine:
    """Each turn a list of parts, of which the calls are answered by the tool of the request."""

    def __init__(self, *turns: list[Part], context: int = 1_000) -> None:
        self.turns, self.tokenizer = list(turns), BYTES
        self.model = SimpleNamespace(config=SimpleNamespace(context=context))
        self.prompts: list[list[int]] = []

    def generate(  # type: ignore[no-untyped-def]
        self, prompts, sampling, seed=0, on_token=None, keys=None, tools: Sequence[Tool] = ()
    ) -> list[Completion]:
        assert all(len(prompt) < self.model.config.context for prompt in prompts)
        self.prompts += prompts
        completion = Completion(prompts[0])
        for piece in self.pieces(tools[0]):
            special = BYTES.special.get(piece)
            completion.ids += BYTES.encode(piece) if special is None else [special]
        completion.finished = "tool"
        if completion.ids[-1] == BYTES.special["<|assistant_end|>"]:
            completion.finished = "stop"
        if len(completion.ids) > sampling.max_tokens:
            del completion.ids[sampling.max_tokens :]
            completion.finished = "length"
        for token in completion.ids if on_token else []:
            on_token(0, token)
        return [completion]

    def pieces(self, tool: Tool) -> list[str]:
        said: list[str] = []
        for part in self.turns.pop(0):
            if part["type"] == "text":
                said.append(part["text"])
                continue
            said += ["<|python_start|>", part["text"], "<|python_end|>"]
            output = tool(part["text"])
            if output is None:
                return said
            said += ["<|output_start|>", output, "<|output_end|>"]
        return [*said, "<|assistant_end|>"]


@pytest.fixture
def scripted() -> Callable[..., ScriptedEngine]:
    return ScriptedEngine
