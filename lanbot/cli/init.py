"""lanbot init: write a recipe for a new bot."""

import os
import sys
from pathlib import Path

from lanbot.core.errors import UserError


def init(path: Path = Path("lanbot.toml"), *, name: str = "", creator: str = "", personality: str = "") -> None:
    """Ask for the bot's identity and write a recipe; its run is named after the file.

    Args:
        path: The recipe to write.
        name: The bot's name; default: asked for.
        creator: Who makes it; default: asked for.
        personality: Its manner, in a few words; default: asked for.
    """
    from lanbot.config import recipe_file
    from lanbot.config.recipe import Identity

    if path.exists():
        raise UserError(f"{path}: already exists", "Name another file, or delete it.")
    if not path.parent.is_dir():
        raise UserError(f"{path}: no such folder", "Make the folder first, or name another file.")
    default = Identity()
    name = name.strip() or _ask("Its name", default.name)
    creator = creator or _ask("Who makes it (your name)", os.environ.get("USER", ""))
    personality = personality or _ask("Its personality, in a few words", default.personality)
    folder = "".join(c if c.isalnum() or c in "-_" else "-" for c in path.stem.lower()).strip("-") or "bot"
    text = (recipe_file.SHIPPED / "demo.toml").read_text(encoding="utf-8")
    _, _, tail = text.partition('name = "demo"')
    identity = "".join(
        f"{key} = {recipe_file.toml_value(value)}\n"
        for key, value in {"name": name, "creator": creator, "personality": personality}.items()
    )
    before, _, rest = tail.partition("[identity]")
    after = rest[rest.index("\n[") :]
    shown = name if name.isprintable() else folder  # a comment cannot hold a line break
    path.write_text(
        f"# {shown}'s recipe, after the demo's.\n" + f'name = "{folder}"' + before + "[identity]\n" + identity + after,
        encoding="utf-8",
    )
    print(f"Wrote {path}. Next: lanbot run {path}, then lanbot chat {folder}")


def _ask(question: str, default: str) -> str:
    """The answer on the terminal, or the next line of piped input; the default where there is none."""
    try:
        return input(f"{question} [{default}]: " if sys.stdin.isatty() else "").strip() or default
    except (EOFError, OSError):
        return default
