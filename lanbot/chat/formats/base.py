"""The interface of a chat format: how conversations become tokens, and generated tokens a message."""

import codecs
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import copy
from functools import cached_property, lru_cache
from itertools import repeat
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

from lanbot.chat.messages import Conversation, Message, Part
from lanbot.chat.thoughts import TAGS
from lanbot.core.errors import UserError
from lanbot.tokenizers.base import Tokenizer

TOOL_TOKENS = ("<|python_start|>", "<|python_end|>", "<|output_start|>", "<|output_end|>")
"""LanBot's tool tokens. A tokenizer of another family may have them too; its calls are then as short as LanBot's."""

REMEMBERED = 1_024  # texts and their tokens

Encode = Callable[[str], list[int]]


class Rendered(NamedTuple):
    """Token ids, and a mask of equal length: 1 for tokens that the assistant has to write, which the loss counts."""

    ids: list[int]
    mask: list[int]


class Event(NamedTuple):
    """A step in parsing a message while it is generated.

    kind: "open" and "close" of a part other than text, a "piece" of a part's text, or a "call" that is to be run.
    part: the part's type; of a "call", python if it is answered within the message and call if it ended the turn.
    text: of a piece, its text; of a call, its code.
    invented: the part is an output that the model wrote itself.
    """

    kind: str
    part: str = "text"
    text: str = ""
    invented: bool = False


class OpenCall(NamedTuple):
    """A call that is being written: python or call (in JSON), its text so far, and the token or text that closes it."""

    kind: str
    written: str
    token: int | None
    text: str = ""


class CallForm(NamedTuple):
    """How an answer that is a call is written.

    kind: python or call (in JSON). opens, closes: the token or the text around each call; "": nothing. arguments: the
    key of a JSON call's arguments. between: what stands between two calls; "": an answer has one only.
    """

    kind: str
    opens: int | str
    closes: int | str
    arguments: str = ""
    between: str = ""


class StreamParser:
    """Parses an assistant's message token by token, where one special token opens and one closes each part.

    opens: the part type that each token begins. closes: the tokens after which text follows. Other special tokens are
    ignored in parts; in the code of a call they are spelled out.
    """

    def __init__(self, tokenizer: Tokenizer, opens: Mapping[int, str], closes: Mapping[int, str]) -> None:
        self.tokenizer, self.opens, self.closes = tokenizer, opens, closes
        self.parts: list[Part] = []
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._kind, self._invented, self._written = "text", False, ""
        self._ids: list[int] = []
        self._call: list[int] | None = None

    def feed(self, token: int, sampled: bool = True) -> list[Event]:
        """The events of one more token. sampled: the model chose it; False: it was appended as a tool's output."""
        opened, closed = self.opens.get(token), self.closes.get(token)
        calls: list[Event] = []
        if opened == "python":
            self._call = []
        elif closed == "python" and self._call is not None:
            calls = [Event("call", "python", self.tokenizer.decode(self._call))]
            self._call = None
        elif self._call is not None:
            self._call.append(token)
        if opened:
            events = self._close()
            self._kind, self._invented = opened, opened == "output" and sampled
            return [*events, Event("open", opened, invented=self._invented)]
        if closed:
            return [*self._close(whole=self._kind == closed), *calls]
        data = self.tokenizer.token_bytes(token)
        if data:
            self._ids.append(token)
        return self._piece(self._decoder.decode(data))

    def finish(self) -> list[Event]:
        """The events after the last token: a part that is still open is closed."""
        return self._close()

    @property
    def open_call(self) -> OpenCall | None:
        if self._call is None:
            return None
        return OpenCall("python", self._written, next(i for i, kind in self.closes.items() if kind == "python"))

    def _piece(self, text: str) -> list[Event]:
        self._written += text
        return [Event("piece", self._kind, text, self._invented)] if text else []

    def _text(self) -> str:
        """Of the part; some tokenizers put a space before a text, which decoding it whole takes away."""
        return self.tokenizer.decode(self._ids)

    def _close(self, whole: bool = False) -> list[Event]:
        events = self._piece(self._decoder.decode(b"", final=True))
        kind = self._kind
        cut = kind == "python" and not whole
        if self._written or cut:
            part: Part = {"type": kind, "text": self._text()}
            if cut:
                part["open"] = True
            if self._invented:
                part["invented"] = True
            self.parts.append(part)
        if kind != "text":
            events.append(Event("close", kind, invented=self._invented))
        self._kind, self._invented, self._written, self._ids = "text", False, "", []
        self._decoder.reset()
        return events


class TextParser(StreamParser):
    """Parses an answer that is text whatever it looks like: JSON that was asked for is no call. Tags of thoughts that
    are special tokens are text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer, {}, {})
        self._words = {tokenizer.special[tag]: tag for tag in TAGS if tag in tokenizer.special}

    def feed(self, token: int, sampled: bool = True) -> list[Event]:
        return self._piece(self._words[token]) if token in self._words else super().feed(token, sampled)

    def _text(self) -> str:
        return self._written


class ChatFormat(ABC):
    """How a conversation becomes tokens and a loss mask, and what a model generates a message.

    A subclass names its special tokens and says how a message, the start of an answer and a tool's result are written.
    """

    name: ClassVar[str]
    special_tokens: ClassVar[tuple[str, ...]]
    """The special tokens of a tokenizer trained for this format, in the order of their ids."""
    bos_token: ClassVar[str]  # begins every document and every conversation
    end_token: ClassVar[str]  # ends the assistant's turn
    pad_token: ClassVar[str]  # fills rows for other software; never one that the loss counts
    stop_names: ClassVar[tuple[str, ...]]  # generation stops at each of these
    template: str
    """The same format as a Jinja chat template, for other software; refuses what it cannot render."""
    default_system: str | None = None
    """The system message of a conversation that has none; None: none is put there, or what the family's own template
    puts there."""
    family_system: ClassVar[str | None] = None
    """What the family's own template puts there; None: nothing, so the format takes no default."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        missing = [token for token in self.special_tokens if token not in tokenizer.special]
        if missing:
            remedy = "Use a tokenizer that was trained for this format, or the format that the tokenizer is for."
            raise UserError(f"chat format {self.name}: the tokenizer has no special token {missing[0]}", remedy)
        self.tokenizer = tokenizer
        self.bos, self.end_of_turn = tokenizer.special[self.bos_token], tokenizer.special[self.end_token]
        self.stop_tokens = frozenset(tokenizer.special[name] for name in self.stop_names if name in tokenizer.special)

    def with_default(self, system: str) -> Self:
        """The same format with this default system message; itself if the family's template has none."""
        if self.family_system is None:
            return self
        made = copy(self)
        made.default_system = system
        return made

    @property
    def thinking(self) -> Self:
        """The same format, whose prompts let the model think first; itself if its answers have no thoughts."""
        return self

    @cached_property
    def encode(self) -> Encode:
        """The tokenizer's, which remembers the last texts: an agent's conversation is rendered at each step, and only
        its end is new. Nobody changes the lists."""
        return lru_cache(REMEMBERED)(self.tokenizer.encode)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "encode"}

    @property
    def call_form(self) -> CallForm | None:
        """How a call of a function of a client's is written; None: the format has no calls."""
        return None

    @classmethod
    def recognises(cls, template: str, special: Collection[str]) -> bool:
        """Whether a folder is of this format that does not say so: by its chat template, "" if it has none, and its
        special tokens."""
        return False

    @abstractmethod
    def render_message(self, message: Message, encode: Encode) -> Rendered:
        """The tokens of one message. Raises UserError for a role or part that the format cannot express."""

    @abstractmethod
    def start_of_answer(self) -> list[int]:
        """The tokens after which the assistant writes."""

    @abstractmethod
    def stream(self) -> StreamParser:
        """A parser for the tokens of one generated message."""

    @abstractmethod
    def forced_output(self, results: Sequence[str], room: int, kind: str = "python") -> list[int]:
        """The tokens of the results of the model's calls, which are appended to them; about `room` at most.

        kind: the part of their "call" events.
        """

    def declare(self, tools: Sequence[Mapping[str, Any]]) -> str:
        """What the system message says about the tools; "" if the format does not declare them, or elsewhere."""
        return ""

    def render(self, conversation: Conversation, bulk: bool = False) -> Rendered:
        """The whole conversation. bulk: one of many, for which the tokenizer may take a second to prepare itself."""
        encode = (lambda text: self.tokenizer.encode_array(text).tolist()) if bulk else self.encode
        ids, mask = [self.bos], [0]
        for message in conversation["messages"]:
            rendered = self.render_message(message, encode)
            ids += rendered.ids
            mask += rendered.mask if message.get("train", True) else [0] * len(rendered.ids)
        return Rendered(ids, mask)

    def prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """The tokens after which the assistant answers the messages, or goes on with the last one if it is its own."""
        return self.ask({"messages": list(messages), "tools": [dict(tool) for tool in tools]})

    def prompt_of(self, conversation: Conversation) -> list[int]:
        """The prompt of an evaluation item: its conversation without the last answer."""
        return self.ask({**conversation, "messages": conversation["messages"][:-1]})

    def ask(self, conversation: Conversation) -> list[int]:
        """The prompt of a conversation; see `prompt`."""
        messages = conversation["messages"]
        declared = self.declare(conversation.get("tools", ()))
        if declared:
            first = messages[0] if messages and messages[0]["role"] == "system" else None
            written = f"{first['content']}\n\n{declared}" if first else declared
            messages = [{"role": "system", "content": written}, *messages[1 if first else 0 :]]
        ids = self.render({**conversation, "messages": messages}).ids
        if not messages or messages[-1]["role"] != "assistant":
            return [*ids, *self.start_of_answer()]
        while ids.pop() != self.end_of_turn:
            pass
        return ids

    def parse(self, ids: Iterable[int], sampled: Iterable[int] = ()) -> Message:
        """Parses what was generated after a prompt; never fails.

        A call that was never closed has "open": True. sampled: 0 for each forced token, as in Completion.sampled; an
        output of sampled tokens has "invented": True. Without it no output is marked.
        """
        parser = self.stream()
        for token, own in zip(ids, sampled or repeat(False)):  # noqa: B905
            if token == self.end_of_turn:
                break
            parser.feed(token, bool(own))
        parser.finish()
        return {"role": "assistant", "content": parser.parts}

    def save(self, folder: Path) -> None:
        """Writes tokenizer.json and tokenizer_config.json, from which `load_format` and transformers read it."""
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": self.bos_token,
            "eos_token": self.end_token,
            "pad_token": self.pad_token,
            "clean_up_tokenization_spaces": False,
            "chat_template": self.template,
            "chat_format": self.name,
            **({} if self.default_system is None else {"default_system": self.default_system}),
        }
        text = json.dumps(config, indent=2) + "\n"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
        self.tokenizer.save(folder)  # last: the tokenizer phase is done once it is there
