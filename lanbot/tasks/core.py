"""CORE: the 22 tasks by which DCLM compares base models (Li et al. 2024), as prompts.

A prompt is a text to be continued, without a chat format, so any language model can be evaluated. An item's prompts
depend only on the item, its index and the fixed seeds below; not on the model, a limit, or the number of processes.
"""

import json
import random
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lanbot.core import jsonl
from lanbot.core.errors import UserError
from lanbot.core.options import Options
from lanbot.data import hub

BUNDLE = "https://karpathy-public.s3.us-west-2.amazonaws.com/eval_bundle.zip", "core"
"""Its URL, and its folder in a mirror."""
ORDER_SEED = 1337
SHOTS_SEED = 1234
Item = dict[str, Any]


@dataclass(frozen=True)
class CoreTask:
    label: str
    file: str
    kind: str
    """"multiple_choice" (one query, several continuations), "schema" (several contexts, one continuation) or
    "language_modeling" (the continuation by greedy decoding)."""
    shots: int
    """Solved items before each prompt."""
    baseline: float = 0.0
    """The accuracy that CORE counts as 0, in percent."""
    delimiter: str = " "
    """Precedes each continuation."""


CHOICE, SCHEMA, GREEDY = "multiple_choice", "schema", "language_modeling"
ANSWER = "\nAnswer: "
TASKS = (
    CoreTask("hellaswag_zeroshot", "language_understanding/hellaswag", CHOICE, 0, 25),
    CoreTask("jeopardy", "world_knowledge/jeopardy_all", GREEDY, 10, delimiter=ANSWER),
    CoreTask("bigbench_qa_wikidata", "world_knowledge/bigbench_qa_wikidata", GREEDY, 10),
    CoreTask("arc_easy", "world_knowledge/arc_easy", CHOICE, 10, 25, ANSWER),
    CoreTask("arc_challenge", "world_knowledge/arc_challenge", CHOICE, 10, 25, ANSWER),
    CoreTask("copa", "commonsense_reasoning/copa", CHOICE, 0, 50),
    CoreTask("commonsense_qa", "commonsense_reasoning/commonsense_qa", CHOICE, 10, 20),
    CoreTask("piqa", "commonsense_reasoning/piqa", CHOICE, 10, 50, ANSWER),
    CoreTask("openbook_qa", "commonsense_reasoning/openbook_qa", CHOICE, 0, 25),
    CoreTask("lambada_openai", "language_understanding/lambada_openai", GREEDY, 0),
    CoreTask("hellaswag", "language_understanding/hellaswag", CHOICE, 10, 25),
    CoreTask("winograd", "language_understanding/winograd_wsc", SCHEMA, 0, 50),
    CoreTask("winogrande", "language_understanding/winogrande", SCHEMA, 0, 50),
    CoreTask("bigbench_dyck_languages", "symbolic_problem_solving/bigbench_dyck_languages", GREEDY, 10),
    CoreTask("agi_eval_lsat_ar", "symbolic_problem_solving/agi_eval_lsat_ar", CHOICE, 3, 20),
    CoreTask("bigbench_cs_algorithms", "symbolic_problem_solving/bigbench_cs_algorithms", GREEDY, 10),
    CoreTask("bigbench_operators", "symbolic_problem_solving/bigbench_operators", GREEDY, 10),
    CoreTask("bigbench_repeat_copy_logic", "symbolic_problem_solving/bigbench_repeat_copy_logic", GREEDY, 10),
    CoreTask("squad", "reading_comprehension/squad", GREEDY, 10),
    CoreTask("coqa", "reading_comprehension/coqa", GREEDY, 0),
    CoreTask("boolq", "reading_comprehension/boolq", CHOICE, 10, 62, ANSWER),
    CoreTask(
        "bigbench_language_identification", "language_understanding/bigbench_language_identification", CHOICE, 10, 9.1
    ),
)
"""In the bundle's order, with its baselines; some are not the guess rate (docs/evals.md). A test compares both."""


def load(task: CoreTask, options: Options | None = None) -> list[Item]:
    """All items, in the seeded order of the reference implementation; a limit takes the first of them.

    Raises UserError if the bundle is not available, or a row is invalid.
    """
    items = []
    for where, row in _rows(task, options or Options.from_environment()):
        try:
            _check(task, row)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            what = f"{type(error).__name__}: {error}"
            raise UserError(f"{where}: not an item of {task.label} ({what})", "Fetch the bundle again.") from None
        items.append(row)
    if len(items) <= task.shots:
        raise UserError(f"{task.label}: {len(items)} items, too few for {task.shots} shots", "Fetch the bundle again.")
    random.Random(ORDER_SEED).shuffle(items)
    return items


def _check(task: CoreTask, row: Any) -> None:
    texts = [row["continuation"]] if task.kind != CHOICE else [row["query"]]
    if task.kind == GREEDY:
        texts.append(row["context"])
    else:
        texts += options(task, row)
        if type(row["gold"]) is not int or not 0 <= row["gold"] < len(options(task, row)):
            raise ValueError(f"gold is {row['gold']!r}")
    if not all(isinstance(text, str) and text for text in texts):
        raise ValueError("a text is missing")


def options(task: CoreTask, item: Item) -> list[str]:
    """The options of a choice; none where the answer is generated."""
    keys = {CHOICE: "choices", SCHEMA: "context_options"}
    return item[keys[task.kind]] if task.kind in keys else []


def _rows(task: CoreTask, options: Options) -> Iterator[tuple[str, Any]]:
    """(location, row) of the task's file in the bundle's zip, or in a mirror's folder, gzipped or not."""
    bundle, member = hub.url_file(*BUNDLE, options), f"eval_data/{task.file}.jsonl"
    if bundle.is_dir():
        names = [bundle / member, bundle / f"{member}.gz", bundle / "eval_bundle" / member]
        path = next((name for name in names if name.is_file()), names[0])
        return jsonl.read_jsonl(path)
    return _zipped_rows(bundle, member)


def _zipped_rows(bundle: Path, member: str) -> Iterator[tuple[str, Any]]:
    where = f"{bundle}: {member}"
    try:
        with zipfile.ZipFile(bundle) as archive:
            name = next(name for name in archive.namelist() if name in (member, f"eval_bundle/{member}"))
            lines = archive.read(name).split(b"\n")
        for number, line in enumerate(lines, 1):
            if line.strip():
                where = f"{bundle}: {member}, line {number}"
                yield where, json.loads(line)
    except StopIteration:
        raise UserError(f"{where}: not in it", "The bundle has changed; name a --mirror that has core/.") from None
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError) as error:
        raise UserError(f"{where}: cannot be read ({error})", "Delete the file: it is fetched again.") from None


def shots(task: CoreTask, items: Sequence[Item], i: int) -> list[Item]:
    """The solved items before item i: drawn from all others, the same in every evaluation."""
    drawn = random.Random(SHOTS_SEED + i).sample(range(len(items) - 1), task.shots)
    return [items[j + (j >= i)] for j in drawn]


def texts(task: CoreTask, items: Sequence[Item], i: int) -> list[str]:
    """Item i's prompts: one for each option; in language modelling the prompt without and with the continuation."""
    item, between = items[i], task.delimiter
    before = "".join(f"{_solved(task, shot)}\n\n" for shot in shots(task, items, i))
    if task.kind == CHOICE:
        return [f"{before}{item['query']}{between}{choice}" for choice in item["choices"]]
    if task.kind == SCHEMA:
        return [f"{before}{context}{between}{item['continuation']}" for context in item["context_options"]]
    asked = f"{before}{item['context'].strip()}{between}"
    return [asked.rstrip(), asked + item["continuation"]]


def _solved(task: CoreTask, item: Item) -> str:
    if task.kind == CHOICE:
        return f"{item['query']}{task.delimiter}{item['choices'][item['gold']]}"
    context = item["context_options"][item["gold"]] if task.kind == SCHEMA else item["context"].strip()
    return f"{context}{task.delimiter}{item['continuation']}"


class Prompt(NamedTuple):
    """ids[start:] are scored, given the ids before them; 0 < start < len(ids)."""

    ids: list[int]
    start: int
    cut: int = 0
    """Tokens that were truncated on the left."""


def prompts(task: CoreTask, ids: Sequence[list[int]], context: int | None = None) -> list[Prompt]:
    """The prompts of an item whose texts have these ids: one per option, or in language modelling one.

    Scored are the tokens after the common prefix of all options; of a schema, the common suffix; in language modelling
    the tokens after the prompt without continuation. Always at least one token, and never the first. context: longer
    prompts are truncated on the left to this many tokens.
    """
    if task.kind == SCHEMA:
        same = common([row[::-1] for row in ids])
        starts = [len(row) - same for row in ids]
    else:
        starts = [common(ids)] * len(ids)
    if task.kind == GREEDY:
        ids, starts = ids[1:], starts[1:]
    shortest = min(map(len, ids))
    if task.kind != SCHEMA:
        starts = [min(start, shortest - 1) for start in starts]
    cuts = [max(0, len(row) - context) if context else 0 for row in ids]
    return [Prompt(row[cut:], max(1, start - cut), cut) for row, start, cut in zip(ids, starts, cuts, strict=True)]


def common(rows: Sequence[list[int]]) -> int:
    """The length of the common prefix."""
    first, last = min(rows), max(rows)  # all rows share the common prefix of the least and the greatest
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
