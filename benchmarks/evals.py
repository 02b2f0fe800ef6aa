"""How much faster the CORE evaluation is than item by item, and whether the answers are the same.

    python benchmarks/evals.py --mirror DIR [--items 8] [--dtype float32] [--context 2048] [--vocab 8192] [--json]

The plain loop evaluates each item's options as one padded batch, with the logits of every token. Both use the same
prompts and alternate, task by task, twice; the better time counts. Times are CPU time on one core, so that other load
on the machine matters less, and exclude reading the files. The model has depth 4, width 256 and seeded random weights,
large enough to make its answers differ; the items are the first of each task in its fixed shuffled order.
"""

import argparse
import json
import time
from collections.abc import Sequence
from functools import cache
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F

from lanbot.chat.formats import DEFAULT, get_format
from lanbot.chat.formats.base import ChatFormat
from lanbot.config import recipe_file
from lanbot.core.console import say, table
from lanbot.core.options import Options
from lanbot.data.corpus import open_corpus
from lanbot.distributed.runtime import Runtime
from lanbot.evals.core import KINDS, evaluate
from lanbot.evals.scorer import Judged, ModelScorer, padded
from lanbot.models.config import ModelConfig
from lanbot.models.init import init_weights
from lanbot.models.transformer import Transformer
from lanbot.tasks import core
from lanbot.tasks.core import TASKS, CoreTask, Prompt
from lanbot.tokenizers.bpe_training import train

RUNTIME = Runtime.single()


class PlainScorer(ModelScorer):
    """The baseline."""

    @torch.inference_mode()
    def score(self, items: Sequence[Sequence[Prompt]]) -> list[list[Judged]]:
        return [self._item(item) for item in items]

    def _item(self, item: Sequence[Prompt]) -> list[Judged]:
        ids = padded([prompt.ids for prompt in item], self.device)
        logits = self.model.logits(self.model(ids))
        losses = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        losses, best = losses.view(len(item), -1), logits.argmax(-1)
        judged = []
        for row, prompt in enumerate(item):
            before = slice(prompt.start - 1, len(prompt.ids) - 1)
            right = best[row, before] == ids[row, prompt.start : len(prompt.ids)]
            judged.append(Judged(losses[row, before].mean().item(), bool(right.all())))
        return judged


def make_model(vocab: int, context: int, dtype: torch.dtype) -> Transformer:
    config = ModelConfig(vocab, 256, 4, 4, 4, 64, 8 * 256 // 3 // 2 * 2, context)
    model = Transformer(config, dtype)
    generator = torch.Generator().manual_seed(0)
    init_weights(model, generator)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight", "lm_head.weight")):
                parameter.normal_(0.0, 0.05, generator=generator)
    return model.to(dtype).to(RUNTIME.device).requires_grad_(False)


def make_format(vocab: int, options: Options) -> ChatFormat:
    say(f"training a vocabulary of {vocab:,}")
    corpus, _ = open_corpus(recipe_file.load("laptop").base.data, 0, options=options)
    chat_format = get_format(DEFAULT)
    return chat_format(train(islice(corpus.once(), 4_000), vocab, chat_format.special_tokens))


def measure(scorers: Sequence[ModelScorer], task: CoreTask, items: int, options: Options) -> dict[str, float]:
    """{"plain": seconds, "ours": seconds, "items": count, "differ": count of different answers}."""
    best, answers = [float("inf")] * 2, []
    for _ in range(2):
        for i, scorer in enumerate(scorers):
            began = time.process_time()
            result = evaluate(scorer, items, [task], options, runtime=RUNTIME)
            best[i] = min(best[i], time.process_time() - began)
            answers.append([verdict.answer for verdict in result.verdicts])
    differ = sum(a != b for a, b in zip(answers[0], answers[1], strict=True))
    return {"plain": best[0], "ours": best[1], "items": len(answers[0]), "differ": differ}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mirror", type=Path, required=True)
    parser.add_argument("--items", type=int, default=8, help="of each task")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--context", type=int, default=2_048)
    parser.add_argument("--vocab", type=int, default=8_192)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    options = Options.from_environment(arguments.mirror)
    torch.set_num_threads(1)
    model = make_model(arguments.vocab, arguments.context, getattr(torch, arguments.dtype))
    words = make_format(arguments.vocab, options)
    scorers = [PlainScorer(model, words, "plain"), ModelScorer(model, words, "ours")]
    core.load = cache(core.load)  # keeps the reading of files out of the times
    evaluate(scorers[1], 2, options=options, runtime=RUNTIME)  # warm-up
    results = {}
    for task in TASKS:
        results[task.label] = measure(scorers, task, arguments.items, options)
        say(f"{task.label}: {results[task.label]['plain'] / results[task.label]['ours']:.1f}x")
    groups = [(task.label, [task.label]) for task in TASKS]
    groups += [(f"all {name}", [task.label for task in TASKS if task.kind == kind]) for kind, name in KINDS.items()]
    groups.append(("CORE", [task.label for task in TASKS]))
    rows, summary = [], {}
    for name, labels in groups:
        total = {key: sum(results[label][key] for label in labels) for key in ("plain", "ours", "items", "differ")}
        total["ratio"] = total["plain"] / total["ours"]
        summary[name] = total
        per = [f"{1e3 * total[key] / total['items']:.1f}" for key in ("plain", "ours")]
        rows.append((name, f"{total['items']:,}", *per, f"{total['ratio']:.1f}x", total["differ"]))
    print(table(rows, ("task", "items", "plain ms/item", "ours ms/item", "faster", "answers that differ")))
    if arguments.json:
        print(json.dumps({**vars(arguments), "tasks": summary}, default=str))


if __name__ == "__main__":
    main()
