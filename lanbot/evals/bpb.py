"""Bits per byte on held-out text: comparable between tokenizers, the same for any batch and world size."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lanbot.chat.formats.base import ChatFormat, Rendered
from lanbot.core.console import Progress
from lanbot.core.errors import UserError
from lanbot.data.corpus import Corpus
from lanbot.data.loader import ChatLoader
from lanbot.data.packing import Batch, make_batch, pack_stream
from lanbot.distributed.runtime import Runtime
from lanbot.models.loss import weighted_nll
from lanbot.models.transformer import Transformer

ROWS = 8


@dataclass(frozen=True)
class BitsPerByte:
    value: float
    stderr: float | None
    """Of a ratio of sums over a sample of documents: with residuals r = bits - value x bytes of each of D documents it
    is sqrt(D / (D - 1) sum(r^2)) / n. None: there is only one document."""
    chance: float
    """Bits of a uniform guess over the vocabulary."""
    n: int
    """Bytes of the documents."""
    documents: int
    context: int
    """Tokens of a row."""

    def json(self) -> dict[str, Any]:
        return {
            "bits_per_byte": round(self.value, 6),
            "stderr": None if self.stderr is None else round(self.stderr, 6),
            "chance": round(self.chance, 6),
            "n": self.n,
            "documents": self.documents,
            "context": self.context,
        }

    def __str__(self) -> str:
        error = "" if self.stderr is None else f" ± {self.stderr:.4f}"
        documents = f"{self.documents:,} document{'s' * (self.documents != 1)}"
        text = f"n {self.n:,} bytes in {documents}, rows of {self.context:,} tokens; a uniform guess {self.chance:.2f}"
        return f"val bits per byte {self.value:.4f}{error} ({text})"


def text_rows(corpus: Corpus, chat_format: ChatFormat, tokens: int, T: int) -> Batch:
    """The first `tokens` tokens of a corpus, in rows of T."""
    documents = ([chat_format.bos, *chat_format.tokenizer.encode(text)] for text in corpus.once())
    rows: list[np.ndarray] = []
    left_over: list[int] = []
    while len(rows) * T < tokens and (row := pack_stream(documents, 1, T, left_over)) is not None:
        rows.append(row[0])
    if not rows:  # a corpus shorter than one row is padded with document starts, which count 0 bytes
        left_over = left_over[: T + 1]
        rows.append(np.array(left_over + [chat_format.bos] * (T + 1 - len(left_over)), dtype=np.int64))
    return make_batch(np.stack(rows), np.ones((len(rows), T + 1), np.float32), chat_format.bos)


def chat_rows(conversations: Sequence[Rendered], bos: int, tokens: int, T: int) -> Batch:
    """The first conversations, in rows of T, `tokens` tokens in all with the padding. Raises UserError: none has any
    token under loss."""
    batch = ChatLoader(conversations, bos, max(1, tokens // T), T).next_batch()
    if batch is None:
        raise UserError("the held-out rows of a mixture have no answers", "Leave their tasks out of the mixture.")
    return batch


class Validation:
    """Measures a model on rows of held-out text or conversations: on the tokens with a weight, as far as they have
    bytes."""

    def __init__(self, batch: Batch, chat_format: ChatFormat, runtime: Runtime) -> None:
        self.batch, self.runtime = batch, runtime
        self.bos, self.bytes_of = chat_format.bos, chat_format.tokenizer.byte_lengths()

    def bits_per_byte(self, model: Transformer) -> float:
        """The value of `measure`."""
        return self.measure(model).value

    def measure(self, model: Transformer) -> BitsPerByte:
        """Special tokens have no bytes and their loss is not counted. All ranks call it and get the result.

        ROWS rows are scored together at any world size and each sum is rounded once, so the result is bit-equal.
        """
        targets = self.batch.targets
        lengths = np.where(self.batch.weights != 0, self.bytes_of[targets], 0)
        document = _numbers(self.batch, self.bos)
        parts: list[tuple[int, float, int, np.ndarray]] = self.runtime.gather(
            [
                (start, nats.sum().item(), *_by_document(document[start : start + ROWS][self._text(start)], nats))
                for start, nats in self._scored(model)
            ]
        )
        bytes_of_each = np.bincount(document.ravel(), lengths.ravel())
        bits_of_each = np.zeros(len(bytes_of_each))
        for _, _, first, nats in sorted(parts, key=lambda part: part[0]):  # the order is the same at any world size
            bits_of_each[first : first + len(nats)] += nats / math.log(2)
        n, D = int(lengths.sum()), int((bytes_of_each > 0).sum())
        value = math.fsum(part[1] for part in parts) / math.log(2) / n
        squares = math.fsum((bits_of_each - value * bytes_of_each) ** 2)
        stderr = math.sqrt(D / (D - 1) * squares) / n if D > 1 else None
        chance = math.log2(len(self.bytes_of)) * int((lengths > 0).sum()) / n
        return BitsPerByte(value, stderr, chance, n, D, targets.shape[1])

    @torch.no_grad()
    def _scored(self, model: Transformer) -> Iterator[tuple[int, Tensor]]:
        """This rank's share: the first of each ROWS rows, and the nats of each of their text tokens, fp64 (N)."""
        runtime, total = self.runtime, len(self.batch)
        with Progress("measuring bits per byte", total) as progress:
            for start in range(runtime.rank * ROWS, total, runtime.size * ROWS):
                rows = self.batch.rows(slice(start, start + ROWS))
                ids, targets = (torch.from_numpy(x).to(runtime.device) for x in (rows.ids, rows.targets))
                documents = torch.from_numpy(rows.documents)
                text = torch.from_numpy(self._text(start)).to(runtime.device)
                _, nll = weighted_nll(
                    model(ids, documents),
                    model.lm_head.weight,
                    targets,
                    text.float(),
                    softcap=model.config.switches.softcap,
                )
                yield start, nll[text].cpu().double()
                progress.show(min(total, start + ROWS))

    def _text(self, start: int) -> np.ndarray:
        """(ROWS, T): which targets are text, of the rows from `start` on."""
        rows = self.batch.rows(slice(start, start + ROWS))
        return (self.bytes_of[rows.targets] > 0) & (rows.weights != 0)


def _numbers(batch: Batch, bos: int) -> np.ndarray:
    """(rows, T): the document of each target, numbered throughout. A row of text goes on where the one before ended."""
    last = batch.documents[:, -1:] + (batch.targets[:, -1:] == bos)
    of_targets = np.concatenate([batch.documents[:, 1:], last], axis=1)
    goes_on = batch.ids[1:, 0] == batch.targets[:-1, -1]
    steps = last[:-1, 0] - batch.documents[1:, 0] + ~goes_on
    return of_targets + np.concatenate([[0], steps.cumsum()])[:, None]


def _by_document(document: np.ndarray, nats: Tensor) -> tuple[int, np.ndarray]:
    """The first document of these tokens, and the sum of nats of each document from it on."""
    if not len(document):
        return 0, np.zeros(0)
    return int(document[0]), np.bincount(document - document[0], nats.numpy())
