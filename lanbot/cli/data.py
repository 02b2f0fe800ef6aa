"""lanbot data: inspect training data."""

from json import dumps

from cyclopts import App

from lanbot.cli.shared import Mirror, Overrides, load_recipe, make_options, open_run
from lanbot.core.console import say
from lanbot.core.errors import UsageError, UserError

app = App(name="data", help="Inspect training data.")


@app.command
def show(
    task: str, *, index: int = 0, split: str | None = None, tokenizer: str | None = None, mirror: Mirror = None
) -> None:
    """Show a row of a task as tokens; those under loss are green.

    Args:
        task: A task's name, or jsonl:PATH.
        index: Which row.
        split: train, validation or test; default: the task's first.
        tokenizer: The run whose tokenizer to use; default: bytes.
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
    """List the tasks that a mixture may contain."""
    from lanbot.core.console import table
    from lanbot.tasks.registry import all_tasks

    rows = [(name, task.kind, (task.__doc__ or "").split("\n")[0]) for name, task in all_tasks().items()]
    print(table(rows, ("task", "kind", "what"), left=3))


@app.command
def plan(
    recipe: str, *overrides: Overrides, tokenizer: str | None = None, json: bool = False, mirror: Mirror = None
) -> None:
    """Estimate from samples what each phase of a recipe trains on: rows, tokens, padding.

    Args:
        recipe: A recipe's file, or the name of a shipped one.
        tokenizer: The run whose tokenizer to count with; default: the recipe's own run.
        json: Print one JSON object.
    """
    options = make_options(mirror)
    from lanbot.chat.formats import load_format
    from lanbot.config.run import Run
    from lanbot.phases.phase import phases_of

    loaded = load_recipe(recipe, overrides, options)
    own = Run(options.runs / loaded.name, loaded, options)
    made = open_run(tokenizer) if tokenizer else own
    if not (made.phase("tokenizer") / "tokenizer.json").is_file():
        remedy = f"Train it first: lanbot run {recipe} --phase tokenizer. Or name a run that has one: --tokenizer RUN."
        raise UserError(f"{made.folder}: no tokenizer to count with", remedy)
    chat_format = load_format(made.phase("tokenizer"))
    vocab_size = chat_format.tokenizer.vocab_size
    if vocab_size != loaded.tokenizer.vocab_size:
        say(f"the tokenizer has {vocab_size:,} tokens, the recipe asks for {loaded.tokenizer.vocab_size:,}")
    trained = [phase for phase in phases_of(loaded) if not own.imported(phase.name)]
    plans = [plan for phase in trained if (plan := phase.plan(loaded, chat_format, options))]
    print(dumps([plan.json() for plan in plans]) if json else "\n\n".join(map(str, plans)))


@app.command
def contamination(
    recipe: str, *overrides: Overrides, base_chars: int | None = None, json: bool = False, mirror: Mirror = None
) -> None:
    """Search a recipe's training data for its evaluation items, by runs of 13 words of a question.

    Args:
        recipe: A recipe's file, or the name of a shipped one.
        base_chars: Characters of the base corpus to search; default: what base can read, at most 100 million.
        json: Print one JSON object.
    """
    options = make_options(mirror)
    from lanbot.config.run import Run
    from lanbot.phases.phase import sources
    from lanbot.tasks import contamination

    loaded = load_recipe(recipe, overrides, options)
    if base_chars is not None and base_chars < 0:
        raise UsageError(f"--base-chars {base_chars}: out of range", "It is 0 or more.")
    if not contamination.real(loaded.evals.tasks):
        print(f"{recipe} is evaluated only on generated tasks, whose test items are kept apart: nothing to search for.")
        return
    own = Run(options.runs / loaded.name, loaded, options)
    found = contamination.check(loaded, loaded.evals.tasks, sources(loaded, own), base_chars, options)
    print(dumps(found) if json else contamination.summary(found))
