"""lanbot eval: score a run's model on tasks and benchmarks, or any other model on CORE."""

import json as json_library
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lanbot.cli.shared import Mirror, UnsafeExec, chosen_phase, make_options, open_run
from lanbot.core.errors import UsageError, UserError
from lanbot.core.files import write_atomic
from lanbot.core.options import Options

if TYPE_CHECKING:
    from lanbot.config.run import Run
    from lanbot.evals.lm_eval import Harness


def evaluate(
    run_or_model: str,
    *,
    phase: str | None = None,
    tasks: str = "",
    limit: int = 0,
    pass_k: str = "",
    samples: int = 16,
    temperature: float = 0.8,
    harness: Literal["lm-eval"] | None = None,
    json: bool = False,
    mirror: Mirror = None,
    unsafe_exec: UnsafeExec = False,
) -> None:
    """Score a run's model on tasks, or any Hugging Face causal model on CORE.

    Args:
        run_or_model: A run's name or folder; or a model's OWNER/NAME, or its folder.
        phase: base, mid, sft or rl; default: the latest.
        tasks: Names joined by commas, also core, chatcore and bpb (bits per byte). Default: the recipe's; core for a
            model.
        limit: Items of each task. Default: the recipe's; all for core and chatcore.
        pass_k: Values of k joined by commas: measure pass@k of sampled answers instead of one greedy answer.
        samples: Answers sampled for each item, for pass_k.
        temperature: Sampling temperature, for pass_k.
        harness: Let lm-eval score its own tasks of these names (default: arc_easy), to compare with published results.
        json: Print one JSON object.
    """
    options = make_options(mirror, unsafe_exec)
    if limit < 0:
        raise UsageError(f"--limit {limit}: out of range", "It is 1 or more.")
    names = tuple(dict.fromkeys(name.strip() for name in tasks.split(",") if name.strip()))
    if harness:
        if pass_k:
            raise UsageError("--pass-k: not with --harness", "Leave one of them out.")
        found = _ask_harness(run_or_model, phase, names or ("arc_easy",), limit or None, options)
        print(json_library.dumps(found.json()) if json else found)
        return
    if _is_model(run_or_model, options):
        if phase or pass_k or set(names) - {"core"}:
            raise UsageError(f"{run_or_model}: a model, not a run; it is scored on CORE", "Write --tasks core.")
        _score_model(run_or_model, limit or None, json, options)
        return
    made = open_run(run_or_model, options)
    chosen = chosen_phase(made, phase)
    from lanbot.distributed.runtime import Runtime
    from lanbot.phases import eval_command

    with Runtime.start() as runtime:
        asked = eval_command.PassAtK(_numbers(pass_k), samples, temperature) if pass_k else None
        result = eval_command.evaluate(made, chosen, names or made.recipe.evals.tasks, limit or None, runtime, asked)
        if runtime.main:
            if result.json.get("core", {}).get("core") is not None:
                keep_core(made, chosen, result.json["core"])
            whole = {"run": str(made.folder), "phase": chosen, **result.json}
            print(json_library.dumps(whole) if json else result.text)


def keep_core(run: "Run", phase: str, core: dict[str, Any]) -> None:
    """CORE of a phase's model, for the dashboard. Not worth an error where the folder cannot be written."""
    kept = {"checkpoint": run.checkpoint(phase), **{name: core[name] for name in ("core", "stderr", "limit")}}
    with suppress(UserError):
        write_atomic(run.phase(phase) / "core.json", json_library.dumps(kept) + "\n")


def _score_model(name: str, limit: int | None, json: bool, options: Options) -> None:
    _stay_offline(options)
    from lanbot.distributed.runtime import Runtime
    from lanbot.evals import core, score
    from lanbot.evals.hf_scorer import HFScorer

    with Runtime.start() as runtime:
        result = core.evaluate(HFScorer(name, runtime), limit, options=options, runtime=runtime)
        if runtime.main:
            found: dict[str, Any] = {"model": name, "core": result.json()}
            how = score.settings({"limit": limit, **result.settings})
            print(json_library.dumps(found) if json else f"{result.table()}\n{how}\n{result}")


def _ask_harness(
    run_or_model: str, phase: str | None, tasks: tuple[str, ...], limit: int | None, options: Options
) -> "Harness":
    _stay_offline(options)
    from lanbot.distributed.runtime import Runtime
    from lanbot.evals import lm_eval
    from lanbot.evals.scorer import ModelScorer
    from lanbot.phases import evaluation as phase_evaluation

    runtime = Runtime.start()
    name, seed, own = run_or_model, 0, None
    if not _is_model(run_or_model, options):
        made = open_run(run_or_model, options)
        folder, engine = phase_evaluation.open_engine(made, chosen_phase(made, phase), runtime)
        name, seed = str(folder), made.recipe.seed
        own = ModelScorer(engine.model, engine.chat_format, name)
    elif phase:
        raise UsageError(f"--phase {phase}: {run_or_model} is a model, not a run", "Leave --phase out.")
    return lm_eval.evaluate(name, tasks, limit, seed, runtime, own, options)


def _stay_offline(options: Options) -> None:
    """For the Hugging Face libraries, which read the variable when they are first imported."""
    if options.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"


def _is_model(name: str, options: Options) -> bool:
    """Whether this is a model's folder or the name of a model on the hub, and not a run."""
    folder = Path(name)
    if any((place / "recipe.toml").is_file() for place in (options.runs / name, folder)):
        return False
    if (folder / "config.json").is_file():
        return True
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", name)) and not folder.parent.is_dir()


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(",") if number.strip())
    except ValueError:
        raise UsageError(f"--pass-k {text}: not numbers", "Write --pass-k 1,8.") from None
