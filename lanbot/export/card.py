"""The model card, README.md, and the licence's papers beside it."""

import shutil
from pathlib import Path
from typing import Any

from lanbot.core.console import table
from lanbot.core.errors import UserError
from lanbot.export.source import Source
from lanbot.models.licences import Licence
from lanbot.report import collect, evaluation_table
from lanbot.report.collect import trained
from lanbot.report.tables import bpb_note, count, greedy

FORMATS = {"hf": "transformers", "gguf": "llama.cpp", "ollama": "Ollama"}


def write(source: Source, out: Path, to: str, kind: str) -> None:
    """README.md, NOTICE where the licence asks for one, and the papers of the open weights."""
    for paper in source.papers:
        shutil.copyfile(paper, out / paper.name)
    licence = source.licence
    if licence and licence.notice and not any(paper.name.startswith("NOTICE") for paper in source.papers):
        (out / "NOTICE").write_text(f"{licence.notice}\n", encoding="utf-8")
    (out / "README.md").write_text(text(source, to, kind), encoding="utf-8")


def text(source: Source, to: str, kind: str) -> str:
    report = _up_to(collect(source.run), source.phase) if source.run else None
    sections = [_front(source, to), f"# {source.name}", _introduction(source, report, to, kind), _use(source, to)]
    if report:
        sections += [_training(report), _scores(report, source.phase)]
    return "\n\n".join(section for section in [*sections, _terms(source)] if section) + "\n"


def _up_to(report: dict[str, Any], phase: str) -> dict[str, Any]:
    """The report without the phases after this one."""
    known = list(report["phases"])
    kept = known[: known.index(phase) + 1]
    evals = {task: {p: one for p, one in of.items() if p in kept} for task, of in report["evals"].items()}
    return {
        **report,
        "phases": {name: report["phases"][name] for name in kept},
        "evals": {task: of for task, of in evals.items() if of},
    }


def check_name(source: Source, repository: str) -> None:
    """Raises UserError if a licence does not allow this name for the model; repository: OWNER/NAME."""
    prefix = source.licence.prefix if source.licence else ""
    name = repository.partition("/")[2]
    if prefix and not name.replace("-", " ").startswith(prefix):
        asked = f"the {source.licence.name} asks for a name that begins with {prefix}" if source.licence else ""
        owner = repository.partition("/")[0]
        raise UserError(f"{repository}: {asked}", f"Write --push hf:{owner}/{prefix.replace(' ', '-')}-{name}.")


def _front(source: Source, to: str) -> str:
    """What the hub reads."""
    lines = ["---", "pipeline_tag: text-generation", f"library_name: {'transformers' if to == 'hf' else 'gguf'}"]
    licence, origin = source.licence, source.open_weights.get("source", "")
    if licence:
        own = [f"license_name: {licence.id}", f"license_link: {licence.link}"]
        lines += [f"license: {'other' if licence.own else licence.id}", *(own if licence.own else [])]
    if origin.startswith("hf:"):
        lines.append(f"base_model: {origin.removeprefix('hf:').partition('@')[0]}")
    return "\n".join([*lines, "tags:", "- lanbot", "---"])


def _introduction(source: Source, report: dict[str, Any] | None, to: str, kind: str) -> str:
    config = source.config
    shape = f"{count(config.params())} parameters, {config.n_layers} layers, {config.dim:,} wide"
    tokens = f"{config.vocab_size:,} tokens, context {config.context:,}"
    who = f"{report['identity']}, a chat model" if report else "A chat model"
    by = f" by {report['creator']}" if report and report["creator"] else ""
    last = f" after its phase {source.phase}" if source.phase else ""
    built = f"\n\n**{source.licence.built_with}**" if source.licence and source.licence.built_with else ""
    with_lanbot = ", trained with LanBot" if report and trained(report) else ""
    what = f"{who}{by}{with_lanbot}: {shape}; {tokens}; architecture {config.family}."
    return f"{what} This is the model{last} in {kind}, for {FORMATS[to]}.{built}"


def _use(source: Source, to: str) -> str:
    if to == "ollama":
        return f"```\nollama create {source.name} -f Modelfile\nollama run {source.name}\n```"
    if to == "gguf":
        return f"```\nllama-server -m {source.name}-*.gguf --jinja\n```"
    lines = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        'tokenizer = AutoTokenizer.from_pretrained(".")',
        'model = AutoModelForCausalLM.from_pretrained(".", dtype="auto")',
        'messages = [{"role": "user", "content": "Who are you?"}]',
        "inputs = tokenizer.apply_chat_template(",
        '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True',
        ")",
        "answer = model.generate(**inputs, max_new_tokens=200)",
        'print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1] :]))',
    ]
    return "```python\n" + "\n".join(lines) + "\n```"


def _training(report: dict[str, Any]) -> str:
    """What it was trained on, phase by phase."""
    rows = []
    for phase, figures in report["phases"].items():
        origin = figures.get("imported") or {}
        if "source" in origin:  # not of the phases before it, which count as done
            rows.append((f"up to {phase}", f"begun from {_public(origin['source'])}", ""))
        elif "checkpoint" in figures:
            tokens = f"{figures['tokens']:,}" if figures["tokens"] is not None else ""
            rows.append((phase, _data(report["recipe"].get(phase, {})), tokens))
    shown = table([(p, d.replace("|", "\\|"), t) for p, d, t in rows], ("phase", "data", "tokens"), True, left=2)
    return f"## Training\n\n{shown}"


def _data(settings: dict[str, Any]) -> str:
    if "mixture" not in settings:
        return _public(str(settings.get("data", "")))
    return ", ".join(_part(part) for part in settings["mixture"])


def _public(where: str) -> str:
    """A source without the folders of this machine."""
    return Path(where).name if where.startswith(("/", "~", ".")) else where


def _part(part: dict[str, Any]) -> str:
    rows = f" ({part['rows']:,} rows)" if part.get("rows") else ""
    return f"{part['task']}{rows}"


def _scores(report: dict[str, Any], phase: str) -> str:
    if not report["evals"] or phase not in trained(report):
        return ""
    notes = " ".join([greedy(report), "n in brackets; ± is the standard error.", *bpb_note(report)])
    return f"## Scores\n\n{evaluation_table(report, md=True)}\n\n{notes}"


def _terms(source: Source) -> str:
    if not source.open_weights:
        return "## Licence\n\nTrained with LanBot from nothing: its licence is its maker's to choose."
    origin = _public(source.open_weights["source"])
    licence: Licence | None = source.licence
    if licence is None:
        return f"## Licence\n\nDerived from {origin}, whose licence is not stated: look there before you pass it on."
    link = f" ({licence.link})" if licence.link else ""
    stated = source.open_weights["licence"]
    said = f", although its card says {stated}" if stated and stated != licence.id else ""
    notice = f"\n\n{licence.notice}" if licence.notice else ""
    return f"## Licence\n\nDerived from {origin}, which is under the {licence.name}{link}{said}.{notice}"
