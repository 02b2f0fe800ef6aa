"""Bits per byte on held-out text: comparable between tokenizers, the same for any batch and world size."""

import math

import numpy as np
import torch

from lanbot.data.corpus import Corpus
from lanbot.data.packing import make_batch, pack_stream
from lanbot.model.transformer import Transformer
from lanbot.tokenizer import Tokenizer
from lanbot.training.loss import weighted_nll
from lanbot.training.parallel import gather, world

ROWS = 8


class Validation:
    """The first `tokens` tokens of a corpus, in rows of T, ready to be scored again and again."""

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer, tokens: int, T: int) -> None:
        documents = ([tokenizer.bos, *tokenizer.encode(text)] for text in corpus.once())
        rows: list[np.ndarray] = []
        left_over: list[int] = []
        while len(rows) * T < tokens and (row := pack_stream(documents, 1, T, left_over)) is not None:
            rows.append(row[0])
        if not rows:  # a corpus shorter than one row: all there is, padded with document starts, which count 0 bytes
            left_over = left_over[: T + 1]
            rows.append(np.array(left_over + [tokenizer.bos] * (T + 1 - len(left_over)), dtype=np.int64))
        self.batch = make_batch(np.stack(rows), np.ones((len(rows), T + 1), np.float32), tokenizer.bos)
        self.bytes_of = tokenizer.token_bytes()

    @torch.no_grad()
    def bits_per_byte(self, model: Transformer) -> float:
        """Special tokens stand for no bytes and their loss is left out. All ranks call it; all get the value.

        ROWS rows are scored together whatever the number of ranks, and the sum of theirs is rounded once: it is the
        same to the last bit at any world size.
        """
        place = world()
        nats = []
        for start in range(place.rank * ROWS, len(self.batch), place.size * ROWS):
            rows = self.batch.rows(slice(start, start + ROWS))
            ids, targets = (torch.from_numpy(x).to(place.device) for x in (rows.ids, rows.targets))
            documents = torch.from_numpy(rows.documents)
            text = torch.from_numpy(self.bytes_of[rows.targets] > 0).to(place.device)
            _, nll = weighted_nll(model(ids, documents), model.lm_head.weight, targets, text.float())
            nats.append(nll[text].cpu().double().sum().item())
        return math.fsum(gather(nats)) / math.log(2) / int(self.bytes_of[self.batch.targets].sum())
