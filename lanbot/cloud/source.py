"""Which files a job needs of the model that it begins from."""

import re

BEFORE = {"mid": "base", "sft": "mid", "rl": "sft", "agent_rl": "sft"}
"""The phase whose model one begins from, if nothing else is named."""
FOLDERS = {"base": "base", "mid": "mid", "sft": "chatsft", "rl": "chatrl", "agent_rl": "agentrl"}
"""nanochat's names of the phases, in NAME_checkpoints."""


def wanted(names: list[str], step: str) -> list[str]:
    """The files of a tree of nanochat, or of a run, that PHASE[/TAG][/STEP] needs: of the checkpoints only that one,
    the newest if no step is named; no optimizer of nanochat."""
    phase, *rest = step.replace(",", "").split("/")
    number = int(rest.pop()) if rest and rest[-1].isdecimal() else None
    if "recipe.toml" in names:
        pattern, tops = re.compile(rf"({re.escape(phase)})/()step_(\d+)/.+"), ("recipe.toml", f"{phase}/evals.json")
    else:
        tag = re.escape(rest[0]) if rest else "[^/]+"
        pattern = re.compile(rf"({FOLDERS.get(phase, phase)}_checkpoints)/({tag})/(?:model|meta)_(\d+)\.(?:pt|json)")
        tops = ("tokenizer/tokenizer.pkl", "tokenizer/token_bytes.pt")
    found = [(name, match[2], int(match[3])) for name in names if (match := pattern.fullmatch(name))]
    newest = {model: max(at for _, other, at in found if other == model) for _, model, _ in found}
    chosen = [name for name, model, at in found if at == (newest[model] if number is None else number)]
    return [name for name in tops if name in names] + chosen


def models(names: list[str]) -> list[str]:
    """The phases of which a tree of nanochat, or a run, has models; [] for a single model's folder."""
    if "recipe.toml" in names:
        found = {name.partition("/")[0] for name in names if re.fullmatch(r"[^/]+/step_\d+/.+", name)}
    else:
        tops = {name.partition("_checkpoints/")[0] for name in names if "_checkpoints/" in name}
        found = {phase for phase, folder in FOLDERS.items() if folder in tops}
    return [phase for phase in FOLDERS if phase in found]
