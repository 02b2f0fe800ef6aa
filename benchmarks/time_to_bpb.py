"""Validation bits per byte after a number of minutes of training on this machine.

    python benchmarks/time_to_bpb.py DATA --minutes 8 [--seed 0] [--base.muon_lr 0.03 ...] [--json]

DATA: a folder of text whose last file is for validation (its first 131,072 tokens in rows of 512). The vocabulary of
8,192 is trained on the same text and kept in --cache. Model and settings follow the scaling rule for depth 4; recipe
keys change them. The learning rate schedule follows the clock, which stops during evaluations. The initialisation from
bigrams counts, the tokenizer's training and the program's start do not. --tokens N trains on that many tokens instead,
to compare settings on a machine with other load.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lanbot.chat.formats import DEFAULT, get_format, load_format
from lanbot.chat.formats.base import ChatFormat
from lanbot.config.recipe import Recipe
from lanbot.config.recipe_file import load
from lanbot.config.run import Run
from lanbot.core import hardware
from lanbot.core.console import duration, size, table
from lanbot.data.corpus import open_corpus
from lanbot.data.loader import TextLoader
from lanbot.distributed.runtime import Runtime
from lanbot.evals.bpb import Validation, text_rows
from lanbot.models.config import ModelConfig
from lanbot.models.init import init_weights
from lanbot.models.transformer import Transformer
from lanbot.phases.base import sampled_softmax, start_from_pairs
from lanbot.tokenizers.bpe_training import train
from lanbot.training import memory
from lanbot.training.optim import MuonAdamW, Rates
from lanbot.training.schedule import wsd
from lanbot.training.step import training_step

RUNTIME = Runtime.single()

VOCABULARY, CONTEXT, EVAL_TOKENS = 8_192, 512, 131_072


def format_of(data: str, cache: Path) -> ChatFormat:
    if not (cache / "tokenizer.json").is_file():
        corpus, _ = open_corpus(data, 0)
        chat_format = get_format(DEFAULT)
        chat_format(train(corpus.once(), VOCABULARY, chat_format.special_tokens)).save(cache)
    return load_format(cache)


def recipe_of(data: str, seed: int, overrides: dict[str, str]) -> Recipe:
    keys = {"base.data": data, "seed": str(seed), "tokenizer.vocab_size": str(VOCABULARY)}
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".toml") as file:
        return load(file.name, {**keys, "model.context": str(CONTEXT), **overrides})


def measure(run: Run, chat_format: ChatFormat, minutes: float, tokens: int | None, evals: int) -> dict[str, Any]:
    recipe, settings, place = run.recipe, run.recipe.base, RUNTIME
    assert settings.batch_tokens and settings.sequence, "the recipe is resolved"
    assert settings.muon_lr and settings.embedding_lr and settings.head_lr and settings.norm_lr
    config = ModelConfig.of_recipe(recipe)
    model = Transformer(config, place.dtype)
    init_weights(model, torch.Generator().manual_seed(recipe.seed))
    model.to(place.device)
    rates = Rates(settings.muon_lr, settings.embedding_lr, settings.head_lr, settings.norm_lr, settings.weight_decay)
    optimizer = MuonAdamW(model, rates, place.dtype)
    corpus, held_out = open_corpus(settings.data, recipe.seed)
    validation = Validation(text_rows(held_out, chat_format, EVAL_TOKENS, CONTEXT), chat_format, RUNTIME)
    loader = TextLoader(corpus, chat_format, settings.batch_tokens // settings.sequence, settings.sequence, 1 << 40)
    micro_batch = memory.micro_batch(config, settings.sequence, RUNTIME)
    began = time.perf_counter()
    if settings.pair_tokens:
        start_from_pairs(model, run, chat_format, RUNTIME)
    sampled = sampled_softmax(run, chat_format, RUNTIME)
    start = time.perf_counter() - began
    seconds, seen, flops = start, 0, 0.0
    losses: list[float] = []
    curve: list[dict[str, float]] = []
    while True:
        progress = seen / tokens if tokens else (seconds - start) / (60 * minutes - start)
        if progress >= (len(curve) + 1) / evals or progress >= 1:
            curve.append({"seconds": round(seconds, 1), "tokens": seen, "val_bpb": validation.bits_per_byte(model)})
            print(
                f"{duration(seconds):>8} | {seen:>11,} tokens | {seen / seconds:,.0f} tok/s | loss "
                f"{np.mean(losses[-50:]):.3f} | val bpb {curve[-1]['val_bpb']:.4f}",
                flush=True,
            )
        if progress >= 1:
            break
        began = time.perf_counter()
        batch = loader.next_batch()
        assert batch is not None, "the corpus repeats"
        scale = wsd(progress, settings.warmup, settings.decay)
        candidates = sampled.candidates(batch.targets, len(losses), progress) if sampled else None
        batch_mean = batch.scaled(1 / batch.ids.size)
        result = training_step(model, optimizer, batch_mean, scale, settings.clip, micro_batch, RUNTIME, candidates)
        losses.append(result.loss.item())
        seconds += time.perf_counter() - began
        seen += batch.ids.size
        flops += batch.ids.size * config.flops_per_token(settings.sequence, result.softmax)
    return {
        "val_bpb": curve[-1]["val_bpb"],
        "seconds": seconds,
        "tokens": seen,
        "parameters": config.params(),
        "utilisation": flops / seconds / hardware.matmul_ceiling(place.device, place.dtype),
        "peak_memory_bytes": hardware.peak(),
        "curve": curve,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--evals", type=int, default=4, help="evaluations, evenly spread, the last at the end")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "time_to_bpb")
    parser.add_argument("--json", action="store_true")
    arguments, rest = parser.parse_known_args()
    overrides = {key.removeprefix("--"): value for key, value in zip(rest[::2], rest[1::2], strict=True)}
    recipe = recipe_of(arguments.data, arguments.seed, overrides)
    run, chat_format = Run(arguments.cache, recipe), format_of(arguments.data, arguments.cache)
    result = measure(run, chat_format, arguments.minutes, arguments.tokens, arguments.evals)
    columns = ("val bpb", "time", "tokens", "tok/s", "utilisation", "parameters", "peak memory")
    row = (f"{result['val_bpb']:.4f}", duration(result["seconds"]), f"{result['tokens']:,}",
           f"{result['tokens'] / result['seconds']:,.0f}", f"{result['utilisation']:.3f}",
           f"{result['parameters']:,}", size(int(result["peak_memory_bytes"])))  # fmt: skip
    print(table([row], columns))
    if arguments.json:
        print(json.dumps({"seed": arguments.seed, "settings": overrides, **result}))


if __name__ == "__main__":
    main()
