"""What the user chose outside the recipe: where data comes from and goes, and what is allowed."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """Read once, by the CLI or a script, and passed down from there."""

    mirror: Path | None
    """The folder that answers for the hub; None: data comes from the hub."""
    offline: bool
    """Only files that are already in the cache are used."""
    cache: Path
    """Where downloads are kept."""
    runs: Path
    """Where runs are kept."""
    unsafe_exec: bool
    """Code that a model wrote is run even where no sandbox holds."""

    @classmethod
    def from_environment(cls, mirror: Path | None = None, unsafe_exec: bool = False) -> "Options":
        """LANBOT_MIRROR, LANBOT_OFFLINE or HF_HUB_OFFLINE, LANBOT_CACHE, LANBOT_RUNS and LANBOT_UNSAFE_EXEC, each with
        a default. The arguments, which are command-line flags, come first."""
        folder = os.environ.get("LANBOT_MIRROR")
        return cls(
            mirror=mirror or (Path(folder) if folder else None),
            offline=_is_set("LANBOT_OFFLINE") or _is_set("HF_HUB_OFFLINE"),
            cache=Path(os.environ.get("LANBOT_CACHE") or "~/.cache/lanbot").expanduser(),
            runs=Path(os.environ.get("LANBOT_RUNS") or "runs"),
            unsafe_exec=unsafe_exec or _is_set("LANBOT_UNSAFE_EXEC"),
        )


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").lower() not in ("", "0", "false", "no", "off")
