"""Where machines come from: one module for each kind of provider."""

from collections.abc import Sequence
from pathlib import Path

from lanbot.cloud.providers.base import Provider
from lanbot.core.errors import UsageError

NAMES = ("shadeform", "ssh", "sky")


def open_provider(name: str, key: str = "", hosts: Sequence[str] = (), folder: Path | None = None) -> Provider:
    """The provider of that name. key: of the account; hosts: for ssh; folder: where sky's task files are written."""
    if name == "shadeform":
        from lanbot.cloud.providers.shadeform import Shadeform

        return Shadeform(key)
    if name == "ssh":
        from lanbot.cloud.providers.ssh import SSH

        return SSH(tuple(hosts))
    if name == "sky":
        from lanbot.cloud.providers.sky import Sky

        return Sky(folder or Path())
    raise UsageError(f"--provider {name}: no such provider", f"Providers: {', '.join(NAMES)}.")
