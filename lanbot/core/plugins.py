"""Objects from outside the package, named as module:Class."""

import importlib
import os
import sys
from typing import Any

from lanbot.core.errors import UserError


def load_object(name: str, key: str) -> Any:
    """The object that `module:Class` names; a module is looked for in the current folder too.

    key: what names it, for the message. Raises UserError.
    """
    module, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{key}: {name} cannot be imported: {error}", "Write it as module:Class.") from None
