"""An engine that says what it is told to."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest

from lanbot.chat.formats.lanbot import LanBotFormat
from lanbot.chat.messages import Part
from lanbot.inference.engine import Completion
from lanbot.tokenizers.bpe import BPETokenizer
from lanbot.tools.tool import CallHandler as Tool

BYTES = LanBotFormat(BPETokenizer.of_bytes(LanBotFormat.special_tokens))


class ScriptedEngine:
    """Each turn a list of parts, of which the calls are answered by the tool of the request."""

    def __init__(self, *turns: list[Part], context: int = 1_000) -> None:
        self.turns, self.chat_format = list(turns), BYTES
        self.model = SimpleNamespace(config=SimpleNamespace(context=context))
        self.prompts: list[list[int]] = []

    def generate(  # type: ignore[no-untyped-def]
        self, prompts, sampling, seed=0, on_event=None, keys=None, call_handlers: Sequence[Tool] = ()
    ) -> list[Completion]:
        assert all(len(prompt) < self.model.config.context for prompt in prompts)
        self.prompts += prompts
        completion = Completion(prompts[0])
        forced = False
        for piece in self.pieces(call_handlers[0]):
            special = BYTES.tokenizer.special.get(piece)
            ids = BYTES.tokenizer.encode(piece) if special is None else [special]
            forced = forced or piece == "<|output_start|>"
            completion.ids += ids
            completion.sampled += [int(not forced)] * len(ids)
            forced = forced and piece != "<|output_end|>"
        completion.finished = "tool"
        if completion.ids[-1] == BYTES.tokenizer.special["<|assistant_end|>"]:
            completion.finished = "stop"
        if len(completion.ids) > sampling.max_tokens:
            del completion.ids[sampling.max_tokens :]
            completion.finished = "length"
        parser = BYTES.stream()
        for token, sampled in zip(completion.ids, completion.sampled, strict=False):
            for event in parser.feed(token, bool(sampled)) if on_event else ():
                on_event(0, event)
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
