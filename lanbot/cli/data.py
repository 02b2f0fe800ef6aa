"""lanbot data: look at what a mixture trains on."""

from json import dumps

from cyclopts import App

from lanbot.cli.shared import Mirror, Overrides, make_options, open_run, parse_overrides
from lanbot.core.console import say
from lanbot.core.errors import UsageError, UserError

app = App(name="data", help="Look at the data of a task.")


@app.command
def show(
    task: str, *, index: int = 0, split: str | None = None, tokenizer: str | None = None, mirror: Mirror = None
) -> None:
    """Show a row of a task as the model reads it; what the loss counts is green.

    Args:
        task: A task's name, or jsonl:PATH.
        index: Which row.
        split: train, validation or test, as the task has them; its first if left out.
        tokenizer: A run whose tokenizer cuts it up; without one it is cut into bytes.
    """
    options = make_options(mirror)
    from lanbot.chat.display import coloured
    from lanbot.chat.formats import DEFAULT, get_format, load_format
    from lanbot.tasks.registry import first_split, make_task
    from lanbot.tasks.task import TaskContext
    from lanbot.tokenizers.bpe import BPETokenizer

    split = split or first_split(task)
    rows = make_task(task, split, TaskContext(options=options))
    if not 0 <= index < len(rows):
        raise UserError(f"{task}: no row {index:,}", f"It has {len(rows):,}: 0 to {len(rows) - 1:,}.")
    if tokenizer is None:
        kind = get_format(DEFAULT)
        chat_format = kind(BPETokenizer.of_bytes(kind.special_tokens))
    else:
        chat_format = load_format(open_run(tokenizer).phase("tokenizer"))
    print(coloured(rows.conversation(index), chat_format, f"{task} {split}, row {index:,} of {len(rows):,}"))


@app.command(name="list")
def list_tasks() -> None:
    """List the tasks that a mixture may name."""
    from lanbot.core.console import table
    from lanbot.tasks.registry import all_tasks

    rows = [(name, task.kind, (task.__doc__ or "").split("\n")[0]) for name, task in all_tasks().items()]
    print(table(rows, ("task", "kind", "what"), left=3))


@app.command
def plan(
    recipe: str, *overrides: Overrides, tokenizer: str | None = None, json: bool = False, mirror: Mirror = None
) -> None:
    """Say what each phase of a recipe will train on: rows, tokens, how full the rows get; estimated from samples.

    Args:
        recipe: A recipe's file, or the name of a shipped one.
        tokenizer: The run whose tokenizer counts; the recipe's own run if left out.
        json: Print one JSON object.
    """
    options = make_options(mirror)
    from lanbot.chat.formats import load_format
    from lanbot.config import recipe_file
    from lanbot.config.run import Run
    from lanbot.phases.phase import phases_of

    loaded = recipe_file.load(recipe, parse_overrides(overrides))
    made = open_run(tokenizer) if tokenizer else Run(options.runs / loaded.name, loaded, options)
    if not (made.phase("tokenizer") / "tokenizer.json").is_file():
        remedy = f"Train it first: lanbot run {recipe} --phase tokenizer. Or name a run that has one: --tokenizer RUN."
        raise UserError(f"{made.folder}: no tokenizer to count with", remedy)
    chat_format = load_format(made.phase("tokenizer"))
    vocab_size = chat_format.tokenizer.vocab_size
    if vocab_size != loaded.tokenizer.vocab_size:
        say(f"the tokenizer has {vocab_size:,} tokens, the recipe asks for {loaded.tokenizer.vocab_size:,}")
    plans = [plan for phase in phases_of(loaded) if (plan := phase.plan(loaded, chat_format, options))]
    print(dumps([plan.json() for plan in plans]) if json else "\n\n".join(map(str, plans)))


@app.command
def contamination(
    recipe: str, *overrides: Overrides, base_chars: int | None = None, json: bool = False, mirror: Mirror = None
) -> None:
    """Look for a recipe's evaluation items in what it trains on: 13 words in a row of a question.

    Args:
        recipe: A recipe's file, or the name of a shipped one.
        base_chars: How much of the base corpus to look through; what base can read, 100 million at most, if left out.
        json: Print one JSON object.
    """
    options = make_options(mirror)
    from lanbot.config import recipe_file
    from lanbot.phases.phase import sources
    from lanbot.tasks import contamination

    loaded = recipe_file.load(recipe, parse_overrides(overrides))
    if base_chars is not None and base_chars < 0:
        raise UsageError(f"--base-chars {base_chars}: out of range", "It is 0 or more.")
    if not contamination.real(loaded.evals.tasks):
        print(f"{recipe} is evaluated on nothing but what LanBot makes itself, and keeps apart: nothing to look for.")
        return
    found = contamination.check(loaded, loaded.evals.tasks, sources(loaded), base_chars, options)
    print(dumps(found) if json else contamination.summary(found))
