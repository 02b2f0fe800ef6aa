"""lanbot run and lanbot prepare: make a recipe's run."""

from lanbot.cli.shared import Mirror, Overrides, UnsafeExec, make_options, parse_overrides


def run(
    recipe: str, *overrides: Overrides, phase: str = "all", mirror: Mirror = None, unsafe_exec: UnsafeExec = False
) -> None:
    """Run a recipe: all phases or some of them. A run that was stopped resumes where it was.

    Args:
        recipe: A recipe's file, or the name of a shipped one: smoke, demo, laptop, d20.
        phase: all, or phases joined by +, such as base or mid+sft.
    """
    from lanbot.config import recipe_file

    options = make_options(mirror, unsafe_exec)
    loaded = recipe_file.load(recipe, parse_overrides(overrides))
    from lanbot import report
    from lanbot.config.run import Run
    from lanbot.distributed.runtime import Runtime
    from lanbot.phases import pipeline
    from lanbot.phases.preflight import preflight

    phases = pipeline.choose(loaded, phase)
    with Runtime.start() as runtime:
        made = Run(options.runs / loaded.name, loaded, options)
        preflight(made, phases, runtime)
        if runtime.main:
            pipeline.create(loaded, options)
        runtime.barrier()
        pipeline.execute(made, phases, runtime)
        if runtime.main and made.last_model():
            print(report.closing(made, report.write(made)))


def prepare(recipe: str, *overrides: Overrides, mirror: Mirror = None) -> None:
    """Do beforehand, without a GPU, what would keep GPUs waiting: the tokenizer, the search for contamination.

    `lanbot run` of the same recipe uses the results. Data that is missing or broken is reported here too.

    Args:
        recipe: A recipe's file, or the name of a shipped one.
    """
    from lanbot.config import recipe_file

    options = make_options(mirror)
    loaded = recipe_file.load(recipe, parse_overrides(overrides))
    import torch

    from lanbot.distributed.runtime import Runtime
    from lanbot.phases.preflight import prepare

    prepare(loaded, options, Runtime.single(torch.device("cpu")))
