"""The model card, README.md, and the licence files beside it."""

import shutil
from pathlib import Path
from typing import Any

from lanbot.core.console import table
from lanbot.core.errors import UserError
from lanbot.export import gguf
from lanbot.export.datasets import GENERATED, Data, of_phase, public
from lanbot.export.front import front
from lanbot.export.source import Source
from lanbot.models.licences import Licence
from lanbot.report import collect, evaluation_table, trained
from lanbot.report.tables import (
    CONTAMINATION,
    TRAINING,
    bpb_note,
    contamination_note,
    contamination_rows,
    count,
    greedy,
    pass_table,
    training_rows,
)

FORMATS = {"hf": "transformers", "gguf": "llama.cpp", "ollama": "Ollama"}
MEASURED = "Measured in LanBot on the checkpoint, before it was converted to this format."


def write(source: Source, out: Path, to: str, kind: str) -> None:
    """README.md, NOTICE where the licence asks for one, and the licence files of the open weights."""
    for paper in source.papers:
        shutil.copyfile(paper, out / paper.name)
    licence = source.licence
    if licence and licence.notice and not any(paper.name.startswith("NOTICE") for paper in source.papers):
        (out / "NOTICE").write_text(f"{licence.notice}\n", encoding="utf-8")
    (out / "README.md").write_text(text(source, to, kind), encoding="utf-8")


def text(source: Source, to: str, kind: str) -> str:
    report = _up_to(collect(source.run), source.phase) if source.run else None
    sections = [
        front(source, report, to),
        f"# {source.name}",
        _introduction(source, report, to, kind),
        _use(source, to, kind),
    ]
    if report:
        sections += [_training(report), _scores(report, source.phase)]
    sections += [_limits(source, report), _terms(source), _licences(report) if report else ""]
    return "\n\n".join(section for section in sections if section) + "\n"


def _up_to(report: dict[str, Any], phase: str) -> dict[str, Any]:
    """The report without the phases after this one."""
    known, last = list(report["phases"]), trained(report)[-1:] == [phase]
    kept = known[: known.index(phase) + 1]
    evals = {task: {p: one for p, one in of.items() if p in kept} for task, of in report["evals"].items()}
    return {
        **report,
        "phases": {name: report["phases"][name] for name in kept},
        "evals": {task: of for task, of in evals.items() if of},
        "pass": report["pass"] if last else {},
        "tokens": sum(report["phases"][name]["tokens"] or 0 for name in kept if name in trained(report)),
    }


def check_name(source: Source, repository: str) -> None:
    """Raises UserError if a licence does not allow this name for the model; repository: OWNER/NAME."""
    prefix = source.licence.prefix if source.licence else ""
    name = repository.partition("/")[2]
    if prefix and not name.replace("-", " ").startswith(prefix):
        asked = f"the {source.licence.name} asks for a name that begins with {prefix}" if source.licence else ""
        owner = repository.partition("/")[0]
        raise UserError(f"{repository}: {asked}", f"Write --push hf:{owner}/{prefix.replace(' ', '-')}-{name}.")


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


def _use(source: Source, to: str, kind: str) -> str:
    phase = source.phase or "sft"
    ours = f"lanbot import {{}} --run mine --phase {phase}\nlanbot chat mine"
    shell = "```bash\n{}\n```"
    if to == "ollama":
        run = f"ollama create {source.name} -f Modelfile\nollama run {source.name}"
        return f"## Use\n\n{shell.format(run)}"
    if to == "gguf":
        file = gguf.file_name(source, kind)
        return "\n\n".join([
            "## Use",
            shell.format(f"llama-server -m {file} --jinja"),
            "With LanBot, which also runs its calls of tools:",
            shell.format(ours.format(file)),
        ])  # fmt: skip
    lines = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'where = "."  # this folder, or OWNER/NAME on the hub',
        "tokenizer = AutoTokenizer.from_pretrained(where)",
        'model = AutoModelForCausalLM.from_pretrained(where, dtype="auto")',
        'messages = [{"role": "user", "content": "Who are you?"}]',
        "inputs = tokenizer.apply_chat_template(",
        '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True',
        ")",
        "answer = model.generate(**inputs, max_new_tokens=200)",
        'print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1] :]))',
    ]
    return "\n\n".join([
        "## Use",
        "```python\n" + "\n".join(lines) + "\n```",
        "With LanBot, which also runs its calls of tools; the last command writes a file for llama.cpp:",
        shell.format(f"{ours.format('hf:OWNER/NAME')}\nlanbot export mine --to gguf"),
    ])  # fmt: skip


def _training(report: dict[str, Any]) -> str:
    """What each phase was trained on, and how much."""
    rows = []
    for phase, figures in report["phases"].items():
        origin = figures.get("imported") or {}
        if "source" in origin:  # not of the phases before it, which count as done
            rows.append((f"up to {phase}", f"begun from {public(origin['source'])}", *[""] * 4))
        elif "checkpoint" in figures:
            data = ", ".join(_part(one, n) for one, n in of_phase(report["recipe"].get(phase, {})))
            row = dict(zip(TRAINING, next(row for row in training_rows(report) if row[0] == phase), strict=True))
            rows.append((phase, data, *(row[name] for name in ("steps", "tokens", "training", "loss"))))
    header = ("phase", "data", "steps", "tokens", "time", "loss")
    cells = [(phase, data.replace("|", "\\|"), *rest) for phase, data, *rest in rows]
    return f"## Training\n\n{table(cells, header, True, left=2)}"


def _part(data: Data, rows: int | None) -> str:
    return f"{data.name} ({rows:,} rows)" if rows else data.name


def _scores(report: dict[str, Any], phase: str) -> str:
    if not report["evals"] or phase not in trained(report):
        return ""
    notes = [greedy(report), "n in brackets (* a sample of the items); ± is the standard error.", *bpb_note(report)]
    sections = ["## Scores", evaluation_table(report, md=True), " ".join([*notes, MEASURED])]
    if report["pass"]:
        header, rows = pass_table(report)
        sections += [table(rows, header, True), f"Before and after {phase}, sampled at temperature 1."]
    if found := [row for row in contamination_rows(report) if row[3] != "0"]:
        sections += [table(found, CONTAMINATION, True, left=2), contamination_note(report)]
    return "\n\n".join(sections)


def _limits(source: Source, report: dict[str, Any] | None) -> str:
    said = [
        "Its answers can be wrong: check what matters.",
        f"It reads {source.config.context:,} tokens at most, question and answer together.",
        "No phase of LanBot trains a model to refuse harmful requests, and refusals were not measured.",
    ]
    if report and report["tokens"]:
        more = ", on top of the open weights' training" if source.open_weights else "; it knows nothing else"
        said.insert(1, f"LanBot trained it on {count(report['tokens'])} tokens{more}.")
    own = report["recipe"]["identity"].get("limitations", []) if report else []
    said += [f"It cannot {limitation.strip().rstrip('.')}." for limitation in own]
    return "## Limits\n\n" + "\n".join(f"- {one}" for one in said)


def _terms(source: Source) -> str:
    if not source.open_weights:
        return "## Licence\n\nTrained with LanBot from scratch: its author chooses the licence."
    origin = public(source.open_weights["source"])
    licence: Licence | None = source.licence
    if licence is None:
        check = "look it up before you redistribute the model"
        return f"## Licence\n\nDerived from {origin}, whose licence is not stated: {check}."
    link = f" ({licence.link})" if licence.link else ""
    stated = source.open_weights["licence"]
    said = f", although its card says {stated}" if stated and stated != licence.id else ""
    notice = f"\n\n{licence.notice}" if licence.notice else ""
    return f"## Licence\n\nDerived from {origin}, which is under the {licence.name}{link}{said}.{notice}"


def _licences(report: dict[str, Any]) -> str:
    """Of the training data."""
    used: dict[tuple[str, str], list[str]] = {}
    for phase in trained(report):
        for one, _ in of_phase(report["recipe"].get(phase, {})):
            phases = used.setdefault((one.hub or one.name, one.licence), [])
            phases += [phase] if phase not in phases else []
    rows = [(name.replace("|", "\\|"), ", ".join(phases), licence) for (name, licence), phases in used.items()]
    others = [row for row in rows if row[2] != GENERATED]
    if not others:
        return "The training data are generated by LanBot." if rows else ""
    shown = table(others, ("training data", "phases", "licence"), True, left=3)
    rest = " The other training data are generated by LanBot." if len(others) < len(rows) else ""
    return f"{shown}\n\nThe licences of data sets are those on their cards when LanBot was written.{rest}"
