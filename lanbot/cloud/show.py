"""A plan as tables and advice."""

import textwrap

from lanbot.cloud import speeds
from lanbot.cloud.gpus import REFERENCE
from lanbot.cloud.plan import DATA, EVALUATION, GRADING, ONE_CORE, PARTS, PRODUCTS, ROLLOUTS, START, PhasePlan, Plan
from lanbot.core.console import between, dollars, hours, table

MINUTE = 60
WIDE = 120
"""Columns from which time and cost stand in one table."""
Columns = dict[str, list[str]]


def shown(plan: Plan, columns: int) -> str:
    """The tables of a plan, in lines of at most 80 columns, or of 120 where the terminal has them."""
    share = f"{REFERENCE.utilisation:.0%}"
    expected = plan.gpus.gpu.utilisation
    head = f"{plan.recipe} on {plan.gpus} ({plan.gpus.gpu.name}) at ${plan.price:,.2f} an hour"
    blocks = [_times(plan, share), _costs(plan, share), _works(plan), _parts(plan)]
    if columns >= WIDE:
        blocks = [blocks[0] | blocks[1], blocks[2] | blocks[3]]
    lines = [head, *(f"\n{_table(plan, block)}" for block in blocks), ""]
    lines += _wrapped(
        f"{share}: the share of the GPUs' peak that the reference's base run implies: {REFERENCE.steps:,} steps of "
        f"{REFERENCE.batch_tokens:,} tokens in {hours(3_600 * REFERENCE.hours)} on eight H100s. Elsewhere "
        f"{expected.expected:.0%} is expected, {expected.low:.0%} to {expected.high:.0%} the range; only matrix "
        "products differ between the two.",
        columns,
    )
    for line in [*advice(plan), *plan.notes, "Not counted: renting and booting, installation, downloads."]:
        lines += _wrapped(line, columns)
    return "\n".join(lines)


def _times(plan: Plan, share: str) -> Columns:
    seconds = [phase.seconds for phase in plan.phases] + [plan.seconds]
    reference = [phase.reference_seconds for phase in plan.phases] + [plan.reference_seconds]
    return {
        "time": [hours(one.expected) for one in seconds],
        "range": [between(hours(one.low), hours(one.high)) for one in seconds],
        f"at {share}": [hours(one) for one in reference],
        "set by": [phase.set_by for phase in plan.phases] + [""],
    }


def _costs(plan: Plan, share: str) -> Columns:
    costs = [phase.dollars for phase in plan.phases] + [plan.dollars]
    reference = [phase.reference_seconds for phase in plan.phases] + [plan.reference_seconds]
    return {
        "cost": [dollars(one.expected) for one in costs],
        "cost range": [between(dollars(one.low), dollars(one.high)) for one in costs],
        f"cost at {share}": [dollars(one * plan.price / 3_600) for one in reference],
    }


def _works(plan: Plan) -> Columns:
    phases = plan.phases
    return {
        "tokens": [_count(phase.work.tokens) for phase in phases] + [_count(sum(p.work.tokens for p in phases))],
        "FLOPs": [_flops(phase.work.flops) for phase in phases] + [_flops(sum(p.work.flops for p in phases))],
        "memory a GPU": [_gigabytes(phase.memory) for phase in phases] + [""],
        "micro-batch": [_micro_batch(phase) for phase in phases] + [""],
    }


def _parts(plan: Plan) -> Columns:
    """The parts that any phase has, expected."""
    found = {}
    for part in PARTS:
        seconds = [phase.parts[part].expected for phase in plan.phases]
        if any(seconds):
            name = {DATA: "data wait", PRODUCTS: "products", EVALUATION: "evals", START: "start"}.get(part, part)
            found[name] = [hours(one) if one else "" for one in [*seconds, sum(seconds)]]
    return found


def _table(plan: Plan, columns: Columns) -> str:
    names = [phase.name for phase in plan.phases] + ["together"]
    rows = [[name, *(cells[i] for cells in columns.values())] for i, name in enumerate(names)]
    return table(rows if len(plan.phases) > 1 else rows[:1], ("phase", *columns))


def _micro_batch(phase: PhasePlan) -> str:
    if not phase.micro_batch:
        return ""
    return f"{phase.micro_batch:,} x {phase.work.sequence:,}" + ("" if phase.fits else " (does not fit)")


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.{int(count < 1e10)}f} GB" if count else ""


def _count(number: float) -> str:
    """11.2 B, 426 M."""
    for factor, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= factor:
            return f"{number / factor:.3g} {unit}"
    return f"{number:.0f}" if number else ""


def _flops(number: float) -> str:
    return f"{number:.1e}".replace("e+", "e") if number else ""


def advice(plan: Plan) -> list[str]:
    """What to change, for each phase whose time matrix products do not set, or that will not run as it is."""
    lines = [line for phase in plan.phases for line in (_problem(phase, plan), _advice(phase, plan)) if line]
    waits = sum(phase.parts[ONE_CORE].expected for phase in plan.phases)
    if waits > MINUTE:
        lines.insert(
            0,
            f"One core trains the tokenizer or searches for test items while the GPUs wait {hours(waits)} "
            f"({dollars(waits * plan.price / 3_600)}): lanbot prepare does both on a machine without GPUs.",
        )
    return lines


def _problem(phase: PhasePlan, plan: Plan) -> str:
    work, count = phase.work, plan.gpus.count
    if not phase.fits:
        return (
            f"{phase.name}: needs {phase.memory / 1e9:.0f} GB of a GPU's {plan.gpus.gpu.memory / 1e9:.0f} GB; take "
            "larger GPUs or more of them, or lower model.depth or the sequence."
        )
    if work.rows % count:
        return f"{phase.name}: {work.rows:,} rows a batch cannot be shared by {count} GPUs, and the run would refuse."
    return ""


def _advice(phase: PhasePlan, plan: Plan) -> str:
    cheaper = ""
    if phase.cheaper:
        count, time, amount = phase.cheaper
        cheaper = f" On {count}x{plan.gpus.kind} it takes {hours(time)} for {dollars(amount)}."
    if phase.set_by == DATA:
        return (
            f"{phase.name}: the GPUs wait for the loader: each rank runs its own over all data, so more GPUs do not "
            f"shorten it. The extra `fast` encodes text ten times faster.{cheaper}"
        )
    if phase.set_by == ROLLOUTS:
        answers = phase.work.rollouts
        number = sum(one.groups * one.group * one.times for one in answers)
        tokens = number * answers[0].limit * speeds.DECODED.expected
        rate = tokens / phase.parts[ROLLOUTS].expected / plan.gpus.count
        return (
            f"{phase.name}: {number:,} answers are decoded at {rate:,.0f} tokens/s a GPU at most: a step takes "
            f"nearly as long for few answers as for many.{cheaper}"
        )
    if phase.set_by == GRADING:
        return f"{phase.name}: programs are graded on the host's cores: more of them shorten it.{cheaper}"
    if phase.set_by == EVALUATION:
        return f"{phase.name}: lower evals.limit or evals.max_tokens, or evaluate elsewhere (lanbot eval).{cheaper}"
    return f"{phase.name}: hardly longer than it takes to start.{cheaper}" if phase.set_by == START and cheaper else ""


def _wrapped(text: str, columns: int) -> list[str]:
    return textwrap.wrap(text, min(columns, WIDE), subsequent_indent="  ", break_on_hyphens=False)
