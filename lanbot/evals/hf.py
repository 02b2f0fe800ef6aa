"""Any causal language model that transformers opens, for CORE: published models by the same figures as ours."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lanbot.errors import UserError
from lanbot.evals.scorer import LOGITS, TOKENS, Judged, Plan, Tally, batches, judge, padded, plans
from lanbot.tasks.core import Prompt
from lanbot.training.parallel import world

CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length", "max_sequence_length")
"""What configs call the longest sequence."""
CLOSE = {torch.float32: 1e-2, torch.bfloat16: 0.2, torch.float16: 0.05}
"""Nats by which a loss on top of a cache may differ from one without."""


class HFScorer:
    """A model of the hub (OWNER/NAME) or of a folder, with its tokenizer. Before a text stands the tokenizer's bos,
    where it has one. dtype: what to compute in; None: bf16 where the device has it, else fp32.

    Raises UserError if it is not there, is of an architecture that transformers does not know, or lacks weights.
    """

    def __init__(self, name: str, dtype: torch.dtype | None = None) -> None:
        place = world()
        self.name, self.device = name, place.device
        self.model, self.tokenizer = open_model(name, dtype or place.dtype)
        self.model.to(self.device).eval().requires_grad_(False)
        self.bos: int | None = self.tokenizer.bos_token_id
        config = self.model.config.get_text_config()
        sizes = [getattr(config, key, None) for key in CONTEXT_NAMES]
        self.context: int | None = next((size for size in sizes if isinstance(size, int) and size > 0), None)
        arguments = inspect.signature(self.model.forward).parameters
        self.cache = "cache" if "cache" in arguments else "past_key_values"  # the older name
        self.branching = self._branches()
        self.settings: dict[str, str | int | None] = {
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "context": self.context,
            "begins_with": self.tokenizer.bos_token,
        }

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        rows = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return rows if self.bos is None else [[self.bos, *row] for row in rows]

    @torch.inference_mode()
    def score(self, items: Sequence[Sequence[Prompt]]) -> list[list[Judged]]:
        tally, alone = Tally(sum(map(len, items))), []
        for plan in plans(items, self.branching):
            if any(plan.branches):
                self._on_top(plan, tally)
            else:
                alone.append(plan)
        for batch in batches(alone, TOKENS[self.device.type]):
            self._at_once(batch, tally)
        return tally.items(items)

    def _at_once(self, batch: Sequence[Plan], tally: Tally) -> None:
        """Plans without branches, padded at the right."""
        rows = [
            (row, 0, prompt, place)
            for row, plan in enumerate(batch)
            for prompt, place in zip(plan.prompts, plan.places, strict=True)
        ]
        self._judge(padded([plan.trunk for plan in batch], self.device), rows, tally, use_cache=False)

    def _on_top(self, plan: Plan, tally: Tally) -> None:
        """One item: its trunk, then its branches as a batch on top of the trunk's keys and values."""
        n, P = len(plan.prompts), len(plan.trunk)
        both = list(zip(plan.prompts, plan.places, strict=True))
        past = self._judge(
            padded([plan.trunk], self.device),
            [(0, 0, Prompt(prompt.ids[: P + 1], prompt.start), place) for prompt, place in both if prompt.start <= P],
            tally,
            use_cache=True,
        )
        past.batch_repeat_interleave(n)
        after = [(row, P, prompt, place) for row, (prompt, place) in enumerate(both)]
        self._judge(padded(plan.branches, self.device), after, tally, use_cache=True, **{self.cache: past})

    def _judge(self, ids: Tensor, rows: Sequence[tuple[int, int, Prompt, int]], tally: Tally, **options: Any) -> Any:
        """Reads ids (B, T), tallies what they foretell, and gives the model's cache. rows: of each prompt its row, the
        tokens that were read before, itself and its place."""
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
        wanted = torch.tensor(targets, dtype=torch.long, device=self.device)
        step = LOGITS[self.device.type]
        for start in range(0, len(at), step):
            tally.add(places[start : start + step], *judge(logits[start : start + step], wanted[start : start + step]))
        return out.past_key_values if options["use_cache"] else None

    @torch.inference_mode()
    def _branches(self) -> bool:
        """Whether the model says the same on top of a repeated cache as without: some keep a state of another kind."""
        length = min(24, self.context or 24)
        size = self.model.get_input_embeddings().num_embeddings
        rows = torch.randint(0, size, (3, length), generator=torch.Generator().manual_seed(0))
        rows[:, : length - 4] = rows[0, : length - 4]
        item = [Prompt(row[: length - i], length - 4) for i, row in enumerate(rows.tolist())]
        shared, alone = Tally(3), Tally(3)
        try:
            for plan in plans([item]):
                self._on_top(plan, shared)
        except (AttributeError, TypeError, ValueError, RuntimeError, NotImplementedError, LookupError):
            return False
        self._at_once(plans([item], branching=False), alone)
        pairs = zip(shared.items([item])[0], alone.items([item])[0], strict=True)
        return all(abs(a.loss - b.loss) < CLOSE[self.model.dtype] for a, b in pairs)


@contextmanager
def _only(head: Any, where: Tensor, T: int) -> Iterator[list[bool]]:
    """Has the head see only the hidden states at `where` of (B x T), as one row. The list is no longer empty then; a
    model that calls its head in another way gives all logits."""
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
