"""Objects from outside of LanBot, named as module:name in a recipe."""

import importlib
import sys
from typing import Any

from lanbot.core.errors import UserError


def load_object(name: str, kind: str) -> Any:
    """The object that "module:name" names; modules of the current folder count. Raises UserError.

    kind: what it should be, for the error.
    """
    module, _, attribute = name.partition(":")
    if "" not in sys.path:  # the lanbot command has its own folder there
        sys.path.append("")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{kind} {name!r}: {error}", f"Name a {kind} as module:name, importable from here.") from None
