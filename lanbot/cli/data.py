"""lanbot data: look at what a mixture trains on."""

from cyclopts import App

from lanbot.cli.shared import Mirror, open_run, use_mirror
from lanbot.errors import UserError

app = App(name="data", help="Look at the data of a task.")


@app.command
def show(
    task: str, *, index: int = 0, split: str = "train", tokenizer: str | None = None, mirror: Mirror = None
) -> None:
    """Show a row of a task as the model reads it; what the loss counts is green.

    Args:
        task: A task's name, or jsonl:PATH.
        index: Which row.
        split: train or test.
        tokenizer: A run whose tokenizer cuts it up; without one it is cut into bytes.
    """
    use_mirror(mirror)
    from lanbot import tokenizer as tokenizers
    from lanbot.chat.lanbot_format import render
    from lanbot.chat.show import coloured
    from lanbot.tasks.mixture import make_task

    rows = make_task(task, split)
    if not 0 <= index < len(rows):
        raise UserError(f"{task}: no row {index:,}", f"It has {len(rows):,}: 0 to {len(rows) - 1:,}.")
    if tokenizer is None:
        cut = tokenizers.Tokenizer({bytes([b]): b for b in range(256)}, tokenizers.QWEN2_PATTERN)
    else:
        cut = tokenizers.Tokenizer.load(open_run(tokenizer).phase("tokenizer"))
    print(coloured(*render(rows.conversation(index), cut), cut, f"{task} {split}, row {index:,} of {len(rows):,}"))


@app.command(name="list")
def list_tasks() -> None:
    """List the tasks that a mixture may name."""
    from lanbot.console import table
    from lanbot.tasks.mixture import TASKS

    rows = [(name, task.kind, (task.__doc__ or "").split("\n")[0]) for name, task in TASKS.items()]
    print(table(rows, ("task", "kind", "what"), left=3))
