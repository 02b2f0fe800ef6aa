"""CORE for any causal language model of transformers, so that published models compare with ours."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lanbot.core.console import no_bars
from lanbot.core.errors import UserError
from lanbot.distributed.runtime import Runtime
from lanbot.evals.scorer import LOGITS, TOKENS, Judged, Plan, Tally, batches, padded, plans
from lanbot.tasks.core import Prompt

CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length", "max_sequence_length")
"""Config keys of the maximum sequence length."""
CLOSE = {torch.float32: 1e-2, torch.bfloat16: 0.2, torch.float16: 0.05}
"""Maximum difference in nats between a loss with a cache and one without."""
HELD = {"cpu": 4_096, "cuda": 16_384, "mps": 4_096}
"""Tokens whose keys and values are in memory at once."""
SPARE = {"cpu": 0, "cuda": 16, "mps": 16}
"""Tokens that a trunk may move to its branches so that trunks are equally long."""


class HFScorer:
    """A model of the hub (OWNER/NAME) or of a folder, with its tokenizer. Texts start with the tokenizer's bos, if any.

    dtype: to compute in; by default bf16 where the device has it, else fp32.

    Raises UserError if the model is missing, unknown to transformers, lacks weights, or is not causal.
    """

    def __init__(self, name: str, runtime: Runtime, dtype: torch.dtype | None = None) -> None:
        self.name, self.device = name, runtime.device
        self.model, self.tokenizer = open_model(name, dtype or runtime.dtype)
        self.model.to(self.device).eval().requires_grad_(False)
        self.bos: int | None = self.tokenizer.bos_token_id
        config = self.model.config.get_text_config()
        sizes = [getattr(config, key, None) for key in CONTEXT_NAMES]
        self.context: int | None = next((size for size in sizes if isinstance(size, int) and size > 0), None)
        arguments = inspect.signature(self.model.forward).parameters
        self.cache = "cache" if "cache" in arguments else "past_key_values"  # the older name
        self.vocabulary: int = self.model.get_input_embeddings().num_embeddings
        if not self._causal():
            raise UserError(f"{name}: its prediction of a token depends on later ones", "CORE needs a causal model.")
        self.branching = self._branches()
        self.settings: dict[str, str | int | None] = {
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "context": self.context,
            "begins_with": self.tokenizer.bos_token,
        }

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Raises UserError for a token without an embedding."""
        rows = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        largest = max((max(row) for row in rows if row), default=0)
        if max(largest, self.bos or 0) >= self.vocabulary:
            what = f"its tokenizer gives token {max(largest, self.bos or 0)}, its embedding has {self.vocabulary:,}"
            raise UserError(f"{self.name}: {what}", "They belong to different models. Download both again.")
        return rows if self.bos is None else [[self.bos, *row] for row in rows]

    @torch.inference_mode()
    def score(self, items: Sequence[Sequence[Prompt]]) -> list[list[Judged]]:
        tally, made, kind = Tally(sum(map(len, items))), plans(items, self.branching), self.device.type
        for batch in batches([plan for plan in made if not any(plan.branches)], TOKENS[kind]):
            self._at_once(batch, tally)
        for batch in level([plan for plan in made if any(plan.branches)], HELD[kind], SPARE[kind]):
            self._on_top(batch, tally)
        return tally.items(items)

    def _at_once(self, batch: Sequence[Plan], tally: Tally) -> None:
        """Plans without branches, padded on the right."""
        rows = [
            (row, 0, prompt, place)
            for row, plan in enumerate(batch)
            for prompt, place in zip(plan.prompts, plan.places, strict=True)
        ]
        self._judge(padded([plan.trunk for plan in batch], self.device), rows, tally, use_cache=False)

    def _on_top(self, batch: Sequence[Plan], tally: Tally) -> None:
        """Trunks of one length, then their branches (the same number each) with the trunks' keys and values."""
        n, P = len(batch[0].prompts), len(batch[0].trunk)
        both = [pair for plan in batch for pair in zip(plan.prompts, plan.places, strict=True)]
        within = [
            (i // n, 0, Prompt(prompt.ids[: P + 1], prompt.start), place)
            for i, (prompt, place) in enumerate(both)
            if prompt.start <= P
        ]
        past = self._judge(padded([plan.trunk for plan in batch], self.device), within, tally, use_cache=True)
        past.batch_repeat_interleave(n)
        after = [(i, P, prompt, place) for i, (prompt, place) in enumerate(both)]
        branches = padded([branch for plan in batch for branch in plan.branches], self.device)
        self._judge(branches, after, tally, use_cache=True, **{self.cache: past})

    def _judge(self, ids: Tensor, rows: Sequence[tuple[int, int, Prompt, int]], tally: Tally, **options: Any) -> Any:
        """Runs the model on ids (B, T), tallies its predictions, and returns its cache.

        rows: (row of ids, tokens already in the cache, prompt, index of the prompt) of each prompt.
        """
        T = ids.shape[1]
        at, places, targets = [], [], []
        for row, before, prompt, place in rows:
            judged = range(max(prompt.start - 1, before), min(len(prompt.ids) - 1, before + T))
            at += [row * T + i - before for i in judged]
            places += [place] * len(judged)
            targets += [prompt.ids[i + 1] for i in judged]
        where = torch.tensor(at, dtype=torch.long, device=self.device)
        with _only(self.model.get_output_embeddings(), where, T) as kept:
            out = self.model(ids, **options)
        logits = out.logits.flatten(0, 1)
        if not kept:
            logits = logits[where]
        step = LOGITS[self.device.type]
        for some in (slice(start, start + step) for start in range(0, len(at), step)):
            tally.add(places[some], logits[some], targets[some])
        return out.past_key_values if options["use_cache"] else None

    def _probe(self) -> Tensor:
        """(4, T) random tokens: a shared prefix, then four different tokens in each row."""
        length = min(24, self.context or 24)
        rows = torch.randint(0, self.vocabulary, (4, length), generator=torch.Generator().manual_seed(0))
        rows[:, : length - 4] = rows[0, : length - 4]
        return rows

    @torch.inference_mode()
    def _causal(self) -> bool:
        """Whether the logits of a prefix do not depend on what follows."""
        logits = self.model(self._probe().to(self.device), use_cache=False).logits[:, :-4].float()
        return bool((logits - logits[0]).abs().max() < CLOSE[self.model.dtype])

    @torch.inference_mode()
    def _branches(self) -> bool:
        """Whether a repeated cache gives the same losses as none; it does not for state-space models."""
        rows = self._probe().tolist()
        item = [Prompt(row[: len(row) - i], len(row) - 4) for i, row in enumerate(rows[:3])]
        items = [item, [prompt._replace(ids=[rows[0][1], *prompt.ids[1:]]) for prompt in item]]
        shared, alone = Tally(6), Tally(6)
        try:
            self._on_top(plans(items), shared)
        except (AttributeError, TypeError, ValueError, RuntimeError, NotImplementedError, LookupError):
            return False
        self._at_once(plans(items, branching=False), alone)
        losses = [[judged.loss for item in tally.items(items) for judged in item] for tally in (shared, alone)]
        return all(abs(a - b) < CLOSE[self.model.dtype] for a, b in zip(*losses, strict=True))


def level(made: list[Plan], tokens: int, spare: int) -> Iterator[list[Plan]]:
    """Batches of plans with equally many branches, whose trunks are cut to one length: at most `spare` tokens of each
    move to its branches. tokens: of a batch's trunks, repeated for their branches."""
    batch: list[Plan] = []
    for plan in sorted(made, key=lambda plan: (len(plan.prompts), -len(plan.trunk))):
        n, P = len(plan.prompts), len(plan.trunk)
        room = (len(batch) + 1) * n * P <= tokens
        if batch and not (room and n == len(batch[0].prompts) and len(batch[0].trunk) - P <= spare):
            yield _levelled(batch)
            batch = []
        batch.append(plan)
    if batch:
        yield _levelled(batch)


def _levelled(batch: Sequence[Plan]) -> list[Plan]:
    P = len(batch[-1].trunk)
    return [
        Plan(one.trunk[:P], [one.trunk[P:] + branch for branch in one.branches], one.prompts, one.places)
        for one in batch
    ]


@contextmanager
def _only(head: Any, where: Tensor, T: int) -> Iterator[list[bool]]:
    """Restricts the head to the hidden states at `where` of (B x T), as one row.

    Yields a list that is empty if the model called its head in another way, and so returned all logits.
    """
    seen: list[bool] = []

    def choose(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        hidden = inputs[0]
        if hidden.ndim != 3 or hidden.shape[1] != T:
            return None
        seen.append(True)
        return hidden.flatten(0, 1)[where][None], *inputs[1:]

    hook = None if head is None else head.register_forward_pre_hook(choose)
    try:
        yield seen
    finally:
        if hook is not None:
            hook.remove()


def open_model(name: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """A model and its tokenizer, of a folder or of the hub. Raises UserError as HFScorer does."""
    try:
        import transformers
    except ImportError:
        raise UserError(f"{name}: needs transformers", "Install it: pip install 'lanbot[hf]'.") from None
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
        auto: Any = transformers.AutoModelForCausalLM
        with no_bars():
            model, info = auto.from_pretrained(name, dtype=dtype, output_loading_info=True)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        what = " ".join(str(error).split())
        remedy = "Name a causal language model: OWNER/NAME on the hub, or a folder with config.json and weights."
        raise UserError(f"{name}: transformers cannot open it ({what[:160]})", remedy) from None
    lacking = sorted({*info["missing_keys"], *(str(key[0]) for key in info["mismatched_keys"])})
    if lacking:
        odd = f"its weights lack {lacking[0]}" + (f" and {len(lacking) - 1:,} more" if len(lacking) > 1 else "")
        raise UserError(f"{name}: {odd}", "They would be random numbers. Use a complete copy of the model.")
    return model, tokenizer
