"""Calls that are well formed: while a model writes one, only tokens with which it still can be are sampled."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from lanbot.chat.formats.base import ChatFormat, OpenCall, StreamParser
from lanbot.chat.grammar import Declarations, json_grammar, python_grammar
from lanbot.chat.turns import PYTHON
from lanbot.core.errors import UserError
from lanbot.tools import python_call


class Constraint:
    """What one request may write in its calls of these tools. Raises UserError without the package llguidance.

    With a tool `python` of its own, a call in Python is any program and is not constrained.
    """

    def __init__(self, chat_format: ChatFormat, tools: Declarations) -> None:
        try:
            import llguidance
        except ImportError:
            raise UserError("agent.constrained needs the package llguidance", "pip install 'lanbot[agent]'") from None
        self.package: Any = llguidance
        self.format, self.tools = chat_format, tools
        self.programs = any(one["function"]["name"] == PYTHON and one != python_call.PYTHON for one in tools)
        self._matcher: Any = None  # of the call that is open
        self._consumed = 0

    def allowed(self, parser: StreamParser, tokens: Sequence[int]) -> np.ndarray | None:
        """(V,) bool, the tokens that may follow; None: all. tokens: the request's so far, which the parser has read."""
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
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        return np.unpackbits(bits, bitorder="little")[: self.format.tokenizer.vocab_size].astype(bool)

    def _begin(self, call: OpenCall) -> Any:
        own: Any = self.format.tokenizer  # the cache knows it by its identity
        tokenizer = _ll_tokenizer(own, call.token)
        grammar = self.package.LLMatcher.grammar_from_lark(self._grammar(call))
        matcher = self.package.LLMatcher(tokenizer, grammar, log_level=0)
        if call.written and not matcher.is_error():
            matcher.consume_tokens(tokenizer.greedy_tokenize(call.written))
        return matcher

    def _grammar(self, call: OpenCall) -> str:
        if call.kind == "python":
            return python_grammar([one for one in self.tools if one["function"]["name"] != PYTHON])
        return json_grammar(self.tools, getattr(self.format, "arguments", "arguments"), call.text)


@lru_cache(maxsize=4)
def _ll_tokenizer(tokenizer: Any, end: int | None) -> Any:
    """llguidance's view of a tokenizer, for calls that the token `end` closes. Cached: it takes about a second."""
    from llguidance import LLTokenizer, TokenizerWrapper

    names = {i: name for name, i in tokenizer.special.items()}

    class Described:
        """What TokenizerWrapper asks for. A token without bytes is a special one."""

        eos_token_id = next(iter(names)) if end is None else end
        bos_token_id = None
        tokens: ClassVar = [
            tokenizer.token_bytes(i) or names.get(i, f"<|{i}|>").encode() for i in range(tokenizer.vocab_size)
        ]
        special_token_ids: ClassVar = [i for i in range(tokenizer.vocab_size) if not tokenizer.token_bytes(i)]

        def __call__(self, text: bytes | str) -> list[int]:
            return tokenizer.encode(text.decode() if isinstance(text, bytes) else text)

    return LLTokenizer(TokenizerWrapper(Described()), n_vocab=tokenizer.vocab_size)
