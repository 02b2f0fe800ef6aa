"""The recipe: every setting of a run, in validated sections, and what follows from the depth."""

from dataclasses import fields, replace
from functools import cache
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from lanbot.config.agent import Agent
from lanbot.config.keys import CONFIG, Bool, Count, Fraction, Int, Natural, Number, Positive, key, require
from lanbot.config.log import Log
from lanbot.config.scaling import PAIRS_VOCABULARY, Shape, pair_tokens, refining, scale, softmax_tokens
from lanbot.core.errors import UserError, did_you_mean
from lanbot.core.plugins import load_object

PHASES = {
    "tokenizer": "lanbot.phases.tokenizer:TokenizerPhase",
    "base": "lanbot.phases.base:BasePhase",
    "mid": "lanbot.phases.chat:MidPhase",
    "sft": "lanbot.phases.chat:SFTPhase",
    "rl": "lanbot.phases.rl:RLPhase",
    "agent_rl": "lanbot.phases.rl:AgentRLPhase",
}
"""The built-in phases in their usual order, each with its class (imported only when the phase is used)."""
USUAL = ("tokenizer", "base", "mid", "sft", "rl")
"""The phases of a recipe that names none."""
EVAL_TASKS = ("identity", "word_problems", "simple_spelling:builtin", "spelling_bee:builtin")
TERMS = ("tool", "mark", "compiles", "defines", "long")
"""Of RL's reward, besides a right answer."""
CONTEXT, IMPORTED_CONTEXT = 512, 2_048
"""Tokens of the longest conversation, where the recipe leaves it out; of an imported model at most, whose own may be
131,072."""
RATES = ("muon_lr", "embedding_lr", "head_lr", "norm_lr")
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers of a block; a family without a gate lacks gate_proj."""


def task_label(spec: str) -> str:
    """The name of a task's scores: of `name` or `name:argument` the name, of `module:Class` both parts."""
    name, _, rest = spec.partition(":")
    attribute = rest.partition(":")[0]
    return f"{name}:{attribute}" if attribute.isidentifier() and attribute[0].isupper() else name


@dataclass(frozen=True, config=CONFIG)
class Identity:
    """Who the bot is. The identity task teaches it."""

    name: str = key("LanBot", "The bot's name.")
    creator: str = key("", "Who made it; empty: the person who runs it.")
    year: Int | None = key(None, "When it was made.")
    description: str = key("", 'What it is, in a few words, after "I am": a small assistant for a school library.')
    personality: str = key("friendly and to the point", "Its manner, in a few words.")
    quirks: tuple[str, ...] = key((), "Small habits, whole sentences in the first person: I end answers with a pun.")
    capabilities: tuple[str, ...] = key((), 'What it can do besides its tools, after "I can": explain sums in steps.')
    limitations: tuple[str, ...] = key((), 'What it cannot do, each after "I cannot": see pictures.')
    facts: tuple[str, ...] = key((), "What it knows about itself and its world, whole sentences in the first person.")
    greetings: tuple[str, ...] = key(("English",), "The languages in which it returns a greeting.")

    def __post_init__(self) -> None:
        require(bool(self.name.strip()), "name is empty; a bot needs a name")

    @property
    def system_message(self) -> str:
        """Who the bot is, where a conversation has no system message and the chat format puts one there."""
        what = f", {self.description}" if self.description else ""
        return f"You are {self.name}{what}, made by {self.creator}." if self.creator else f"You are {self.name}{what}."


@dataclass(frozen=True, config=CONFIG)
class TokenizerSettings:
    """The vocabulary; it is trained on the base corpus."""

    vocab_size: Int = key(8_192, "Number of token ids, the special tokens included; 256 of them are bytes.", ge=300)
    chat_format: str = key("lanbot", "How conversations become tokens: a format's name, or module:Class of your own.")
    max_chars: Count = key(100_000_000, "Characters of the base corpus to train on.")
    tool_tokens: Bool = key(False, "Add LanBot's tool tokens to a vocabulary of another chat format: shorter calls.")
    bare_words: Bool = key(False, "Split words alike with and without a leading space: tiny models then copy names.")


@dataclass(frozen=True, config=CONFIG)
class RopeScaling:
    """Rotary frequencies stretched as Llama 3's, for contexts longer than its first training had: those that turn
    less than low_freq_factor times in it by the factor, those of more than high_freq_factor turns not at all."""

    factor: Positive = key(..., "How many times longer.")
    low_freq_factor: Positive = key(..., "Turns below which all of the factor applies.")
    high_freq_factor: Positive = key(..., "Turns above which nothing of it applies.")
    original_context: Count = key(..., "Tokens of the first training's context.")

    def __post_init__(self) -> None:
        between = f"high_freq_factor = {self.high_freq_factor} is not above low_freq_factor = {self.low_freq_factor}"
        require(self.high_freq_factor > self.low_freq_factor, between)


@dataclass(frozen=True, config=CONFIG)
class ModelSettings:
    """Depth is the one dial. Whatever else is left out follows from it (scaling.py)."""

    depth: Count = key(4, "Number of layers.")
    init_from: str = key(
        "", "Where its weights come from: a folder, a run or hf:OWNER/NAME[@REVISION], then #PHASE/STEP."
    )
    family: str = key("qwen3", "Its architecture: qwen3, qwen2, llama or nanochat.")
    dim: Count | None = key(None, "Width of the residual stream.")
    head_dim: Int | None = key(None, "Width of an attention head.", ge=2, multiple_of=2)
    n_heads: Count | None = key(None, "Number of query heads.")
    n_kv_heads: Count | None = key(None, "Number of key and value heads; divides n_heads.")
    mlp_dim: Count | None = key(None, "Hidden width of the MLP.")
    context: Int | None = key(
        None, "The longest conversation, in tokens; 512 if left out, of an imported model its own up to 2,048.", ge=32
    )
    rope_theta: Positive = key(500_000.0, "Base of the rotary position frequencies.")
    rope_scaling: RopeScaling | None = key(None, "How they are stretched for a longer context; Llama 3's alone.")
    norm_eps: Positive = key(1e-6, "Added to the mean square in norms.")
    tie_embeddings: Bool = key(False, "Share one matrix between embedding and head.")

    def __post_init__(self) -> None:
        divides = not (self.n_heads and self.n_kv_heads and self.n_heads % self.n_kv_heads)
        require(divides, f"n_heads = {self.n_heads} is not a multiple of n_kv_heads = {self.n_kv_heads}")

    @property
    def longest(self) -> int:
        """The context, also before the recipe is resolved."""
        return self.context or CONTEXT


@dataclass(frozen=True, config=CONFIG)
class Training:
    """Settings of every phase that trains a model. Fractions are of the phase's length."""

    micro_batch: Count | None = key(None, "Rows of one forward pass; chosen to fit the memory if left out.")
    muon_lr: Number | None = key(None, "Learning rate of the layers' matrices.")
    embedding_lr: Number | None = key(None, "Learning rate of the embedding.")
    head_lr: Number | None = key(None, "Learning rate of the output head.")
    norm_lr: Number | None = key(None, "Learning rate of the norms.")
    weight_decay: Number = key(0.0, "Decoupled weight decay of the matrices.")
    warmup: Fraction = key(0.02, "The fraction at the start over which the rates rise linearly.")
    decay: Fraction = key(0.5, "The fraction at the end over which the rates fall linearly to zero.")
    clip: Positive = key(1.0, "Maximum global gradient norm.")
    fp8: Bool = key(False, "Run the layers' matrix products in 8 bits: for large models on Ada GPUs or newer.")
    activation_checkpointing: Bool = key(
        False, "Keep only each layer's input and compute the rest again: a quarter slower, for less memory."
    )
    checkpoint_every: Count = key(100, "Steps between checkpoints.")
    checkpoint_minutes: Number = key(15.0, "Minutes between checkpoints, if the steps take longer; 0: by steps only.")


@dataclass(frozen=True, config=CONFIG)
class Base(Training):
    """Base training, on raw text."""

    data: str = key(
        "builtin:world", "hf:OWNER/NAME[/FOLDER][@REVISION], a path or glob, or builtin:world.", min_length=1
    )
    data_column: str = key("", 'The column, in JSON the key, of the text; "text", Text or content if left out.')
    skip_bad_rows: Bool = key(False, "Skip and count broken rows of the corpus; otherwise the first one is an error.")
    tokens: Count | None = key(None, "How many tokens to train on; 20 for each matrix parameter if left out.")
    pair_tokens: Natural | None = key(None, "Tokens whose bigrams initialise embedding and head; 0: none.")
    softmax_tokens: Natural | None = key(None, "Frequent tokens in every softmax, others are sampled; 0: all tokens.")
    batch_tokens: Count | None = key(None, "Tokens a step.")
    sequence: Count | None = key(None, "Tokens a row; the model's context if left out.")
    eval_every: Count = key(100, "Steps between validations.")
    eval_tokens: Count = key(131_072, "Tokens of held-out text that a validation reads.")


@dataclass(frozen=True, config=CONFIG)
class MixturePart:
    """A share of a mixture: `rows` conversations of a task (all of them if left out), repeated for `epochs`."""

    task: str = key(..., "A task's name (lanbot data list), or jsonl:PATH for your own conversations.", min_length=1)
    rows: Count | None = key(None, "How many conversations to take.")
    epochs: Count = key(1, "How many times each is used.")
    skip_bad_rows: Bool = key(False, "Skip and count bad rows; otherwise the first one is an error.")
    weight: Positive | None = key(None, "For rl: its share of the questions, of the sum of all weights.")


Mixed = Annotated[tuple[MixturePart, ...], Field(min_length=1)]


@dataclass(frozen=True, config=CONFIG)
class FineTuning(Training):
    """What phases after base add: LoRA, where only small matrices beside the frozen ones are trained."""

    lora_rank: Natural = key(0, "Rank of LoRA's adapters; 0: all weights are trained.")
    lora_alpha: Positive = key(32.0, "What the adapters add is multiplied by lora_alpha / lora_rank.")
    lora_targets: tuple[str, ...] = key(LINEAR, "The layers that get adapters.", min_length=1)
    lora_layers: Natural = key(0, "How many of the last layers get them; 0: all. The backward pass ends there.")
    lora_embeddings: Bool = key(False, "Train embedding and head too, whole: tokens that were added need it.")
    lora_lr: Number | None = key(None, "Learning rate of the adapters.")
    interpolate: Fraction = key(1.0, "At the end: start + this * (trained - start). Forgets less where under 1.")

    def __post_init__(self) -> None:
        unknown = next((name for name in self.lora_targets if name not in LINEAR), "")
        require(not unknown, f"lora_targets: no layer {unknown!r}.{did_you_mean(unknown, LINEAR)} {', '.join(LINEAR)}")
        require(not (self.fp8 and self.lora_rank), "fp8 is for full training; set lora_rank = 0")


@dataclass(frozen=True, config=CONFIG)
class ChatTraining(FineTuning):
    """Midtraining and SFT, on conversations."""

    mixture: Mixed = key((MixturePart("identity", 1_000),), "The tasks to train on.")
    lr_scale: Positive = key(1.0, "The learning rates, as a fraction of base's.")
    eval_every: Natural = key(0, "Steps between validations on held-out rows of the mixture; 0: none in between.")
    eval_tokens: Count = key(32_768, "Tokens of held-out rows that a validation reads.")
    batch_tokens: Count | None = key(None, "Tokens a step; base's if left out.")
    sequence: Count | None = key(None, "Tokens a row; the model's context if left out.")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(all(part.weight is None for part in self.mixture), "mixture: weight is for rl; set rows and epochs")


@dataclass(frozen=True, config=CONFIG)
class RL(FineTuning):
    """Sampling is at temperature 1 from the whole vocabulary: anything else would not be on-policy.

    A right answer is worth 1. The terms may add to that or subtract from it; tool and mark are for tasks answered in
    words, compiles and defines for those answered by a program.
    """

    mixture: Mixed = key((MixturePart("word_problems"),), "The tasks whose checkers give the reward.")
    lr_scale: Positive = key(0.05, "The learning rates, as a fraction of base's.")
    steps: Count = key(50, "How many updates.")
    prompts: Count = key(16, "Questions a step.")
    group_size: Int = key(8, "Answers sampled for each question.", ge=2)
    max_tokens: Count = key(128, "The longest answer, in tokens.")
    refill: Natural = key(0, "How often a step asks further questions for groups whose rewards were all equal.")
    eval_questions: Count = key(100, "Questions for pass@1 and pass@8, before and after.")
    pass_every: Natural = key(0, "Steps between measurements of pass@1 and pass@8; 0: only before and after.")
    checkpoint_every: Count = key(10, "Steps between checkpoints.")
    ppo_epochs: Count = key(1, "Updates from each step's answers; with more than one, clip_range counts.")
    clip_range: Positive = key(0.2, "How far a token's probability may move from the sampler's: PPO's epsilon.")
    kl: Number = key(0.0, "Weight of the KL divergence from the model that the phase starts from.")
    divide_by_std: Bool = key(False, "Divide advantages by the standard deviation of their group's rewards.")
    cosine: Bool = key(False, "Let the rates fall along a cosine, not a line.")
    tool: Number = key(0.0, "Term of the reward: a tool was called, without an error.")
    mark: Number = key(0.0, "Term: a number after the answer's mark, ####.")
    compiles: Number = key(0.0, "Term: the program compiles.")
    defines: Number = key(0.0, "Term: the program defines a function.")
    long: Number = key(0.0, "Term, subtracted: the answer has more than long_words words.")
    long_words: Count = key(400, "The words above which an answer is long.")

    def __post_init__(self) -> None:
        super().__post_init__()
        weighted = sum(part.weight is not None for part in self.mixture)
        require(weighted in (0, len(self.mixture)), "mixture: give every part a weight, or none")

    @property
    def terms(self) -> tuple[str, ...]:
        """Those of the reward that count."""
        return tuple(name for name in TERMS if getattr(self, name))


@dataclass(frozen=True, config=CONFIG)
class Evals:
    """What is measured after every phase, on held-out items."""

    tasks: tuple[str, ...] = key(EVAL_TASKS, "The tasks to evaluate on.")
    limit: Count = key(200, "Items of each task.")
    base_limit: Count = key(50, "Items of each task after base, which cannot answer yet and is slowest to evaluate.")
    max_tokens: Count = key(128, "The longest answer, in tokens.")
    drop_contaminated: Bool = key(False, "Leave out items whose question is in the training data.")

    def __post_init__(self) -> None:
        names = [task_label(task) for task in self.tasks]
        require(len(set(names)) == len(names), f"tasks = {list(self.tasks)}; one of them is there twice")


@dataclass(frozen=True, config=CONFIG)
class Recipe:
    """All settings of a run. Phases from outside have sections too: see recipe_class."""

    name: str = key("lanbot", "The run's folder.")
    seed: Int = key(0, "Seed of the weights, the order of data, and sampling.", ge=0, lt=2**63)
    phases: tuple[str, ...] = key(USUAL, "In their order: built-in ones, or module:Class.", min_length=1)
    identity: Identity = key(Identity(), "Who the bot is.")
    tokenizer: TokenizerSettings = key(TokenizerSettings(), "The tokenizer phase.")
    model: ModelSettings = key(ModelSettings(), "The model's shape.")
    base: Base = key(Base(), "The base phase.")
    mid: ChatTraining = key(ChatTraining(), "The mid phase.")
    sft: ChatTraining = key(ChatTraining(), "The sft phase.")
    rl: RL = key(RL(), "The rl phase.")
    evals: Evals = key(Evals(), "Evaluation after each phase.")
    agent: Agent = key(Agent(), "Limits of the agent.")
    log: Log = key(Log(), "Other software that shows the run.")

    def __post_init__(self) -> None:
        safe = self.name.replace("-", "").replace("_", "").replace(".", "")
        require(
            safe.isalnum() and not self.name.startswith(".") and len(self.name) <= 100,
            f"name = {self.name!r:.60}; it names a folder: at most 100 letters, digits, '-', '_' and '.'",
        )

    def __reduce__(self) -> Any:
        """Pickled by its values: the class of a recipe with sections from outside is made when it is loaded."""
        return _remake, (self.phases, {f.name: getattr(self, f.name) for f in fields(self)})

    @property
    def phase_names(self) -> tuple[str, ...]:
        """The phases by name, each also the name of its section and its folder."""
        return tuple(phase if phase in PHASES else load_object(phase, "phases").name for phase in self.phases)

    def resolve(self) -> "Recipe":
        """The same recipe with everything that follows from the depth written out."""
        shape = scale(self.model.depth, self.tokenizer.vocab_size, self.model.dim)
        model = _fill(self.model, shape)
        dim, head_dim = model.dim or 0, model.head_dim or 1
        heads = model.n_heads or max(1, dim // head_dim)
        mlp_dim = model.mlp_dim or max(64, round(8 * dim / 3 / 64) * 64)
        context = model.longest
        model = replace(model, n_heads=heads, n_kv_heads=model.n_kv_heads or heads, mlp_dim=mlp_dim, context=context)
        unscaled = _fill(self.base, shape)
        base = self._resolve_base(shape, unscaled.tokens or 0)
        resolved = replace(self, model=model, base=base)
        sections: dict[str, Any] = {}
        for name, settings in vars(resolved).items():
            if isinstance(settings, Training):
                rates = {rate: getattr(unscaled, rate) for rate in RATES if getattr(settings, rate) is None}
                if isinstance(settings, FineTuning) and settings.lora_lr is None:
                    rates["lora_lr"] = shape.lora_lr
                scale_by = getattr(settings, "lr_scale", 1.0)
                sections[name] = replace(settings, **{rate: value * scale_by for rate, value in rates.items()})
        self._require_learned_tokens()
        for name, settings in sections.items():
            if hasattr(settings, "sequence"):
                sequence: int = settings.sequence or context
                batch: int = settings.batch_tokens or base.batch_tokens or 0
                sections[name] = replace(settings, sequence=sequence, batch_tokens=batch)
                if name in self.phase_names:
                    longer = f"{name}.sequence = {sequence} is longer than model.context = {context}"
                    require(sequence <= context, longer)
                    uneven = f"{name}.batch_tokens = {batch} is not a multiple of {name}.sequence = {sequence}"
                    require(batch % sequence == 0, uneven)
        return replace(resolved, **sections)

    def _require_learned_tokens(self) -> None:
        """Tokens that were added begin alike; while embedding and head are frozen, no phase tells them apart."""
        name = next((name for name in self.phase_names if isinstance(getattr(self, name, None), FineTuning)), "")
        if self.tokenizer.tool_tokens and name:
            first = getattr(self, name)
            learned = not first.lora_rank or first.lora_embeddings
            require(learned, f"{name}.lora_rank with tokenizer.tool_tokens needs {name}.lora_embeddings = true")

    def _resolve_base(self, shape: Shape, tokens: int) -> Base:
        base, vocab_size, tied = self.base, self.tokenizer.vocab_size, self.model.tie_embeddings
        pairs = base.pair_tokens
        if pairs is None:
            pairs = 0 if tied else pair_tokens(vocab_size, tokens)
        require(not (pairs and tied), "base.pair_tokens needs an embedding that is not tied")
        limit = f"base.pair_tokens needs a tokenizer.vocab_size of {PAIRS_VOCABULARY:,} or less"
        require(not pairs or vocab_size <= PAIRS_VOCABULARY, limit)
        base = _fill(replace(base, pair_tokens=pairs), refining(shape, pairs, tokens))
        if base.softmax_tokens is None:
            base = replace(base, softmax_tokens=softmax_tokens(vocab_size, base.batch_tokens or 0, pairs))
        return base


def _fill(settings: Any, shape: Shape) -> Any:
    """`settings` with missing values taken from `shape`, where it has them."""
    names = [f.name for f in fields(settings) if getattr(settings, f.name) is None and hasattr(shape, f.name)]
    return replace(settings, **{name: getattr(shape, name) for name in names})


def _remake(phases: tuple[str, ...], values: dict[str, Any]) -> Recipe:
    return recipe_class(phases)(**values)


OPTIONAL = {"agent_rl": RL}
"""Sections of the built-in phases that a recipe has only if its `phases` name them."""


@cache
def recipe_class(phases: tuple[str, ...]) -> type[Recipe]:
    """Recipe, with a section for each phase that is optional or from outside. Raises UserError for a phase that cannot
    be imported."""
    for phase in phases:
        if phase not in PHASES and ":" not in phase:
            remedy = f"Phases: {', '.join(PHASES)}; module:Class for your own."
            raise UserError(f"phases: no phase {phase!r}.{did_you_mean(phase, PHASES)}", remedy)
    outside = [load_object(phase, "phases") for phase in phases if ":" in phase]
    types = {name: OPTIONAL[name] for name in phases if name in OPTIONAL}
    types |= {phase.name: phase.Settings for phase in outside}
    if not types:
        return Recipe
    sections: dict[str, Any] = {name: key(settings(), f"The {name} phase.") for name, settings in types.items()}
    made: Any = dataclass(frozen=True, config=CONFIG)(type("Recipe", (Recipe,), {"__annotations__": types, **sections}))
    return made
