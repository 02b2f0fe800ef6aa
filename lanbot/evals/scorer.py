"""How likely a model finds continuations: what CORE needs of a model of ours, or of any other (hf_scorer.py).

The shared prefix of an item's prompts is read once, and logits are computed only where a token is judged.
Shapes: B rows, T tokens, P tokens of a shared prefix, N judged tokens, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from lanbot.chat.formats.base import ChatFormat
from lanbot.models.shared_prefix import Branches, Trunks
from lanbot.models.transformer import Transformer
from lanbot.tasks.core import Prompt, common

TOKENS = {"cpu": 1_024, "cuda": 65_536, "mps": 8_192}
"""Tokens in one forward pass, padding included."""
LOGITS = {"cpu": 256, "cuda": 2_048, "mps": 512}
"""Tokens whose logits are in memory at a time."""


class Judged(NamedTuple):
    """The mean loss (nats) of a prompt's judged tokens, and whether each is the likeliest at its place."""

    loss: float
    greedy: bool


class Scorer(Protocol):
    """What CORE needs of a model."""

    name: str
    context: int | None
    """The maximum length of a text, in tokens; None: unlimited."""
    settings: dict[str, str | int | None]
    """Other settings that scores depend on, for the report."""

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids, with the tokens that the model expects at the start of a text."""

    def score(self, items: Sequence[Sequence[Prompt]]) -> list[list[Judged]]:
        """One result for each prompt of each item."""


@dataclass
class Plan:
    """Prompts that are read together: a trunk, their common prefix, and a branch for the rest of each.

    A prompt's last token is only judged, never read, so options of one token have empty branches.
    """

    trunk: list[int]
    branches: list[list[int]]
    prompts: list[Prompt]
    places: list[int]
    """Indices of the prompts among all prompts."""

    def __len__(self) -> int:
        """Tokens in the forward pass."""
        return len(self.trunk) + sum(map(len, self.branches))


def plans(items: Sequence[Sequence[Prompt]], branching: bool = True) -> list[Plan]:
    """One plan an item, or one a prompt where the shared prefix is short (prompts cut on the left share nothing).

    branching: whether the model can continue from a trunk's cache.
    """
    made: list[Plan] = []
    place = 0
    for item in items:
        inputs = [prompt.ids[:-1] for prompt in item]
        longest, shared = max(map(len, inputs)), common(inputs)
        places = list(range(place, place + len(item)))
        place += len(item)
        if shared == longest or (branching and 2 * shared >= longest):
            made.append(Plan(inputs[0][:shared], [ids[shared:] for ids in inputs], list(item), places))
        else:
            made += [Plan(ids, [[]], [prompt], [at]) for ids, prompt, at in zip(inputs, item, places, strict=True)]
    return made


def batches(made: list[Plan], tokens: int) -> Iterator[list[Plan]]:
    """The plans, longest trunk first, in batches of at most `tokens` trunk tokens, padding included."""
    batch: list[Plan] = []
    for plan in sorted(made, key=lambda plan: -len(plan.trunk)):
        if batch and (len(batch) + 1) * len(batch[0].trunk) > tokens:
            yield batch
            batch = []
        batch.append(plan)
    if batch:
        yield batch


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """(rows, longest), padded with zeros on the right, where causality hides them."""
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
    return ids.to(device)


class Tally:
    """Adds up results of single tokens to results of prompts."""

    def __init__(self, prompts: int) -> None:
        self.nats, self.tokens, self.greedy = [0.0] * prompts, [0] * prompts, [True] * prompts

    def add(self, places: Sequence[int], logits: Tensor, targets: Sequence[int]) -> None:
        """places: each token's prompt. logits: (N, V)."""
        results = judge(logits, torch.tensor(targets, dtype=torch.long, device=logits.device))
        for place, nats, best in zip(places, *(values.tolist() for values in results), strict=True):
            self.nats[place] += nats
            self.tokens[place] += 1
            self.greedy[place] &= best

    def items(self, items: Sequence[Sequence[Prompt]]) -> list[list[Judged]]:
        judged = map(Judged, (n / t for n, t in zip(self.nats, self.tokens, strict=True)), self.greedy)
        return [[next(judged) for _ in item] for item in items]


def judge(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(N, V) and (N,) -> each target's loss, and whether it is the likeliest token (the first of equal ones).

    On a CPU amax is ten times as fast as argmax.
    """
    likeliest = logits.gather(1, targets[:, None])[:, 0] == logits.amax(-1)
    rows = likeliest.nonzero()[:, 0]
    likeliest[rows] = logits[rows].argmax(-1) == targets[rows]
    return F.cross_entropy(logits.float(), targets, reduction="none"), likeliest


class LazyTrunks(Trunks):
    """Trunks of which the last layer computes keys and values, but queries and MLP only of some tokens."""

    def update(self, layer: int, keys: Tensor, values: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        return self.held[layer] if layer < len(self.held) else super().update(layer, keys, values, positions)

    @contextmanager
    def only(self, wanted: Tensor, model: Transformer) -> Iterator[None]:
        """Makes the model return the hidden states (B, Q, width) of the wanted tokens (B, Q)."""

        def trim(layer: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
            x, rope, _, cache = arguments
            self.held.append(layer.self_attn.keys_values(layer.input_layernorm(x), rope))
            unseen = torch.arange(self.tokens, device=self.device) > wanted[:, None, :, None]
            mask = torch.zeros(unseen.shape, dtype=x.dtype, device=self.device).masked_fill_(unseen, -torch.inf)
            rows = torch.arange(len(wanted), device=self.device)[:, None]
            return x[rows, wanted], tuple(part[wanted] for part in rope), mask, cache

        hook = model.layers[-1].register_forward_pre_hook(trim)
        try:
            yield
        finally:
            hook.remove()


class ModelScorer:
    """A Transformer with its chat format. It computes in the model's dtype: pass Engine.model for bf16."""

    def __init__(self, model: Transformer, chat_format: ChatFormat, name: str) -> None:
        self.model, self.chat_format, self.name = model, chat_format, name
        self.context: int | None = model.config.context
        self.device = model.embed_tokens.weight.device
        dtype = str(model.dtype).removeprefix("torch.")
        self.settings: dict[str, str | int | None] = {
            "dtype": dtype,
            "context": self.context,
            "begins_with": chat_format.bos_token,
        }

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [[self.chat_format.bos, *self.chat_format.tokenizer.encode(text)] for text in texts]

    @torch.inference_mode()
    def score(self, items: Sequence[Sequence[Prompt]]) -> list[list[Judged]]:
        tally = Tally(sum(map(len, items)))
        for batch in batches(plans(items), TOKENS[self.device.type]):
            self._score(batch, tally)
        return tally.items(items)

    def _score(self, batch: Sequence[Plan], tally: Tally) -> None:
        """A forward pass over all trunks, then one over the branches with the trunks' keys and values."""
        ids = padded([plan.trunk for plan in batch], self.device)
        first = [min(min(prompt.start for prompt in plan.prompts), len(plan.trunk)) - 1 for plan in batch]
        wanted = padded([range(i, len(plan.trunk)) for i, plan in zip(first, batch, strict=True)], self.device)
        width = wanted.shape[1]
        trunks = LazyTrunks(ids.shape[1], self.device)
        if width < ids.shape[1]:
            with trunks.only(wanted, self.model):
                hidden = self.model(ids, cache=trunks).flatten(0, 1)
        else:
            first, hidden = [0] * len(batch), self.model(ids, cache=trunks).flatten(0, 1)
        branched = [row for row, plan in enumerate(batch) if any(plan.branches)]
        branch_starts = dict.fromkeys(range(len(batch)), 0)
        if branched:
            more = self._branches([batch[row] for row in branched], branched, trunks)
            branch_starts |= {row: len(hidden) + i * more.shape[1] for i, row in enumerate(branched)}
            hidden = torch.cat((hidden, more.flatten(0, 1)))
        at: list[int] = []
        places: list[int] = []
        targets: list[int] = []
        for row, plan in enumerate(batch):
            P, rest = len(plan.trunk), branch_starts[row]
            for prompt, branch, place in zip(plan.prompts, plan.branches, plan.places, strict=True):
                before = range(prompt.start - 1, len(prompt.ids) - 1)  # the tokens that predict the judged ones
                at += [row * width + i - first[row] if i < P else rest + i - P for i in before]
                places += [place] * len(before)
                targets += prompt.ids[prompt.start :]
                rest += len(branch)
        where = torch.tensor(at, device=self.device)
        step = LOGITS[self.device.type]
        for some in (slice(start, start + step) for start in range(0, len(at), step)):
            tally.add(places[some], self.model.logits(hidden[where[some]]), targets[some])

    def _branches(self, made: Sequence[Plan], rows: Sequence[int], trunks: Trunks) -> Tensor:
        """The last hidden states (plans, T, width) of each plan's branches, end to end. rows: of the trunks."""
        lengths = [[len(branch) for branch in plan.branches] for plan in made]
        view = Branches(
            trunks,
            torch.tensor(rows, device=self.device),
            torch.tensor([len(plan.trunk) for plan in made], device=self.device),
            padded([[i + 1 for i, n in enumerate(row) for _ in range(n)] for row in lengths], self.device),
            padded([[step for n in row for step in range(n)] for row in lengths], self.device),
        )
        ids = padded([[token for branch in plan.branches for token in branch] for plan in made], self.device)
        return self.model(ids, cache=view)
