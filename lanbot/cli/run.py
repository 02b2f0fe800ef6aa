"""lanbot run and lanbot prepare."""

from dataclasses import replace
from typing import Annotated

from cyclopts import Parameter

from lanbot.cli.shared import Mirror, Overrides, UnsafeExec, load_recipe, make_options


def run(
    recipe: str,
    *overrides: Overrides,
    phase: str = "all",
    fit: Annotated[bool, Parameter(negative="")] = False,
    mirror: Mirror = None,
    unsafe_exec: UnsafeExec = False,
) -> None:
    """Run all phases of a recipe, or some of them. A stopped run resumes.

    Args:
        recipe: A recipe's file, or the name of a shipped one: smoke, demo, open-weights, laptop, d20.
        phase: all, or phases joined by +: base, mid+sft.
        fit: Train in a way that fits this device (activation checkpointing, LoRA), and print the sum.
    """
    options = make_options(mirror, unsafe_exec)
    loaded = load_recipe(recipe, overrides, options)
    from lanbot import report
    from lanbot.config.run import Run
    from lanbot.distributed.runtime import Runtime
    from lanbot.phases import imported, pipeline
    from lanbot.phases.fitted import fitted
    from lanbot.phases.preflight import preflight

    phases = pipeline.choose(loaded, phase)
    with Runtime.start() as runtime:
        if loaded.model.init_from:
            runtime.on_main(imported.make, loaded, options)
        made = Run(options.runs / loaded.name, loaded, options)
        if fit:
            loaded = runtime.on_main(fitted, made, phases, runtime)
            made = replace(made, recipe=loaded)
        preflight(made, phases, runtime)
        if runtime.main:
            pipeline.create(loaded, options)
        runtime.barrier()
        pipeline.execute(made, phases, runtime)
        if runtime.main and made.last_model():
            print(report.closing(made, report.write(made)))


def prepare(recipe: str, *overrides: Overrides, mirror: Mirror = None) -> None:
    """Train the tokenizer and search for contamination on the CPU, so that GPUs need not wait for them.

    `lanbot run` of the same recipe uses the results. Missing or broken data is reported here too.

    Args:
        recipe: A recipe's file, or the name of a shipped one.
    """
    options = make_options(mirror)
    loaded = load_recipe(recipe, overrides, options)
    import torch

    from lanbot.distributed.runtime import Runtime
    from lanbot.phases import imported
    from lanbot.phases.preflight import prepare

    if loaded.model.init_from:
        imported.make(loaded, options)
    prepare(loaded, options, Runtime.single(torch.device("cpu")))
