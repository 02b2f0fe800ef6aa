import ast
from pathlib import Path

import pytest

import lanbot

PACKAGE = Path(lanbot.__file__).parent
ORDER = [
    *("cli", "export", "dashboard", "cloud", "web", "report", "phases", "evals", "agent", "inference", "tasks"),
    *("training", "distributed", "data", "synthetic", "chat", "models", "tools", "sandbox", "tokenizers", "config"),
    "core",
]
"""From the top down: a package imports only from packages below it."""
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def room(module: str) -> str:
    """lanbot.data.hub -> data; lanbot itself -> "" ."""
    return [*module.split("."), ""][1]


def imported(source: str, package: str) -> set[str]:
    """The modules of lanbot that a source imports, at the top, inside functions or for types; absolute names."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parent = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parent, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "lanbot"}


def violations(source: str, own: str, package: str) -> list[str]:
    allowed = [*ORDER[ORDER.index(own) + 1 :], own, "__version__"]
    return sorted(name for name in imported(source, package) if room(name) not in allowed)


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_room_imports_only_from_rooms_below_it(module: Path) -> None:
    own = module.parts[0].removesuffix(".py").replace("__main__", "cli")
    source = (PACKAGE / module).read_text()
    if own == "__init__":
        assert imported(source, "lanbot") == set()
        return
    assert own in ORDER, f"{own} has no place in the order yet: give it one here and in the design"
    assert violations(source, own, ".".join(["lanbot", *module.parts[:-1]])) == []


def test_every_room_that_there_is_was_looked_at() -> None:
    assert {"data/corpus.py", "cli/__init__.py", "phases/pipeline.py"} <= {str(module) for module in MODULES}


@pytest.mark.parametrize(
    "line",
    [
        "import lanbot.phases.base",
        "from lanbot import phases",
        "from lanbot.phases import base",
        "def f():\n    from lanbot.phases.base import train_base",
        "if TYPE_CHECKING:\n    from lanbot.phases.base import train_base",
        "from ..phases import base",
        "from .. import phases",
    ],
)
def test_an_import_from_above_is_seen_in_every_form(line: str) -> None:
    assert violations(line, "data", "lanbot.data")


def test_an_import_from_below_is_fine() -> None:
    source = "import os\nfrom lanbot.tokenizers import bpe\nfrom lanbot.chat.messages import chat\nfrom . import hub"
    assert violations(source, "data", "lanbot.data") == []


@pytest.mark.parametrize("module", [m for m in MODULES if m.parts[0] in ("evals", "agent", "inference")], ids=str)
def test_what_uses_a_model_does_not_import_training(module: Path) -> None:
    names = imported((PACKAGE / module).read_text(), ".".join(["lanbot", *module.parts[:-1]]))
    assert not [name for name in names if room(name) == "training"]
