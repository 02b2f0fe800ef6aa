"""What a recipe will take on rented GPUs, phase by phase: memory, time, dollars, and what sets the time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lanbot.cloud import speeds
from lanbot.cloud.gpus import REFERENCE, GPUs
from lanbot.cloud.ranges import NOTHING, Range, largest, total
from lanbot.cloud.work import Answers, Counter, Work
from lanbot.config.recipe import Recipe, Training
from lanbot.core.options import Options
from lanbot.models.config import ModelConfig

FILE = "plan.json"
"""Of a run's folder: the plan that its report is compared with."""
ONE_CORE, PRODUCTS, DATA, ROLLOUTS = "one core", "matrix products", "data", "rollouts"
GRADING, EVALUATION, START = "grading", "evaluation", "start-up"
PARTS = (ONE_CORE, PRODUCTS, DATA, ROLLOUTS, GRADING, EVALUATION, START)
"""What a phase's time is made of. `one core` trains the tokenizer or searches for contamination while the GPUs wait;
`data` is what they wait for the loader, which works beside them."""

AVERAGES = "Tokens of mixtures: the recipe's rows, average tokens of each task (lanbot data plan counts them)."


@dataclass(frozen=True)
class PhasePlan:
    """A phase on the chosen GPUs."""

    work: Work
    memory: int
    """Bytes of a GPU; 0: it uses none."""
    micro_batch: int
    """Rows of a forward pass."""
    fits: bool
    parts: dict[str, Range]
    """Seconds of each of PARTS."""
    loading: float
    """Expected seconds of a loader for all batches."""
    reference_products: float
    """Seconds of the matrix products at the reference's utilisation."""
    price: float
    """Dollars an hour."""
    cheaper: tuple[int, float, float] | None = None
    """A smaller number of the same GPUs on which it costs less than half: their number, seconds, dollars."""

    @property
    def name(self) -> str:
        return self.work.name

    @property
    def seconds(self) -> Range:
        return total(list(self.parts.values()))

    @property
    def dollars(self) -> Range:
        return self.seconds * (self.price / 3_600)

    @property
    def reference_seconds(self) -> float:
        """The same with the reference's utilisation in the matrix products. Its base run's hours had everything in
        them, so updates are not added again."""
        training = self.parts[PRODUCTS].expected + self.parts[DATA].expected
        return self.seconds.expected - training + max(self.reference_products, self.loading)

    @property
    def set_by(self) -> str:
        """What sets the time: the largest part, and of data and matrix products that which the other waits for."""
        sizes = {part: seconds.expected for part, seconds in self.parts.items()}
        training = DATA if sizes[DATA] else PRODUCTS
        sizes[training] = sizes[PRODUCTS] + sizes[DATA]
        return max(PARTS, key=lambda part: sizes[part])

    def json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "steps": self.work.steps,
            "tokens": self.work.tokens,
            "flops": self.work.flops,
            "memory_bytes": self.memory,
            "micro_batch": self.micro_batch,
            "fits": self.fits,
            "seconds": self.seconds.json(),
            "dollars": self.dollars.json(),
            "parts": {part: seconds.json() for part, seconds in self.parts.items() if seconds},
            "set_by": self.set_by,
            "reference": {
                "seconds": round(self.reference_seconds, 2),
                "dollars": round(self.reference_seconds * self.price / 3_600, 2),
            },
        }


@dataclass(frozen=True)
class Plan:
    """All phases asked for. price: dollars an hour of all GPUs."""

    recipe: str
    gpus: GPUs
    price: float
    phases: tuple[PhasePlan, ...]
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> Range:
        return total([phase.seconds for phase in self.phases])

    @property
    def dollars(self) -> Range:
        return total([phase.dollars for phase in self.phases])

    @property
    def reference_seconds(self) -> float:
        return sum(phase.reference_seconds for phase in self.phases)

    def json(self) -> dict[str, Any]:
        from lanbot.cloud.show import advice

        return {
            "recipe": self.recipe,
            "gpus": str(self.gpus),
            "price": self.price,
            "utilisation": {**self.gpus.gpu.utilisation.json(), "source": self.gpus.gpu.source},
            "reference_utilisation": round(REFERENCE.utilisation, 4),
            "phases": [phase.json() for phase in self.phases],
            "seconds": self.seconds.json(),
            "dollars": self.dollars.json(),
            "reference": {
                "seconds": round(self.reference_seconds, 2),
                "dollars": round(self.reference_seconds * self.price / 3_600, 2),
            },
            "advice": advice(self),
            "notes": list(self.notes),
        }

    def table(self, columns: int = 80) -> str:
        from lanbot.cloud.show import shown

        return shown(self, columns)


def cost(plan: Plan) -> float:
    """The expected dollars of the phases asked for."""
    return plan.dollars.expected


def plan(recipe: Recipe, options: Options, phases: str, gpus: GPUs, price: float) -> Plan:
    """The plan of a resolved recipe. phases: as `lanbot run --phase` takes them. Raises UsageError for an unknown one.

    Mixtures are counted if the run has its tokenizer and a mirror answers for the hub; otherwise their sizes are
    averages (averages.py).
    """
    from lanbot.phases.pipeline import choose
    from lanbot.tasks import contamination

    chosen = choose(recipe, phases)
    counter = Counter(recipe, ModelConfig.of_recipe(recipe), options, _format_at_hand(recipe, options))
    works = [counter.phase(phase) for phase in chosen]
    first = next((i for i, phase in enumerate(chosen) if phase.makes == "model"), None)
    if first is not None and not (options.runs / recipe.name / contamination.FILE).is_file():
        works[first] = replace(works[first], searched=counter.searched())
    planned = [_cheaper(on(work, recipe, counter.config, gpus, price), recipe, counter.config, gpus) for work in works]
    if counter.chat_format is None and any(work.chats for work in works):
        counter.notes[
            "Tokens of mixtures: the recipe's rows, average tokens of each task (lanbot data plan counts)."
        ] = None
    return Plan(recipe.name, gpus, price, tuple(planned), tuple(counter.notes))


def _format_at_hand(recipe: Recipe, options: Options) -> Any:
    """The chat format with the run's tokenizer, if data can be read without a download."""
    from lanbot.chat.formats import load_format

    folder = options.runs / recipe.name / "tokenizer"
    there = (folder / "tokenizer.json").is_file() and (options.mirror is not None or options.offline)
    return load_format(folder) if there else None


def on(work: Work, recipe: Recipe, config: ModelConfig, gpus: GPUs, price: float) -> PhasePlan:
    """A phase's work on these GPUs."""
    memory, micro_batch, fits = _memory(work, recipe, config, gpus)
    products = _products(work, gpus)
    loading = speeds.ENCODE.seconds_for(work.text) + speeds.RENDER.seconds_for(work.chats)
    parts = {
        ONE_CORE: speeds.TOKENIZER.seconds_for(work.chars) + speeds.SEARCH.seconds_for(work.searched),
        PRODUCTS: products,
        DATA: loading.beyond(products),
        ROLLOUTS: total([generating(answers, config, gpus) for answers in work.rollouts]),
        GRADING: speeds.GRADE * (work.programs / (gpus.count * speeds.CORES)),
        EVALUATION: _evaluation(work, config, gpus),
        START: speeds.START if work.steps else NOTHING,
    }
    reference = work.flops / (gpus.peak * REFERENCE.utilisation)
    return PhasePlan(work, memory, micro_batch, fits, parts, loading.expected, reference, price)


def _products(work: Work, gpus: GPUs) -> Range:
    return gpus.gpu.utilisation.seconds_for(work.flops / gpus.peak) + speeds.STEP * work.steps


def _evaluation(work: Work, config: ModelConfig, gpus: GPUs) -> Range:
    reading = gpus.gpu.utilisation.seconds_for(work.read_flops / gpus.peak)
    answering = total([generating(answers, config, gpus) for answers in work.answers])
    return reading + answering


def generating(answers: Answers, config: ModelConfig, gpus: GPUs) -> Range:
    """Seconds until all answers are generated. The GPUs share the groups, and each decodes its answers together, one
    token of each at a time, until the last one ends."""
    mine = math.ceil(answers.groups / gpus.count) * answers.group
    batches = math.ceil(mine / answers.together)
    rows, context = min(mine, answers.together), answers.prompt + answers.limit / 2
    decoding = decoded_token(rows, context, config, gpus) * (speeds.DECODED * answers.limit) * batches
    reading = gpus.gpu.utilisation.seconds_for(2 * config.matmul_params() * mine * answers.prompt / gpus.gpu.peak)
    return (decoding + reading) * answers.times


def decoded_token(rows: int, context: float, config: ModelConfig, gpus: GPUs) -> Range:
    """Seconds in which a GPU decodes a token of each of `rows` answers: the host's, and what the GPU needs to begin
    each of the step's kernels, or to read weights and cache in bf16, whichever is longer."""
    kernels = speeds.KERNEL * (speeds.OPERATIONS * config.n_layers)
    cached = 2 * config.n_layers * config.n_kv_heads * config.head_dim * context
    read = speeds.MEMORY.seconds_for(2 * (config.matmul_params() + rows * cached) / gpus.gpu.bandwidth)
    return speeds.ENGINE + speeds.ROW * rows + largest(kernels, read)


def _memory(work: Work, recipe: Recipe, config: ModelConfig, gpus: GPUs) -> tuple[int, int, bool]:
    """Bytes of a GPU, rows of a forward pass, and whether a row fits, by the rules of training/memory.py."""
    from lanbot.training import memory

    if not work.sequence:
        return 0, 0, True
    device, T = gpus.gpu.memory, work.sequence
    settings = getattr(recipe, work.name, None)
    method = memory.Method.of(settings) if isinstance(settings, Training) else memory.FULL
    held = memory.state_bytes(config, gpus.count, device, method)
    for answers in work.rollouts[:1]:  # the engine's cache
        rows = min(answers.together, math.ceil(answers.groups / gpus.count) * answers.group)
        cached = 4 * config.n_layers * config.n_kv_heads * config.head_dim * (answers.prompt + answers.limit)
        held += round(min(device / 4, rows * cached))
    room = device * memory.USABLE["cuda"] - held
    most = memory.MICRO_BATCH_TOKENS["cuda"] // T
    rows = work.rows or sum(answers.groups * answers.group for answers in work.rollouts[:1])
    most = min(most, math.ceil(rows / gpus.count))

    def need(rows: int) -> int:
        return memory.cuda_activation_bytes(config, rows, T, method=method)

    given = getattr(settings, "micro_batch", None)
    rows = given or memory.rows_that_fit(most, room, need)
    return held + need(rows), rows, need(rows) <= room


def _cheaper(planned: PhasePlan, recipe: Recipe, config: ModelConfig, gpus: GPUs) -> PhasePlan:
    """With the number of the same GPUs, at the same price each, on which the phase costs least, if that is less than
    half. Phases that matrix products set are left alone: there more GPUs cost no more."""
    if planned.set_by in (ONE_CORE, PRODUCTS) or gpus.count == 1:
        return planned
    found: Sequence[tuple[float, int, float]] = [
        (other.dollars.expected, count, other.seconds.expected)
        for count in (1, 2, 4)
        if count < gpus.count
        and (other := on(planned.work, recipe, config, replace(gpus, count=count), planned.price * count / gpus.count))
        and other.fits
    ]
    if not found or min(found)[0] > planned.dollars.expected / 2:
        return planned
    dollars, count, seconds = min(found)
    return replace(planned, cheaper=(count, seconds, dollars))
