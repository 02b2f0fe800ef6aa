"""What the hub reads of a model card: its front matter, with the scores as a model index."""

from typing import TYPE_CHECKING, Any

from lanbot.config.recipe import task_label
from lanbot.core.errors import UserError
from lanbot.export.datasets import of_corpus, of_phase, of_task
from lanbot.export.source import Source
from lanbot.report import trained
from lanbot.tasks.registry import find_task

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

TASK = "text-generation"


def front(source: Source, report: dict[str, Any] | None, to: str) -> str:
    """report: of the run up to the phase that is exported; None for a model's folder."""
    from huggingface_hub import ModelCardData

    licence = source.licence
    named = licence.id if licence else None
    own = licence if licence and licence.own else None
    data = [one for phase in trained(report) for one, _ in of_phase(report["recipe"].get(phase, {}))] if report else []
    hub = list(dict.fromkeys(one.hub for one in data if one.hub))
    scores = results(report, source.phase) if report else []
    card = ModelCardData(
        pipeline_tag=TASK,
        library_name="transformers" if to == "hf" else "gguf",
        license="other" if own else named,
        license_name=own.id if own else None,
        license_link=own.link if own else None,
        language="en" if data and all(one.english for one in data) else None,
        base_model=_base(source),
        datasets=hub or None,
        tags=["lanbot"],
        model_name=source.name if scores else None,
        eval_results=scores or None,
    )
    return f"---\n{card.to_yaml()}\n---"


def results(report: dict[str, Any], phase: str) -> list["EvalResult"]:
    """The scores after a phase, with n and standard error as the metric's args, and bits per byte."""
    from huggingface_hub import EvalResult

    found = []
    specs = {task_label(spec): spec for spec in report["recipe"]["evals"]["tasks"]}
    for task, by_phase in report["evals"].items():
        if one := by_phase.get(phase):
            spec = specs.get(task, task)
            data = of_task(spec).hub or task
            args = {name: one[name] for name in ("n", "stderr", "chance", "items") if name in one}
            of = {"dataset_split": "test", "metric_type": _metric(spec), "metric_value": one["score"]}
            found.append(EvalResult(TASK, data, task, metric_args=args, **of))
    figures = report["phases"].get(phase, {})
    if figures.get("val_bpb") is not None:
        text = of_corpus(report["recipe"]["base"]["data"])
        known = figures.get("bpb") or {}
        args = {name: known[name] for name in ("n", "stderr", "documents") if name in known}
        of = {"metric_type": "bits_per_byte", "metric_value": figures["val_bpb"], "metric_args": args or None}
        found.append(EvalResult(TASK, text.hub or text.name, "held-out text", **of))
    return found


def _metric(spec: str) -> str:
    try:
        return "pass@1" if find_task(spec)[0].runs_code else "accuracy"
    except UserError:
        return "accuracy"


def _base(source: Source) -> str | None:
    """The repository of the hub that the model goes back to, where there is one."""
    begun = [source.open_weights.get("source", "")]
    if source.run:
        begun += [source.run.read(phase, "imported.json").get("source", "") for phase in source.run.recipe.phase_names]
    hub = next((one for one in begun if one.startswith("hf:")), "")
    return "/".join(hub.removeprefix("hf:").partition("@")[0].split("/")[:2]) or None
