"""An engine that plays back scripted answers."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest
from local_site import make_site, site

from lanbot.agent.local import LocalModel
from lanbot.chat.formats.lanbot import LanBotFormat
from lanbot.chat.messages import Part
from lanbot.inference.engine import Completion
from lanbot.tokenizers.bpe import BPETokenizer
from lanbot.tools.tool import CallHandler

__all__ = ["make_site", "site"]
BYTES = LanBotFormat(BPETokenizer.of_bytes(LanBotFormat.special_tokens))


class ScriptedEngine:
    """turns: lists of parts. A call whose handler returns None ends a generation; the next one continues after it."""

    def __init__(self, *turns: list[Part], context: int = 1_000) -> None:
        self.turns, self.chat_format = list(turns), BYTES
        self.model = SimpleNamespace(config=SimpleNamespace(context=context))
        self.prompts: list[list[int]] = []
        """Of each turn."""
        self.left: list[Part] = []

    def generate(  # type: ignore[no-untyped-def]
        self, prompts, sampling, seed=0, on_event=None, keys=None, call_handlers: Sequence[CallHandler] = ()
    ) -> list[Completion]:
        assert all(len(prompt) < self.model.config.context for prompt in prompts)
        if prompts[0][-1:] == BYTES.start_of_answer():
            self.prompts += prompts
            self.left = list(self.turns.pop(0))
        completion = Completion(prompts[0])
        for piece in self.pieces(call_handlers[0]):
            special = BYTES.tokenizer.special.get(piece)
            completion.ids += BYTES.tokenizer.encode(piece) if special is None else [special]
        completion.sampled = [1] * len(completion.ids)
        completion.finished = "stop" if completion.ids[-1] == BYTES.end_of_turn else "tool"
        if len(completion.ids) > sampling.max_tokens:
            del completion.ids[sampling.max_tokens :]
            completion.finished = "length"
        parser = BYTES.stream()
        for token in completion.ids if on_event else ():
            for event in parser.feed(token, True):
                on_event(0, event)
        return [completion]

    def pieces(self, handler: CallHandler) -> list[str]:
        text: list[str] = []
        while self.left:
            part = self.left.pop(0)
            if part["type"] == "text":
                text.append(part["text"])
                continue
            text += [f"<|{part['type']}_start|>", part["text"]]
            if part.get("open"):
                break
            text.append(f"<|{part['type']}_end|>")
            if part["type"] == "python":
                assert handler(part["text"]) is None
                return text
        return [*text, "<|assistant_end|>"]


def scripted_model(*turns: list[Part], context: int = 1_000) -> LocalModel:
    return LocalModel(ScriptedEngine(*turns, context=context))  # type: ignore[arg-type]


@pytest.fixture
def scripted() -> Callable[..., LocalModel]:
    return scripted_model
