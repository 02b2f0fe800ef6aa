"""The model families: one file each, found by model_type in config.json."""

import importlib
import pkgutil

from lanbot.models.families.base import SHAPE, Family

__all__ = ["FAMILIES", "SHAPE", "Family"]


def _found() -> dict[str, Family]:
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    families = [module.FAMILY for module in modules if hasattr(module, "FAMILY")]
    return {family.model_type: family for family in families}


FAMILIES = _found()
"""By model_type."""
