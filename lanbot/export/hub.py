"""Sending an export to the hub."""

from pathlib import Path

from lanbot.cloud.stores import StoreError, open_store
from lanbot.core.console import say, size
from lanbot.core.errors import UserError
from lanbot.export.card import check_name
from lanbot.export.source import Source


def check_target(source: Source, url: str) -> None:
    """Raises UserError if this is no repository, or its name is none that the model's licence allows."""
    if not url.startswith("hf:"):
        raise UserError(f"--push {url}: not a repository of the hub", "Write hf:OWNER/NAME.")
    open_store(url)
    check_name(source, url.removeprefix("hf:").partition("@")[0])


def push(folder: Path, url: str) -> None:
    """Sends the files in one commit and compares the size and digest of each with the hub's. Raises UserError."""
    from huggingface_hub.errors import HfHubHTTPError

    files = {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}
    amount = size(sum(path.stat().st_size for path in files.values()))
    say(f"sending {len(files)} files, {amount}, to {url}")
    try:
        open_store(url).push(dict(files))
    except (StoreError, HfHubHTTPError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        again = f"The export is in {folder}: log in (hf auth login) with a token that may write, and push again."
        raise UserError(f"{url}: not complete ({reason})", again) from None
    say(f"{url} has them all, compared by size and digest")
