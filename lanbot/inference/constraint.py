"""What may be sampled, by a grammar: calls that are well formed, and answers of a form that was asked for."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from functools import lru_cache
from typing import Any, ClassVar, Self

import numpy as np

from lanbot.chat.formats.base import ChatFormat, OpenCall, StreamParser, TextParser
from lanbot.chat.grammar import Declarations, json_grammar, python_grammar
from lanbot.chat.thoughts import TAGS
from lanbot.chat.turns import PYTHON
from lanbot.core.errors import UserError
from lanbot.tools import python_call


class Constraint(ABC):
    """What one request may write."""

    problem = ""
    """Why the answer could not be completed."""

    def __init__(self, chat_format: ChatFormat) -> None:
        import llguidance

        self.package: Any = llguidance
        self.format = chat_format
        self._consumed = 0

    def stream(self) -> StreamParser:
        """The parser of the answer."""
        return self.format.stream()

    @abstractmethod
    def allowed(self, parser: StreamParser, tokens: Sequence[int]) -> np.ndarray | None:
        """(V,) bool, the tokens that may follow; None: all. tokens: the request's so far, which the parser has read."""

    def again(self) -> Self:
        """The same for another request. Raises nothing."""
        return copy(self)

    def _matcher_of(self, grammar: str) -> Any:
        limits = self.package.LLParserLimits(verbose_errors=False)
        lark = self.package.LLMatcher.grammar_from_lark(grammar)
        own: Any = self.format.tokenizer  # the cache knows it by its identity
        return self.package.LLMatcher(_ll_tokenizer(own, self.format.end_of_turn), lark, log_level=0, limits=limits)

    def _mask(self, matcher: Any) -> np.ndarray:
        bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
        return np.unpackbits(bits, bitorder="little")[: self.format.tokenizer.vocab_size].astype(bool)


class CallConstraint(Constraint):
    """Calls are calls of these tools: while a model writes one, only tokens with which it still can be are sampled.

    With a tool `python` of its own, a call in Python is any program and is not constrained. typed: the arguments of a
    call in Python are values under the tool's schema; of one in JSON they always are. `problem` says why the grammar of
    the format's own calls is none, which are then free.
    """

    def __init__(self, chat_format: ChatFormat, tools: Declarations, typed: bool = False) -> None:
        super().__init__(chat_format)
        self.tools, self.typed = tools, typed
        self.programs = any(one["function"]["name"] == PYTHON and one != python_call.PYTHON for one in tools)
        self._matcher: Any = None  # of the call that is open
        self._matchers: dict[tuple[str, int | str], Any] = {}  # by kind and end, of no call yet
        if (form := chat_format.call_form) and not (form.kind == PYTHON and self.programs):
            beginning = self._unused(form.kind, form.closes)
            self.problem = beginning.get_error().partition("\n")[0]

    def allowed(self, parser: StreamParser, tokens: Sequence[int]) -> np.ndarray | None:
        call = parser.open_call
        if call is None or (call.kind == "python" and self.programs):
            self._matcher = None
            return None
        if self._matcher is None:
            self._matcher = self._begin(call)
        elif self._matcher.is_error() or not self._matcher.consume_tokens(list(tokens[self._consumed :])):
            return None  # what was written before cannot be completed
        self._consumed = len(tokens)
        if self._matcher.is_error() or (self._matcher.is_stopped() and call.token is None):
            return None
        return self._mask(self._matcher)

    def _begin(self, call: OpenCall) -> Any:
        end = call.text if call.token is None else "" if call.token == self.format.end_of_turn else call.token
        matcher = self._unused(call.kind, end).deep_copy()
        if call.written and not matcher.is_error():
            own: Any = self.format.tokenizer
            matcher.consume_tokens(_ll_tokenizer(own, self.format.end_of_turn).greedy_tokenize(call.written))
        return matcher

    def _unused(self, kind: str, end: int | str) -> Any:
        if (kind, end) not in self._matchers:
            if kind == "python":
                own = [one for one in self.tools if one["function"]["name"] != PYTHON]
                grammar = python_grammar(own, end, self.typed)
            else:
                grammar = json_grammar(self.tools, getattr(self.format, "arguments", "arguments"), end)
            self._matchers[kind, end] = self._matcher_of(grammar)
        return self._matchers[kind, end]


class AnswerConstraint(Constraint):
    """The whole answer is what a grammar says, from its first token to the end of the turn.

    thinks: a thought may come before it, and is free. calls: what the format reads as a call is one; else all is text.

    Raises UserError for a grammar that llguidance does not take.
    """

    def __init__(self, chat_format: ChatFormat, grammar: str, thinks: bool = False, calls: bool = False) -> None:
        super().__init__(chat_format)
        self.calls = calls
        self._matcher = self._matcher_of(grammar)
        if not self._matcher.is_error():
            self._matcher.compute_bitmask()  # fails where the first token has too many ways to go on
        if self._matcher.is_error():
            raise UserError(self._matcher.get_error().partition("\n")[0], "Ask for a simpler form.")
        special = chat_format.tokenizer.special
        self._thought = [special[tag] for tag in TAGS] if thinks and all(tag in special for tag in TAGS) else None
        self._place = "before" if self._thought else "answer"
        self._written = b""  # the end of a thought, in which its tag is looked for

    def stream(self) -> StreamParser:
        return super().stream() if self.calls else TextParser(self.format.tokenizer)

    def again(self) -> Self:
        made = super().again()
        made._matcher = self._matcher.deep_copy()
        return made

    def allowed(self, parser: StreamParser, tokens: Sequence[int]) -> np.ndarray | None:
        if self._consumed:
            self._take(tokens[self._consumed :])
        self._consumed = len(tokens)
        if self._place == "thought":
            own: Any = self.format.tokenizer  # the cache knows it by its identity
            mask = _plain(own).copy()
        else:
            mask = self._mask(self._matcher)
        if self._matcher.is_error():
            self.problem = self._matcher.get_error().partition("\n")[0]
            mask = np.zeros(self.format.tokenizer.vocab_size, bool)
            mask[self.format.end_of_turn] = True
        elif self._thought and self._place != "answer":
            mask[self._thought[self._place == "thought"]] = True
        return mask

    def _take(self, tokens: Sequence[int]) -> None:
        """The token that was sampled, and what was forced after it: the results of calls, after which all is as at the
        beginning."""
        token, *forced = tokens
        if self._thought and self._place == "before":
            self._place = "thought" if token == self._thought[0] else "answer"
            if self._place == "thought":
                return
        if self._thought and self._place == "thought":
            end = TAGS[1].encode()
            written = self._written + self.format.tokenizer.token_bytes(token)
            if token == self._thought[1] or end in written:
                self._place = "answer"
            self._written = written[-len(end) :]
            return
        self._matcher.consume_tokens([token])
        if forced:
            self._matcher.reset()


@lru_cache(maxsize=8)
def _plain(tokenizer: Any) -> np.ndarray:
    """(V,) bool, the tokens of text."""
    return np.asarray(tokenizer.byte_lengths() > 0)


@lru_cache(maxsize=8)
def _ll_tokenizer(tokenizer: Any, end: int) -> Any:
    """llguidance's view of a tokenizer; `end` ends a turn. Cached: it takes about a second."""
    from llguidance import LLTokenizer, TokenizerWrapper

    names = {i: name for name, i in tokenizer.special.items()}

    class Described:
        """What TokenizerWrapper asks for. A token without bytes is a special one."""

        eos_token_id = end
        bos_token_id = None
        tokens: ClassVar = [
            tokenizer.token_bytes(i) or names.get(i, f"<|{i}|>").encode() for i in range(tokenizer.vocab_size)
        ]
        special_token_ids: ClassVar = [i for i in range(tokenizer.vocab_size) if not tokenizer.token_bytes(i)]

        def __call__(self, text: bytes | str) -> list[int]:
            return tokenizer.encode(text.decode() if isinstance(text, bytes) else text)

    return LLTokenizer(TokenizerWrapper(Described()), n_vocab=tokenizer.vocab_size)
