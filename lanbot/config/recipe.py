"""The recipe: one TOML file that says everything about a model. Parsed, checked, overridden, resolved, written."""

import dataclasses
import difflib
import math
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lanbot.config.scaling import PAIRS_VOCABULARY, Shape, pair_tokens, refining, scale, softmax_tokens
from lanbot.core.errors import UsageError, UserError

SHIPPED = Path(__file__).parent / "recipes"
PHASES = ("tokenizer", "base", "mid", "sft", "rl")
ALIASES = {"base.depth": "model.depth"}
"""Depth is the model's, but it is chosen where base training is: both spellings work on the command line."""


RATES = ("muon_lr", "embedding_lr", "head_lr", "norm_lr")


def _at_least_one(settings: Any, name: str) -> None:
    value = getattr(settings, name)
    _require(value is None or value >= 1, f"{name} = {value}; it must be 1 or more")


def _require(good: bool, problem: str) -> None:
    if not good:
        raise ValueError(problem)


@dataclass(frozen=True)
class Identity:
    """Who the bot is. The identity task teaches it."""

    name: str = "LanBot"
    creator: str = ""
    """Who made it; empty: the person who runs it."""
    year: int | None = None
    """When it was made."""
    description: str = ""
    """What it is, in a few words, after "I am": a small assistant for a school library."""
    personality: str = "friendly and to the point"
    """Its manner, in a few words."""
    quirks: tuple[str, ...] = ()
    """Small habits, each a whole sentence in the first person: I end long answers with a pun."""
    capabilities: tuple[str, ...] = ()
    """What it can do besides its tools, each after "I can": explain sums step by step."""
    limitations: tuple[str, ...] = ()
    """What it cannot do, each after "I cannot": see pictures."""
    facts: tuple[str, ...] = ()
    """What it knows of itself and its world, each a whole sentence in the first person."""
    greetings: tuple[str, ...] = ("English",)
    """The languages in which it greets whoever greets it so."""

    def __post_init__(self) -> None:
        _require(bool(self.name.strip()), "name is empty; a bot needs a name")


@dataclass(frozen=True)
class TokenizerSettings:
    vocab_size: int = 8_192
    """Ids, the 11 special tokens included."""
    max_chars: int = 100_000_000
    """How much of the base corpus trains it, in characters."""
    bare_words: bool = False
    """Cut a word alike with and without a space before it: longer texts, but a tiny model can copy names."""

    def __post_init__(self) -> None:
        _require(self.vocab_size >= 300, f"vocab_size = {self.vocab_size}; it must be 300 or more (256 are bytes)")
        _require(self.max_chars > 0, f"max_chars = {self.max_chars}; it must be positive")


@dataclass(frozen=True)
class ModelSettings:
    """depth is the dial. What is left out follows from it (scaling.py)."""

    depth: int = 4
    """Layers."""
    dim: int | None = None
    head_dim: int | None = None
    n_heads: int | None = None
    n_kv_heads: int | None = None
    mlp_dim: int | None = None
    context: int = 512
    """The longest conversation, in tokens."""
    rope_theta: float = 500_000.0
    tie_embeddings: bool = False

    def __post_init__(self) -> None:
        for name in ("depth", "dim", "head_dim", "n_heads", "n_kv_heads", "mlp_dim"):
            value = getattr(self, name)
            _require(value is None or value >= 1, f"{name} = {value}; it must be 1 or more")
        _require(self.context >= 32, f"context = {self.context}; it must be 32 or more")
        _require(not (self.head_dim or 2) % 2, f"head_dim = {self.head_dim}; it must be even")
        if self.n_heads and self.n_kv_heads:
            _require(
                self.n_heads % self.n_kv_heads == 0,
                f"n_heads = {self.n_heads} is not a multiple of n_kv_heads = {self.n_kv_heads}",
            )


@dataclass(frozen=True)
class Training:
    """What every phase that trains has. Rates are per step; fractions are of the phase."""

    micro_batch: int | None = None
    """Rows of one forward pass; chosen by the machine's memory if left out."""
    muon_lr: float | None = None
    embedding_lr: float | None = None
    head_lr: float | None = None
    norm_lr: float | None = None
    weight_decay: float = 0.0
    warmup: float = 0.02
    decay: float = 0.5
    """The fraction at the end over which the rates fall linearly to zero."""
    clip: float = 1.0
    """Gradients are scaled down to this norm."""
    fp8: bool = False
    """Train the layers' matrix products in 8 bits: for large models on Ada, Hopper or Blackwell GPUs."""
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        for name in ("micro_batch", "checkpoint_every"):
            _at_least_one(self, name)
        for name in (*RATES, "weight_decay"):
            value = getattr(self, name)
            _require(value is None or 0 <= value < math.inf, f"{name} = {value}; it must be 0 or more")
        for name in ("warmup", "decay"):
            value = getattr(self, name)
            _require(0 <= value <= 1, f"{name} = {value}; it is a fraction between 0 and 1")
        _require(self.clip > 0, f"clip = {self.clip}; it must be positive")


@dataclass(frozen=True)
class Base(Training):
    data: str = "builtin:world"
    """The corpus: hf:OWNER/NAME (or hf:OWNER/NAME/FOLDER, either with @REVISION behind it), a file, folder or glob
    (parquet, jsonl or json, plain or .gz or .zst, txt), or builtin:world."""
    data_column: str = ""
    """The column (in JSON the key) of the text; if left out, "text", or Text or content."""
    skip_bad_rows: bool = False
    """Leave broken rows of the corpus out, with a count, where otherwise the first one is an error."""
    tokens: int | None = None
    """How many tokens to train on; 20 for each matrix parameter if left out."""
    pair_tokens: int | None = None
    """Tokens of the corpus whose pairs embedding and head learn from before the first step; 0: none."""
    softmax_tokens: int | None = None
    """The most frequent tokens, which are in every step's softmax; the rarer are sampled. 0: all tokens, every step."""
    batch_tokens: int | None = None
    """Tokens a step."""
    sequence: int | None = None
    """Tokens a row; the model's context if left out."""
    eval_every: int = 100
    eval_tokens: int = 131_072

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(bool(self.data), "data is empty; name a corpus")
        for name in ("tokens", "batch_tokens", "sequence", "eval_every", "eval_tokens"):
            _at_least_one(self, name)
        for name in ("pair_tokens", "softmax_tokens"):
            value = getattr(self, name)
            _require((value or 0) >= 0, f"{name} = {value}; it must be 0 or more")


@dataclass(frozen=True)
class MixturePart:
    """A share of a mixture: `rows` conversations of a task (all of them if left out), gone over `epochs` times."""

    task: str = ""
    """A task's name, or jsonl:PATH for conversations of one's own."""
    rows: int | None = None
    epochs: int = 1
    skip_bad_rows: bool = False
    """Leave bad rows out, with a count, where otherwise the first one is an error."""

    def __post_init__(self) -> None:
        _require(bool(self.task), "task is missing; name one (lanbot data list)")
        _require(self.rows is None or self.rows >= 1, f"rows = {self.rows}; it must be 1 or more")
        _require(self.epochs >= 1, f"epochs = {self.epochs}; it must be 1 or more")


@dataclass(frozen=True)
class ChatTraining(Training):
    """Mid and SFT."""

    mixture: tuple[MixturePart, ...] = (MixturePart("identity", 1_000),)
    lr_scale: float = 1.0
    """The rates, as a fraction of base's."""
    batch_tokens: int | None = None
    """Tokens a step; base's if left out."""
    sequence: int | None = None
    """Tokens a row; the model's context if left out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(bool(self.mixture), "mixture is empty; give it at least one task")
        _require(self.lr_scale > 0, f"lr_scale = {self.lr_scale}; it must be positive")
        for name in ("batch_tokens", "sequence"):
            _at_least_one(self, name)


@dataclass(frozen=True)
class RL(Training):
    """Sampling is at temperature 1 from the whole vocabulary: anything else would not be on-policy."""

    mixture: tuple[MixturePart, ...] = (MixturePart("word_problems"),)
    lr_scale: float = 0.05
    """The rates, as a fraction of base's."""
    steps: int = 50
    prompts: int = 16
    """Questions a step."""
    group_size: int = 8
    """Answers sampled for each question."""
    max_tokens: int = 128
    eval_questions: int = 100
    """Questions asked for pass@1 and pass@8, before and after."""
    checkpoint_every: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(bool(self.mixture), "mixture is empty; give it at least one task")
        _require(self.lr_scale > 0, f"lr_scale = {self.lr_scale}; it must be positive")
        for name in ("steps", "prompts", "max_tokens", "eval_questions"):
            _at_least_one(self, name)
        _require(self.group_size >= 2, f"group_size = {self.group_size}; a group is 2 answers or more")


@dataclass(frozen=True)
class Evals:
    """What is measured after every phase, on held-out items."""

    tasks: tuple[str, ...] = ("identity", "word_problems", "simple_spelling:builtin", "spelling_bee:builtin")
    limit: int = 200
    """Items of each task."""
    base_limit: int = 50
    """The same after base, which cannot answer yet and takes longest for it."""
    max_tokens: int = 128
    drop_contaminated: bool = False
    """Leave out the items whose question is in the training data; they are counted in any case."""

    def __post_init__(self) -> None:
        names = [task.partition(":")[0] for task in self.tasks]
        _require(len(set(names)) == len(names), f"tasks = {list(self.tasks)}; one of them is there twice")
        for name in ("limit", "base_limit", "max_tokens"):
            _require(getattr(self, name) >= 1, f"{name} = {getattr(self, name)}; it must be 1 or more")


@dataclass(frozen=True)
class Agent:
    max_steps: int = 8
    """Tool calls for one task."""
    max_tokens: int = 256
    temperature: float = 0.0

    def __post_init__(self) -> None:
        for name in ("max_steps", "max_tokens"):
            _require(getattr(self, name) >= 1, f"{name} = {getattr(self, name)}; it must be 1 or more")
        _require(self.temperature >= 0, f"temperature = {self.temperature}; it must be 0 or more")


@dataclass(frozen=True)
class Recipe:
    name: str = "lanbot"
    """The run's folder."""
    seed: int = 0
    identity: Identity = field(default_factory=Identity)
    tokenizer: TokenizerSettings = field(default_factory=TokenizerSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    base: Base = field(default_factory=Base)
    mid: ChatTraining = field(default_factory=ChatTraining)
    sft: ChatTraining = field(default_factory=ChatTraining)
    rl: RL = field(default_factory=RL)
    evals: Evals = field(default_factory=Evals)
    agent: Agent = field(default_factory=Agent)

    def __post_init__(self) -> None:
        safe = self.name.replace("-", "").replace("_", "").replace(".", "")
        _require(
            safe.isalnum() and not self.name.startswith("."),
            f"name = {self.name!r}; it names a folder: letters, digits, '-', '_' and '.'",
        )
        _require(0 <= self.seed < 2**63, f"seed = {self.seed}; it must be 0 or more")

    def resolve(self) -> "Recipe":
        """The same recipe with everything that follows from the depth written out."""
        shape = scale(self.model.depth, self.tokenizer.vocab_size, self.model.dim)
        model = _fill(self.model, shape)
        dim, head_dim = model.dim or 0, model.head_dim or 1
        model = replace(model, n_heads=model.n_heads or max(1, dim // head_dim))
        model = replace(
            model,
            n_kv_heads=model.n_kv_heads or model.n_heads,
            mlp_dim=model.mlp_dim or max(64, round(8 * dim / 3 / 64) * 64),
        )
        _require((model.n_heads or 1) % (model.n_kv_heads or 1) == 0, "model.n_heads is no multiple of n_kv_heads")
        base = _fill(self.base, shape)
        mid, sft, rl = (_rates(base, settings) for settings in (self.mid, self.sft, self.rl))
        tokens, pairs = base.tokens or 0, base.pair_tokens
        if pairs is None:
            pairs = 0 if model.tie_embeddings else pair_tokens(self.tokenizer.vocab_size, tokens)
        _require(not (pairs and model.tie_embeddings), "base.pair_tokens needs an embedding that is not tied")
        _require(
            not pairs or self.tokenizer.vocab_size <= PAIRS_VOCABULARY,
            f"base.pair_tokens needs a tokenizer.vocab_size of {PAIRS_VOCABULARY:,} or less",
        )
        base = _fill(replace(self.base, pair_tokens=pairs), refining(shape, pairs, tokens))
        if base.softmax_tokens is None:
            batch_tokens = base.batch_tokens or 0
            base = replace(base, softmax_tokens=softmax_tokens(self.tokenizer.vocab_size, batch_tokens, pairs))
        base = replace(base, sequence=base.sequence or model.context)
        mid, sft = (
            replace(
                settings,
                batch_tokens=settings.batch_tokens or base.batch_tokens,
                sequence=settings.sequence or model.context,
            )
            for settings in (mid, sft)
        )
        for phase, training in {"base": base, "mid": mid, "sft": sft}.items():
            _require(
                training.sequence <= model.context,
                f"{phase}.sequence = {training.sequence} is longer than model.context = {model.context}",
            )
            _require(
                training.batch_tokens % training.sequence == 0,
                f"{phase}.batch_tokens = {training.batch_tokens} is not a multiple of "
                f"{phase}.sequence = {training.sequence}",
            )
        return replace(self, model=model, base=base, mid=mid, sft=sft, rl=rl)


def _rates(base: Base, settings: Any) -> Any:
    """A later phase's settings: a rate that is left out is base's times lr_scale."""
    missing = {name: getattr(base, name) * settings.lr_scale for name in RATES if getattr(settings, name) is None}
    return replace(settings, **missing)


def _fill(settings: Any, shape: Shape) -> Any:
    """`settings` with its missing values taken from `shape`, where that has them."""
    missing = {
        f.name: getattr(shape, f.name)
        for f in dataclasses.fields(settings)
        if getattr(settings, f.name) is None and hasattr(shape, f.name)
    }
    return replace(settings, **missing)


# -- reading -----------------------------------------------------------------------------------------------


def load(source: str | Path, overrides: Mapping[str, str] | None = None) -> Recipe:
    """The resolved recipe of a file, or of a shipped recipe's name, with command-line overrides applied.

    Raises UserError that names file, key and the nearest right name.
    """
    path = find(str(source))
    try:
        data = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a TOML file: {error}", "Mend the line that it names.") from None
    where = str(path)
    for key, value in (overrides or {}).items():
        key = ALIASES.get(key, key)
        section, _, name = key.rpartition(".")
        table = data.setdefault(section, {}) if section else data
        if not isinstance(table, dict):
            raise UserError(f"--{key}: {section} is not a section", "See lanbot/recipes for examples.")
        table[name] = _parse_override(Recipe, key, value)
    try:
        return _build(Recipe, data, where, "").resolve()
    except ValueError as error:
        raise UserError(f"{where}: {error}", "Mend the recipe, or override the key on the command line.") from None


def find(source: str) -> Path:
    """The recipe's file: a path, or the name of a shipped one."""
    if Path(source).is_file():
        return Path(source)
    shipped = SHIPPED / f"{source}.toml"
    if shipped.is_file() and Path(source).name == source:
        return shipped
    names = sorted(path.stem for path in SHIPPED.glob("*.toml"))
    raise UserError(
        f"{source}: no such recipe",
        f"Name a .toml file, or a shipped recipe: {', '.join(names)}.{_did_you_mean(source, names)}",
    )


def _did_you_mean(wrong: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(wrong, names, n=1)
    return f" Did you mean {near[0]}?" if near else ""


def _build(cls: type, data: Any, where: str, path: str) -> Any:
    """A dataclass from a parsed TOML table, every key and type checked. `path` is the keys so far."""
    if not isinstance(data, dict):
        raise UserError(f"{where}: {path} must be a section, not {data!r}", f"Write [{path}].")
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in data.items():
        full = f"{path}.{key}" if path else key
        if key not in hints:
            known = f"Keys here: {', '.join(hints)}."
            raise UserError(f"{where}: unknown key {full}.{_did_you_mean(key, list(hints))}", known)
        values[key] = _convert(hints[key], value, where, full)
    try:
        return cls(**values)
    except ValueError as error:
        raise UserError(f"{where}: {path + '.' if path else ''}{error}", "Mend the value.") from None


def _convert(kind: Any, value: Any, where: str, path: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _build(typing.cast(type, kind), value, where, path)
    if isinstance(kind, types.UnionType):  # X | None
        return _convert(typing.get_args(kind)[0], value, where, path)
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        if not isinstance(value, list | tuple):
            raise UserError(f"{where}: {path} must be a list, not {value!r}", "Write it in brackets: [...].")
        return tuple(_convert(item, x, where, f"{path}[{i}]") for i, x in enumerate(value))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise UserError(f"{where}: {path} must be {_a(kind)}, not {value!r}", "Mend the value.")
    return value


def _a(kind: type) -> str:
    return {int: "a whole number", float: "a number", str: "text in quotes", bool: "true or false"}[kind]


def _parse_override(cls: Any, key: str, text: str) -> Any:
    """The text of `--key text` as the type that the key has."""
    path = key.split(".")
    kind: Any = cls
    for i, name in enumerate(path):
        hints = typing.get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}
        if name not in hints:
            prefix = ".".join(path[:i]) + ("." if i else "")
            near = _did_you_mean(name, list(hints))
            raise UsageError(f"--{key}: unknown key {prefix}{name}.{near}", f"Keys here: {', '.join(hints)}.")
        kind = hints[name]
    if isinstance(kind, types.UnionType):
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) is tuple and typing.get_args(kind)[0] is str:
        return [item.strip() for item in text.split(",") if item.strip()]
    if kind is bool and text in ("true", "false"):
        return text == "true"
    try:
        if kind in (int, float, str):
            return kind(text)
    except ValueError:
        raise UsageError(f"--{key} must be {_a(kind)}, not {text!r}", "Mend the value.") from None
    raise UsageError(f"--{key} cannot be set to {text!r} on the command line", "Write it in the recipe's file.")


# -- writing -----------------------------------------------------------------------------------------------


def dump(recipe: Recipe) -> str:
    """TOML that `load` reads back to the same recipe. Keys that are None are left out."""
    lines: list[str] = []
    _dump_table(dataclasses.asdict(recipe), "", lines)
    return "\n".join(lines).lstrip("\n") + "\n"


def _dump_table(table: dict[str, Any], path: str, lines: list[str]) -> None:
    nested = {}
    for key, value in table.items():
        if isinstance(value, dict) or _is_tables(value):
            nested[key] = value
        elif value is not None:
            lines.append(f"{key} = {toml_value(value)}")
    for key, value in nested.items():
        full = f"{path}.{key}" if path else key
        for one in value if _is_tables(value) else [value]:
            lines.extend(["", f"[[{full}]]" if _is_tables(value) else f"[{full}]"])
            _dump_table(one, full, lines)


def _is_tables(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and isinstance(value[0], dict)


def toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    return repr(value)
