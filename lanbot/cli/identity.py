"""lanbot identity: generate the data that teach a bot who it is, look at them, check them."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App

from lanbot.core import jsonl
from lanbot.core.errors import UsageError, UserError

if TYPE_CHECKING:
    from lanbot.chat.messages import Conversation
    from lanbot.config.recipe import Identity

app = App(name="identity", help="Generate, look at and check the data that teach a bot who it is.")

KEYS = ("LANBOT_API_KEY", "OPENAI_API_KEY")


@app.command
def generate(
    recipe: str,
    *,
    out: Path,
    count: int = 2_000,
    seed: int = 0,
    kinds: str = "identity",
    base_url: str = "",
    model: str = "",
    max_cost: float | None = None,
    price_in: float | None = None,
    price_out: float | None = None,
    concurrency: int | None = None,
) -> None:
    """Write conversations about who the bot of a recipe is, as JSON lines: for a mixture, as jsonl:FILE.

    Without --base-url they are made offline. With it a model at an OpenAI-compatible endpoint writes them; its key is
    read from LANBOT_API_KEY or OPENAI_API_KEY.

    Args:
        recipe: A recipe's file, or the name of a shipped one.
        out: The file to write.
        count: How many conversations.
        kinds: For an endpoint: kinds of conversations, joined by commas.
        base_url: The endpoint, up to and with /v1.
        model: The endpoint's name of the model.
        max_cost: Dollars that are never exceeded; 1 if left out.
        price_in: Dollars per million tokens that the endpoint reads.
        price_out: Dollars per million tokens that it writes.
        concurrency: Requests at a time; 8 if left out.
    """
    from lanbot.config import recipe_file

    if count < 1:
        raise UsageError(f"--count {count}: out of range", "It is 1 or more.")
    if out.is_dir() or not out.parent.is_dir():
        raise UserError(f"--out {out}: cannot be written", "Name a file in an existing folder.")
    if out.suffix != ".jsonl":
        raise UserError(f"--out {out}: not a .jsonl file", "Name one, such as identity.jsonl.")
    who = recipe_file.load(recipe).identity
    if base_url:
        if not model:
            raise UsageError("--base-url needs a model", "Add --model NAME.")
        if price_in is None or price_out is None:
            remedy = "Add --price-in and --price-out, in dollars per million tokens; 0 for a model of your own."
            raise UsageError("--base-url needs the endpoint's prices", remedy)
        cost, tasks = 1.0 if max_cost is None else max_cost, 8 if concurrency is None else concurrency
        _generate_at(base_url, model, cost, (price_in, price_out), tasks, who, out, count, kinds, seed)
        return
    given = {"--model": model or None, "--kinds": kinds if kinds != "identity" else None, "--max-cost": max_cost}
    given |= {"--price-in": price_in, "--price-out": price_out, "--concurrency": concurrency}
    for option, value in given.items():
        if value is not None:
            raise UsageError(f"{option} is for an endpoint", f"Add --base-url URL, or leave out {option}.")
    _generate_offline(who, out, count, seed)


def _generate_offline(who: "Identity", out: Path, count: int, seed: int) -> None:
    from lanbot.core.console import track
    from lanbot.core.files import write_atomic
    from lanbot.synthetic.identity import offline

    _warn_of_unknown_languages(who)
    rows = track(offline.conversations(who, count, seed), "conversations", count, "rows")
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if out.exists() and not text.encode().startswith(out.read_bytes()):
        raise UserError(f"{out}: exists already, with other rows than these", "Delete it, or name another.")
    write_atomic(out, text)
    print(f'Wrote {out}: {count:,} conversations. In a mixture: {{ task = "jsonl:{out}" }}')


def _generate_at(
    base_url: str,
    model: str,
    max_cost: float,
    prices: tuple[float, float],
    concurrency: int,
    who: "Identity",
    out: Path,
    count: int,
    kinds: str,
    seed: int,
) -> None:
    from lanbot.synthetic.identity import endpoint
    from lanbot.synthetic.identity.client import Client

    if not min(max_cost, *prices) >= 0:  # also of NaN
        raise UsageError("a negative cost or price", "--max-cost, --price-in and --price-out are 0 or more.")
    if concurrency < 1:
        raise UsageError(f"--concurrency {concurrency}: out of range", "It is 1 or more.")
    key = next((os.environ[name] for name in KEYS if os.environ.get(name)), "")
    client = Client(base_url, model, key, max_cost, prices, concurrency)
    names = [name.strip() for name in kinds.split(",") if name.strip()]
    if not names:
        raise UsageError("--kinds is empty", "Add --kinds identity, or leave it out.")
    made = endpoint.generate(who, out, count, names, client, seed)
    print("\n".join(f"{name}: {value}" for name, value in made.items()))


@app.command
def preview(recipe: str, *, count: int = 5, seed: int = 0) -> None:
    """Show some of the conversations that `generate` would write.

    Args:
        recipe: A recipe's file, or the name of a shipped one.
        count: How many.
    """
    from lanbot.config import recipe_file
    from lanbot.synthetic.identity import offline

    if count < 1:
        raise UsageError(f"--count {count}: out of range", "It is 1 or more.")
    who = recipe_file.load(recipe).identity
    _warn_of_unknown_languages(who)
    for number, conversation in enumerate(offline.conversations(who, count, seed), 1):
        print(f"{number}.\n{_shown(conversation, who.name)}\n")


@app.command
def validate(file: Path, *, recipe: str) -> None:
    """List the rows of a file that are not fit to train the bot of a recipe on. Exit code 1 if there are any.

    Args:
        file: A .jsonl or .jsonl.gz of conversations, in a layout that jsonl:FILE reads.
        recipe: A recipe's file, or the name of a shipped one.
    """
    from lanbot.config import recipe_file
    from lanbot.core.console import track
    from lanbot.synthetic.identity.checks import problems

    who = recipe_file.load(recipe).identity
    rows, bad, broken = 0, 0, []  # type: int, int, list[str]
    for place, row in track(jsonl.read_jsonl(file, broken), "checked", unit="rows"):
        rows += 1
        found = problems(_conversation(row), who, _kind(row))
        if found:
            bad += 1
            print(f"{place}: {'; '.join(found)}")
    for line in broken:
        print(line)
    if bad + len(broken):
        raise UserError(
            f"{file}: {bad + len(broken):,} of {rows + len(broken):,} rows are bad", "Correct them, or leave them out."
        )
    if not rows:
        raise UserError(f"{file}: no conversations", "Name a file with rows.")
    print(f"{file}: {rows:,} rows, all fit")


@app.command
def stats(file: Path) -> None:
    """Show how many conversations a file has, how long, how varied, and which two are most alike.

    Args:
        file: A .jsonl or .jsonl.gz of conversations, in a layout that jsonl:FILE reads.
    """
    from lanbot.chat import messages
    from lanbot.core.console import table
    from lanbot.synthetic.identity import variety

    places, rows = [], []  # type: list[str], list[Conversation]
    for place, row in jsonl.read_jsonl(file):
        places.append(place.removeprefix(f"{file}, "))
        rows.append(messages.validate(_conversation(row), place))
    if not rows:
        raise UserError(f"{file}: no conversations", "Name a file with rows.")
    found = variety.stats(rows)
    index, one, other = found["closest_pair"]
    shown = [
        ("conversations", f"{found['count']:,}"),
        ("turns", f"{found['turns']:,}"),
        ("words", f"{found['words']:,}"),
        ("words an answer", f"{found['words_per_answer']:.1f}"),
        *((f"different {n}-grams of words", f"{found[f'distinct_{n}']:.3f}") for n in (1, 2, 3, 4)),
        *((f"with {what}", f"{found[f'{key}_share']:.1%}") for what, key in SHARES.items()),
        ("closest pair (Jaccard)", f"{index:.2f}" + (f", {places[one]} and {places[other]}" if index else "")),
        ("answers begin with", ", ".join(f"{word} {times:,}" for word, times in found["first_words"])),
    ]
    print(table(shown, ("what", "is"), left=2))


SHARES = {"a system message": "system", "tools": "tools", "several turns": "multi_turn"}


def _warn_of_unknown_languages(who: "Identity") -> None:
    from lanbot.synthetic.identity import texts

    if unknown := texts.unknown_languages(who):
        print(f"No greetings are known in {', '.join(unknown)}: the bot answers them in English.")


def _conversation(row: Any) -> "Conversation":
    """A row of any layout that jsonl: reads; a bare list of messages is one too."""
    from lanbot.tasks.jsonl import converted

    row = converted(row)
    return {"messages": row} if isinstance(row, list) else row


def _kind(row: Any) -> str:
    """The kind that an endpoint's row has; all others are about who the bot is."""
    from lanbot.synthetic.identity.checks import CHECKS

    kind = row.get("kind") if isinstance(row, dict) else None
    return kind if isinstance(kind, str) and kind in CHECKS else "identity"


def _shown(conversation: "Conversation", name: str) -> str:
    """A line a message; a call is shown with its output."""
    from lanbot.chat.messages import parts
    from lanbot.core.console import visible

    who = {"user": "user", "assistant": name, "system": "system"}
    width = max(map(len, who.values()))
    marks = {"text": "{}", "python": "[{} ", "output": "→ {}] "}
    lines = []
    for message in conversation["messages"]:
        said = "".join(marks[part["type"]].format(part["text"]) for part in parts(message))
        lines.append(f"  {who[message['role']].rjust(width)}: {visible(said)}")
    return "\n".join(lines)
