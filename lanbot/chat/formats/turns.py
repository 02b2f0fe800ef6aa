"""What the formats of open models have in common: calls in JSON end the assistant's turn, and each result is a turn."""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import ClassVar

from lanbot.chat.formats.base import TOOL_TOKENS, CallForm, ChatFormat, Encode, Event, OpenCall, Rendered, StreamParser
from lanbot.chat.formats.script import Script
from lanbot.chat.messages import Conversation, Message, Part, output, text
from lanbot.chat.turns import Turn, read_call, unfolded
from lanbot.core.errors import UserError
from lanbot.tokenizers.base import Tokenizer


class TurnFormat(ChatFormat):
    """A header before each turn. Where the tokenizer has LanBot's tool tokens, python calls are written with them."""

    opening: str  # begins an answer
    results: ClassVar[tuple[str, str, str]]  # before, between and after the results of a turn's calls
    after_turn: ClassVar[str] = ""  # between the token that ends a turn and the next turn
    end_names: ClassVar[tuple[str, ...]]  # the tokens that end an assistant's turn
    arguments: ClassVar[str] = "arguments"  # the key of a call's arguments
    roles: ClassVar[tuple[str, ...]] = ("system", "user", "assistant", "tool")

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer)
        self.inline = all(name in tokenizer.special for name in TOOL_TOKENS)
        self.ends = frozenset(tokenizer.special[name] for name in self.end_names)

    @abstractmethod
    def write(self, script: Script, turns: Sequence[Turn], conversation: Conversation, begun: bool) -> None:
        """All turns, a default system message and tools included. begun: the last one is not ended."""

    def shown(self, result: str) -> str:
        """A tool's result as the model reads it."""
        return result

    def unshown(self, written: str) -> str:
        """A tool's result again."""
        return written

    # -- the interface

    @property
    def call_form(self) -> CallForm:
        opens, closes = (self.tokenizer.special.get(tag, tag) for tag in TurnParser.tags)
        return CallForm("call", opens, closes, self.arguments, "\n")

    def render(self, conversation: Conversation, bulk: bool = False) -> Rendered:
        encode = (lambda words: self.tokenizer.encode_array(words).tolist()) if bulk else self.encode
        return self._written(conversation, encode, begun=False)

    def render_message(self, message: Message, encode: Encode) -> Rendered:
        return self._written({"messages": [message], "system": False}, encode, begun=False)

    def ask(self, conversation: Conversation) -> list[int]:
        messages = conversation["messages"]
        begun = bool(messages) and messages[-1]["role"] == "assistant"
        return self._written(conversation, self.encode, begun, asks=True).ids

    def start_of_answer(self) -> list[int]:
        return self._script(self.opening).ids

    def stream(self) -> "TurnParser":
        return TurnParser(self)

    def forced_output(self, results: Sequence[str], room: int, kind: str = "python") -> list[int]:
        if kind == "python":
            opening, closing = (self.tokenizer.special[name] for name in TOOL_TOKENS[2:])
            return [opening, *self.tokenizer.encode("\n".join(results))[: max(0, room - 2)], closing]
        room -= len(self._forced([""] * len(results)))
        cut = []
        for i, result in enumerate(results):
            ids = self.tokenizer.encode(self.shown(result))
            most = max(0, room // (len(results) - i))
            cut.append(result if len(ids) <= most else self.tokenizer.decode(self.tokenizer.encode(result)[:most]))
            room -= min(len(ids), most)
        return self._forced(cut)

    def parse(self, ids: Iterable[int], sampled: Iterable[int] = ()) -> Message:
        parser = self.stream()
        for token, own in zip(ids, sampled or repeat(False)):  # noqa: B905
            parser.feed(token, bool(own))
        parser.finish()
        return {"role": "assistant", "content": parser.parts}

    # -- for the formats

    def body(self, script: Script, parts: Sequence[Part], own: int) -> None:
        """An answer's text, with the calls and outputs within it."""
        for part in parts:
            kind = part["type"]
            if kind == "text":
                script.text(part["text"], own)
                continue
            counted = int(own and part.get("train", True)) if kind == "python" else 0
            script.markup(f"<|{kind}_start|>", counted)
            script.text(part["text"], counted)
            script.markup(f"<|{kind}_end|>", counted)

    def tool_turn(self, script: Script, turns: Sequence[Turn], i: int) -> None:
        """The result in turn i, one of those that follow each other."""
        before, between, after = self.results
        follows = i > 0 and turns[i - 1].role == "tool"
        script.markup(between if follows else before)
        script.text(self.shown(turns[i].text))
        if i + 1 == len(turns) or turns[i + 1].role != "tool":
            script.markup(after)

    def results_of(self, written: str, calls: int) -> list[str]:
        """The results of so many calls in what `forced_output` wrote, decoded; its end may be missing."""
        before, between, after = self.results
        begin, end = self.after_turn + before, after + self.opening
        if not written.startswith(begin):
            return [""] * calls
        kept = next(n for n in range(len(end), -1, -1) if written.endswith(end[:n]))
        return [self.unshown(one) for one in written[len(begin) : len(written) - kept].split(between, calls - 1)]

    def _written(self, conversation: Conversation, encode: Encode, begun: bool, asks: bool = False) -> Rendered:
        turns = unfolded(conversation["messages"], self.inline)
        for turn in turns:
            if turn.role not in self.roles:
                remedy = f"Its roles: {', '.join(self.roles)}."
                raise UserError(f"no role {turn.role!r} in the chat format {self.name}", remedy)
        script = Script(self.tokenizer, encode)
        begun = begun and turns[-1].role == "assistant"
        self.write(script, turns, conversation, begun)
        if asks and not begun:
            script.markup(self.opening)
        return script.rendered()

    def _forced(self, results: Sequence[str]) -> list[int]:
        before, between, after = self.results
        script = self._script(self.after_turn + before)
        for i, result in enumerate(results):
            script.markup(between if i else "")
            script.text(self.shown(result))
        script.markup(after + self.opening)
        return script.rendered().ids

    def _script(self, words: str) -> Script:
        script = Script(self.tokenizer, self.tokenizer.encode)
        script.markup(words)
        script.rendered()
        return script


class TurnParser(StreamParser):
    """Parses turns: calls by name are known when they are closed, and run when the turn ends.

    Where the tokenizer has no tokens for `tags`, they are looked for in the text.
    """

    tags: ClassVar[tuple[str, str]] = ("<tool_call>", "</tool_call>")
    spelled: ClassVar[tuple[str, ...]] = ("<think>", "</think>")

    def __init__(self, chat_format: TurnFormat) -> None:
        special, self.format = chat_format.tokenizer.special, chat_format
        opens, closes = TOOL_TOKENS[::2], TOOL_TOKENS[1::2]
        kinds = ("python", "output") if chat_format.inline else ()
        super().__init__(
            chat_format.tokenizer,
            {special[name]: kind for name, kind in zip(opens, kinds, strict=False)},
            {special[name]: kind for name, kind in zip(closes, kinds, strict=False)},
        )
        self._tags = tuple(special.get(tag) for tag in self.tags)
        self._words = {special[name]: name for name in self.spelled if name in special}
        self._opening = chat_format.start_of_answer()
        self._raw: str | None = None  # of a call that is being written
        self._held = ""  # text that may become a tag
        self._calls: list[str] = []  # of this turn
        self._tail: list[int] | None = None  # between a turn with calls and the next
        self._over = False
        self._begins = 0  # parts before this turn

    def feed(self, token: int, sampled: bool = True) -> list[Event]:
        if self._over:
            return []
        if self._tail is not None:
            self._tail.append(token)
            return self._results() if self._tail[-len(self._opening) :] == self._opening else []
        return self._end() if token in self.format.ends else self._in_turn(token, sampled)

    def finish(self) -> list[Event]:
        if self._tail:
            return self._results()
        if self._raw is not None:
            words, self._raw = self.tags[0] + self._raw, None
            return [*super()._piece(words), *self._close()]
        return self._close()

    @property
    def open_call(self) -> OpenCall | None:
        if self._raw is None:
            return super().open_call
        token = self._tags[1]
        return OpenCall("call", self._raw, token, self.tags[1] if token is None else "")

    def _in_turn(self, token: int, sampled: bool) -> list[Event]:
        opens, closes = self._tags
        if self._raw is not None:
            return self._called() if token == closes else self._more(self._text_of(token))
        if token == opens:
            return self._open()
        if token in self._words:
            return self._piece(self._words[token])
        return super().feed(token, sampled)

    def _text(self) -> str:
        return self._written

    def _text_of(self, token: int) -> str:
        return self._decoder.decode(self.tokenizer.token_bytes(token))

    def _piece(self, text: str) -> list[Event]:
        tag = self.tags[0]
        if self._tags[0] is not None or self._kind != "text":
            return super()._piece(text)
        before, found, after = (self._held + text).partition(tag)
        if found:
            self._held = ""
            return [*super()._piece(before), *self._open(), *self._more(after)]
        kept = next((n for n in range(len(tag) - 1, 0, -1) if before.endswith(tag[:n])), 0)
        self._held = before[len(before) - kept :]
        return super()._piece(before[: len(before) - kept])

    def _open(self) -> list[Event]:
        """A call begins. The line break before it is the format's."""
        events = self._close()
        if self.parts and self.parts[-1]["type"] == "text":
            last = self.parts.pop()
            if words := last["text"].removesuffix("\n"):
                self.parts.append(text(words))
        self._raw = ""
        return events

    def _more(self, piece: str) -> list[Event]:
        """More of a call's JSON."""
        raw = (self._raw or "") + piece
        before, found, after = raw.partition(self.tags[1]) if self._tags[1] is None else (raw, "", "")
        self._raw = before
        return [*self._called(), *self._piece(after)] if found else []

    def _called(self) -> list[Event]:
        """A call is complete. One that cannot be read stays text; it is run all the same, to give an error."""
        raw, self._raw = self._raw or "", None
        self._decoder.reset()
        part = read_call(raw, self.format.arguments)
        self._calls.append(part["text"] if part else raw.strip())
        if part is None:
            return [*super()._piece(self.tags[0] + raw + self.tags[1]), *self._close()]
        return self._add(part)

    def _add(self, part: Part) -> list[Event]:
        kind = part["type"]
        self.parts.append(part)
        return [Event("open", kind), Event("piece", kind, part["text"]), Event("close", kind)]

    def _close(self, whole: bool = False) -> list[Event]:
        held, self._held = self._held, ""
        return [*super()._piece(held), *super()._close(whole)]

    def _end(self) -> list[Event]:
        """The turn is over: its calls are to be run."""
        events = [*(self._called() if self._raw is not None else []), *self._close()]
        if not self._calls:
            self._over = True
            return events
        while self.parts and self.parts[-1]["type"] == "text" and not self.parts[-1]["text"].strip():
            self.parts.pop()
        self._tail = []
        return [*events, *(Event("call", "call", code) for code in self._calls)]

    def _results(self) -> list[Event]:
        written = self.tokenizer.decode(self._tail or [])
        results = self.format.results_of(written, len(self._calls))
        self._calls, self._tail = [], None
        events = [event for result in results for event in self._add(output(result))]
        self._begins = len(self.parts)
        return events
