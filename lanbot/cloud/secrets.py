"""Keys and settings from the environment or a .env file. Their values are never printed or written."""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

KEYS = ("SHADEFORM_API_KEY", "HF_TOKEN", "WANDB_API_KEY")
"""The first is of the launching machine alone: who has it can rent and delete machines."""
AWS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
SETTINGS = ("LANBOT_STORE", "LANBOT_SOURCE", "LANBOT_PACKAGE", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION")
"""Not secret."""
LINE = re.compile(
    r"""(?:export\s+)?([A-Za-z_]\w*)\s*=\s*(?:"([^"]*)"|'([^']*)'|((?<==)\#\S*|(?!\#)\S*))(?:\s+\#.*|\s*)"""
)
"""A comment stands after a space: hf:OWNER/NAME#mid has none."""


class Secrets:
    """Values by name. The environment comes first, then ./.env, then the .env beside the scripts or above them."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = {name: value for name, value in values.items() if value}

    @classmethod
    def read(cls, folders: Iterable[Path] | None = None) -> "Secrets":
        checkout = Path(__file__).parents[2]
        found: dict[str, str] = {}
        for folder in folders or (checkout, checkout / "scripts", Path()):
            found |= _read_dotenv(folder / ".env")
        found |= {name: value for name, value in os.environ.items() if value}
        return cls({name: found.get(name, "") for name in (*KEYS, *AWS, *SETTINGS)})

    def get(self, name: str) -> str:
        return self._values.get(name, "")

    def for_node(self, *places: str) -> dict[str, str]:
        """What a rented machine gets: the tokens for these stores and sources, and for tracking; never the account's
        key, nor a token for a kind of place that it does not use."""
        kinds = {place.partition(":")[0] for place in places}
        names = ["WANDB_API_KEY"]
        if kinds & {"hf", "hf-bucket"}:
            names.append("HF_TOKEN")
        if "s3" in kinds:
            names += [*AWS, "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"]
        return {name: self._values[name] for name in names if name in self._values}

    def redact(self, text: str) -> str:
        """The text without any secret value."""
        for name, value in self._values.items():
            if name not in SETTINGS:
                text = text.replace(value, "***")
        return text

    def __repr__(self) -> str:
        return f"Secrets({', '.join(sorted(self._values))})"


def _read_dotenv(path: Path) -> dict[str, str]:
    """NAME=value lines, with or without export and quotes; other lines are skipped."""
    if not path.is_file():
        return {}
    matches = map(LINE.fullmatch, map(str.strip, path.read_text(encoding="utf-8-sig", errors="replace").splitlines()))
    return {match[1]: next((v for v in match.groups()[1:] if v is not None), "") for match in matches if match}
