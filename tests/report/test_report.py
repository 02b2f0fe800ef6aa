"""The report of a made-up run: the content of report.json, the page and the tables."""

import itertools
import json
import math
import re
import shutil
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanbot import report
from lanbot.config.recipe_file import load
from lanbot.config.run import Run
from lanbot.core.options import Options
from lanbot.evals.score import Score
from lanbot.report import chart, terminal
from lanbot.report.collect import POINTS, thin
from lanbot.report.page import environment
from lanbot.report.tables import count

PHASES = ("base", "mid", "sft", "rl")
COLOURS = ("p1", "p2", "p3", "p4")
STEPS = {"base": 450, "mid": 40, "sft": 10, "rl": 12}
CONFIG = {
    "model_type": "qwen3", "vocab_size": 1_536, "hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 3,
    "head_dim": 64, "intermediate_size": 512, "max_position_embeddings": 256, "rms_norm_eps": 1e-6,
}  # fmt: skip
HOSTILE = "</style></script><script>alert(1)</script><img src=x onerror=alert(2)>\"'><a href='https://x.y'>&amp;"


def score(share: float, n: int = 100, **more: Any) -> dict[str, Any]:
    return {"score": share, "n": n, "stderr": round(math.sqrt(share * (1 - share) / n), 6), "chance": 0.25, **more}


def transcript(said: str = "Hello.", title: str = "Find the price") -> dict[str, Any]:
    asked = {"role": "user", "content": said}
    parts = [("python", said), ("output", said), ("text", said)]
    answered = {"role": "assistant", "content": [{"type": kind, "text": text} for kind, text in parts]}
    return {"title": title, "right": True, "conversations": [[asked, answered], [asked, answered]]}


def sample(prompt: str, *answer: tuple[str, str]) -> dict[str, Any]:
    parts = [{"type": kind, "text": text} for kind, text in answer]
    asked = [{"role": "user", "content": prompt}]
    return {"prompt": asked, "answer": {"role": "assistant", "content": parts}}


def evals_of(phase: str, text: str = "Yes.") -> dict[str, Any]:
    """evals.json of a phase without any optional key."""
    at = PHASES.index(phase)
    figures = {"steps": STEPS[phase], "seconds": 100.0, "tokens": 1_000, "final_loss": 1.5, "peak_memory_bytes": 2**20}
    return {
        "checkpoint": "step_000100",
        "tasks": {"identity": score(0.25 * at), "word_problems": score(0.2 * at)},
        "val_bpb": 1.5 + at,
        "training": {**figures, "tokens_per_second": 10.0, "utilisation": None if phase == "rl" else 0.5},
        "samples": [
            sample("Who are you?", ("text", f"{phase}: {text}")),
            sample("2+2?", ("python", "2+2"), ("output", "4"), ("text", " 4")),
        ],
        "settings": {"limit": 100, "max_tokens": 96, "temperature": 0},
    }


def metrics_of(phase: str) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = [{"step": 0, "val_bpb": 3.0, "seconds": 0.0}] if phase == "base" else []
    for step in range(1, STEPS[phase] + 1):
        line = {"step": step, "seconds": 100.0 * step / STEPS[phase], "loss": 2.0 + step % 3}
        lines.append(line | ({"reward": 0.5} if phase == "rl" else {"bpb": 1.0 + step % 3}))
    return lines


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with all phases done and nothing optional."""
    made = Run.create(load("demo", {"identity.name": "Juniper", "identity.creator": "Ada"}), tmp_path / "runs")
    put(made, "tokenizer", "compression.json", [{"text": "held-out corpus", "bytes": 200_000, "bytes_per_token": 3.5}])
    put(made, "tokenizer", "evals.json", {})
    for phase in PHASES:
        put(made, phase, "evals.json", evals_of(phase))
    return made


@pytest.fixture
def full(run: Run) -> Run:
    """The same with all optional parts."""
    for phase in PHASES:
        tasks = evals_of(phase)["tasks"]
        tasks["word_problems"]["parts"] = {"seen": score(0.5, 60), "unseen": score(0.125, 40)}
        more = {"wall_seconds": 150.0, "transcripts": [transcript(), transcript(), transcript()], "tasks": tasks}
        put(run, phase, "evals.json", {**evals_of(phase), **more})
        put(run, phase, "step_000100/config.json", CONFIG)
        (run.phase(phase) / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in metrics_of(phase)))
    both = {
        when: {"pass@1": score(share, items=7_473), "pass@8": score(2 * share, items=7_473)}
        for when, share in (("before", 0.3), ("after", 0.45))
    }
    put(run, "rl", "evals.json", {**run.read("rl", "evals.json"), "pass": both})
    put(run, "tokenizer", "evals.json", {"wall_seconds": 7.0})
    put(run, "", "contamination.json", contamination_of(3))
    return run


def contamination_of(items: int) -> dict[str, Any]:
    """contamination.json with this many items of word_problems, and none of a task that is no longer evaluated."""
    example = {"item": 4, "words": "thirteen words in a row"}
    sources = {"mid smoltalk": {"items": items, "example": example}, "base": {"items": 1, "example": example}}
    found = {"items": 1_319, "contaminated": list(range(items)), "sources": sources if items else {}}
    other = {"items": 10, "contaminated": [], "sources": {}}
    words = {"mid smoltalk": 504_890, "base": 5_400_000}
    return {"plan": {"n": 13}, "words": words, "tasks": {"word_problems:real": found, "mmlu": other}}


def put(run: Run, phase: str, file: str, value: Any) -> None:
    path = run.phase(phase) / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


class Seen(HTMLParser):
    """The tags, attributes and text of a page; `open` has the tags that were not closed in order."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]
        if tag not in ("meta", "br", "wbr"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data


# -- report.json -------------------------------------------------------------------------------------------


def test_report_json_holds_every_figure(full: Run) -> None:
    written = report.write(full)
    assert json.loads((full.folder / "report.json").read_text()) == written
    assert set(written["evals"]) == {"identity", "word_problems"}
    assert written["evals"]["identity"]["sft"] == score(0.5)
    assert written["evals"]["word_problems"]["rl"]["parts"]["unseen"]["n"] == 40
    assert list(written["phases"]) == ["tokenizer", *PHASES]
    for phase in written["phases"].values():
        assert {"seconds", "tokens", "final_loss", "val_bpb", "peak_memory_bytes"} <= set(phase)
    assert written["phases"]["mid"]["val_bpb"] == 2.5
    assert written["phases"]["tokenizer"]["seconds"] == 7.0
    assert written["pass"]["after"]["pass@8"]["score"] == 0.9
    assert [entry["prompt"][0]["content"] for entry in written["what_changed"]] == ["Who are you?", "2+2?"]
    answers = written["what_changed"][0]["answers"]
    assert {phase: answer["content"][0]["text"] for phase, answer in answers.items()} == {
        phase: f"{phase}: Yes." for phase in PHASES
    }
    assert len(written["transcripts"]) == 3
    assert written["parameters"] == 2 * 1_536 * 192 + 4 * (192 * 64 * 12 + 3 * 192 * 512)
    assert (written["tokens"], written["seconds"], written["wall_seconds"]) == (4_000, 400.0, 607.0)
    assert written["recipe"]["identity"]["creator"] == "Ada"


def test_the_transcripts_are_those_of_the_last_phase(full: Run) -> None:
    for phase in PHASES:
        put(full, phase, "evals.json", {**full.read(phase, "evals.json"), "transcripts": [transcript(title=phase)]})
    assert [one["title"] for one in report.collect(full)["transcripts"]] == ["rl"]


def test_figures_that_were_not_measured_are_null(run: Run) -> None:
    written = report.write(run)
    assert written["parameters"] is written["wall_seconds"] is written["phases"]["tokenizer"]["seconds"] is None
    assert written["transcripts"] == [] and written["pass"] == written["curves"] == {}
    page, text = (run.folder / "report.html").read_text(), (run.folder / "report.md").read_text()
    for heading in ("At work", "How it learned", "Before and after RL"):
        assert heading not in page and heading not in text
    assert "None" not in Seen(page).text + text + report.closing(run, written)


def test_wall_time_is_null_if_a_phase_lacks_it(full: Run) -> None:
    put(full, "mid", "evals.json", evals_of("mid"))
    assert report.collect(full)["wall_seconds"] is None


@pytest.mark.parametrize("done", [0, 1, 2])
def test_an_unfinished_run_has_a_report(run: Run, done: int) -> None:
    for phase in ("tokenizer", *PHASES)[done:]:
        shutil.rmtree(run.phase(phase))
    written = report.write(run)
    assert report.trained(written) == list(PHASES[: max(0, done - 1)])
    assert Seen((run.folder / "report.html").read_text()).open == []
    said = report.closing(run, written)
    assert f"Not yet done: {', '.join(('tokenizer', *PHASES)[done:])}." in said
    assert ("nothing trained yet" in said) == (" chat " not in said) == (done < 2)


def test_reports_do_not_import_torch() -> None:
    code = "import sys, lanbot.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- curves ------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=1_000), st.integers(1, 9))
def test_thinning_keeps_the_mean(values: list[float], every: int) -> None:
    thinned = thin([[float(i), value] for i, value in enumerate(values)], every)
    sizes = [len(values[i : i + every]) for i in range(0, len(values), every)]
    assert len(thinned) == len(sizes)
    for i, mean in enumerate((sum(range(len(values))) / len(values), sum(values) / len(values))):
        kept = sum(point[i] * size for point, size in zip(thinned, sizes, strict=True)) / len(values)
        assert kept == pytest.approx(mean, abs=2e-6)


def test_curves_are_loss_and_bpb_and_for_rl_reward(full: Run) -> None:
    curves = report.collect(full)["curves"]
    assert set(curves["base"]) == set(curves["sft"]) == {"mean_of", "loss", "bpb", "val_bpb"}
    assert set(curves["rl"]) == {"mean_of", "reward", "val_bpb"}
    assert curves["base"]["mean_of"] == 3 and len(curves["base"]["loss"]) == 150 <= POINTS
    assert curves["base"]["loss"][0] == [pytest.approx(100 * 2 / 450, abs=1e-6), 3.0]  # of the losses 3, 4, 2
    assert curves["base"]["val_bpb"] == [[0.0, 3.0]]
    assert curves["sft"]["mean_of"] == 1 and curves["sft"]["bpb"][-1] == [100.0, 2.0]
    assert curves["sft"]["val_bpb"] == [[100.0, 3.5]], "the evaluation's value if training measured none"


def test_an_incomplete_line_of_metrics_is_skipped(full: Run) -> None:
    path = full.phase("rl") / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 13, "rew')
    assert len(report.collect(full)["curves"]["rl"]["reward"]) == 12


def test_the_page_states_how_many_steps_a_point_averages(full: Run) -> None:
    assert "the mean of several steps: 3 in base." in report.page(report.collect(full))


def test_all_phases_share_one_clock(full: Run) -> None:
    drawn = re.findall(r'<polyline class="line (\w+)" points="([^"]+)"', report.page(report.collect(full)))
    wide = {phase: [float(pair.split(",")[0]) for pair in points.split()] for phase, points in reversed(drawn)}
    assert set(wide) == set(COLOURS)
    for before, after in itertools.pairwise(COLOURS):
        assert max(wide[before]) < min(wide[after])


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50))
def test_an_axis_holds_its_values_and_few_ticks(values: list[float]) -> None:
    axis = chart.axis(values)
    assert axis is not None and 2 <= len(axis.ticks) <= 8
    assert all(-1e-9 <= axis.share(value) <= 1 + 1e-9 for value in values)


@pytest.mark.parametrize(("share", "error"), [(0.0, 0.0), (1.0, 0.0), (0.98, 0.05), (0.01, 0.05)])
def test_a_bar_is_clipped_to_0_and_1(share: float, error: float) -> None:
    one = {"score": share, "stderr": error, "chance": 0.25}
    drawn = environment().get_template("parts.html.j2").module.bar(one, "p1", "x")  # type: ignore[attr-defined]
    assert all(0 <= float(percent) <= 100 for percent in re.findall(r'"(-?[\d.]+)%"', drawn))
    assert 'x1="25.00%"' in drawn


def test_a_chart_has_axes_units_phases_and_a_legend(full: Run) -> None:
    page = report.page(report.collect(full))
    figures = page.split("<figure>")[1:]
    assert len(figures) == 2
    for figure, unit in zip(figures, ("nats per token", "bits"), strict=True):
        assert f">{unit}</text>" in figure and ">training time, minutes</text>" in figure
        assert all(
            f'class="name {css}"' in figure and f">{phase}</text>" in figure
            for css, phase in zip(COLOURS, PHASES, strict=True)
        )
    assert ">share of answers that are right</text>" in figures[0]
    assert re.findall(r'class="key \w+ \w+">([^<]+)<', figures[0]) == [
        *("base loss", "mid loss", "sft loss", "rl reward")
    ]
    assert "held-out text" in re.findall(r'class="key dots held">([^<]+)<', figures[1])
    assert 'aria-label="Loss and reward, against training time: base loss from 3 to 3;' in figures[0]


# -- report.html -------------------------------------------------------------------------------------------


def test_the_page_loads_nothing_and_runs_no_script(full: Run) -> None:
    source = report.page(report.collect(full))
    page = Seen(source)
    assert page.open == [], "every tag is closed, in order"
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form", "image", "use"} & set(page.tags)
    names = {name for _, name, _ in page.attributes}
    assert not {"src", "srcset", "style", "action", "xlink:href"} & names
    assert not [name for name in names if name.startswith("on")]
    targets = {value for _, name, value in page.attributes if name == "id"}
    links = [value for _, name, value in page.attributes if name == "href"]
    assert links and {"#" + target for target in targets} == set(links)
    style = source.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style and "@import" not in style and "prefers-color-scheme: dark" in style
    assert "://" not in source
    assert "default-src 'none'" in source


def test_text_of_users_and_models_is_escaped(full: Run) -> None:
    for phase in PHASES:
        evals = evals_of(phase, HOSTILE)
        evals["samples"] += [sample(HOSTILE, ("python", HOSTILE), ("output", HOSTILE), ("text", HOSTILE))]
        evals["tasks"][HOSTILE] = score(0.5, parts={HOSTILE: score(0.5)})
        evals["transcripts"] = [transcript(HOSTILE, HOSTILE)]
        put(full, phase, "evals.json", evals)
    put(full, "tokenizer", "compression.json", [{"text": HOSTILE, "bytes": 1, "bytes_per_token": 1.0}])
    keys = ("identity.name", "identity.creator", "identity.personality", "base.data")
    hostile = Run(full.folder, load("demo", dict.fromkeys(keys, HOSTILE)))
    source = report.page(report.collect(hostile))
    page = Seen(source)
    assert page.open == []
    assert not {"script", "img"} & set(page.tags)
    assert all(value.startswith("#") for tag, _, value in page.attributes if tag == "a")
    assert source.count("</style>") == 1
    # title, name, maker, personality (twice: settings), data; each prompt, four answers of 4; title, task and part
    assert page.text.count(HOSTILE) >= 40


def test_control_characters_are_shown_and_letters_of_all_scripts_kept(run: Run) -> None:
    odd = "a\x00b\x1b[31mc שלום 你好 🚀 \ud800"
    put(run, "rl", "evals.json", evals_of("rl", odd))
    report.write(run)
    page = (run.folder / "report.html").read_text()
    assert "a␀b␛[31mc שלום 你好 🚀 ?" in page
    assert "a␀b␛[31mc" in (run.folder / "report.md").read_text()
    assert 'dd dir="auto"' in page, "marks of writing direction affect one answer only"


def test_scores_are_shown_with_error_n_and_chance(full: Run) -> None:
    page = report.page(report.collect(full))
    assert 'aria-label="word_problems: 0.600 ± 0.049, chance 0.25"' in page
    text = " ".join(Seen(page).text.split())
    assert "0.400 after sft, n = 100, chance 0.25" in text
    assert "The same 100 of 7,473 held-out questions" in text
    assert "pass@8 before 0.600 ± 0.049 after 0.900 ± 0.030" in re.sub(r"(before|after)(\d)", r" \1 \2", text)


def test_bits_per_byte_are_shown_with_error_n_and_chance(full: Run) -> None:
    said = "Bits per byte: of 62,913 bytes of held-out text, 40 documents, read 256 tokens at a time; its chance is a"
    for written in (report.markdown(report.collect(full)), report.page(report.collect(full))):
        assert "Bits per byte: of" not in written, "not measured"
    for phase in PHASES[1:]:
        measured = {"bits_per_byte": 2.5, "stderr": 0.0123, "chance": 3.214, "n": 62_913, "documents": 40}
        put(full, phase, "evals.json", {**full.read(phase, "evals.json"), "bpb": {**measured, "context": 256}})
    written = report.write(full)
    assert written["phases"]["sft"]["bpb"]["n"] == 62_913 and "bpb" not in written["phases"]["base"]
    page = Seen((full.folder / "report.html").read_text()).text
    text = (full.folder / "report.md").read_text()
    shown = report.evaluation_table(written)
    assert all(said in one for one in (page, text, shown))
    assert "held-out bits per byte1.5002.500 ± 0.0123.500 ± 0.0124.500 ± 0.0123.21" in page
    row = next(line for line in shown.split("\n") if line.startswith("val bits per byte"))
    assert " ".join(row.split()) == "val bits per byte 3.21 1.5000 2.5000 ± 0.0123 3.5000 ± 0.0123 4.5000 ± 0.0123"


def test_program_faults_and_the_sandbox_level_are_shown(full: Run) -> None:
    assert "Programs" not in report.markdown(report.collect(full)), "no table without programs"
    faults = {"base": {"no program": 164}, "mid": {"wrong": 150, "exit": 4}, "sft": {"timeout": 2, "wrong": 112}}
    for phase, failed in faults.items():
        evals = full.read(phase, "evals.json")
        passed = 164 - sum(failed.values())
        evals["tasks"]["humaneval"] = score(passed / 164, 164, failed=failed, sandbox_level=2, chance=0.0)
        put(full, phase, "evals.json", evals)
    evals = full.read("rl", "evals.json")
    evals["tasks"]["humaneval"] = score(1.0, 20, items=164, sandbox_level=4)
    put(full, "rl", "evals.json", evals)
    written = report.write(full)
    assert written["evals"]["humaneval"]["sft"]["failed"] == faults["sft"]
    rows = [
        ("task", "after", "n", "passed", "wrong", "timeout", "exit", "no program", "level"),
        ("humaneval", "base", "164", "0", "0", "0", "0", "164", "2"),
        ("humaneval", "mid", "164", "10", "150", "0", "4", "0", "2"),
        ("humaneval", "sft", "164", "50", "112", "2", "0", "0", "2"),
        ("humaneval", "rl", "20 of 164", "20", "0", "0", "0", "0", "4"),
    ]
    page = Seen((full.folder / "report.html").read_text())
    text = re.sub(r" +", " ", (full.folder / "report.md").read_text())
    assert page.open == []
    for row in rows:
        assert f"| {' | '.join(row)} |" in text and "".join(row) in page.text
    for one in (text, page.text):
        assert "exit (its process ended" in one and "exception" not in one.partition("What changed")[0]
        assert "Level 4 is none" in one
    assert "humaneval: sandbox level 4" in report.evaluation_table(written)
    put(full, "rl", "evals.json", evals_of("rl"))
    assert "Level 4" not in report.markdown(report.collect(full))


def test_calls_and_outputs_are_set_apart(full: Run) -> None:
    page = report.page(report.collect(full))
    assert page.count("calls </span>2+2</code>") == page.count("gets back </span>4</samp> 4") == len(PHASES)
    assert page.count('<ol class="chat">') == 6 and page.count("a new conversation") == 3
    assert page.count("✓ right") == 3


def test_a_score_of_one_item_has_a_wide_error_bar(run: Run) -> None:
    evals = evals_of("rl")
    evals["tasks"]["identity"] |= {**Score.of([True], 0.0).json(), "items": 40, "did_not_fit": 3}
    put(run, "rl", "evals.json", evals)
    written = report.write(run)
    page = (run.folder / "report.html").read_text()
    for text in (Seen(page).text, (run.folder / "report.md").read_text(), report.closing(run, written)):
        assert "1.000 ± 0.500" in text and "3 did not fit" in text
    assert 'x1="50.00%" x2="100.00%"' in page


def test_templates_and_style_sheet_are_shipped() -> None:
    project = Path(report.__file__).parents[2] / "pyproject.toml"
    shipped = tomllib.loads(project.read_text())["tool"]["setuptools"]["package-data"]["lanbot"]
    assert {"report/static/*.css", "report/templates/*.j2"} <= set(shipped)


def test_contaminated_items_are_shown_with_sources_and_whether_they_count(full: Run) -> None:
    written = report.write(full)
    assert list(written["contamination"]["tasks"]) == ["word_problems"]
    row = "word_problems | mid smoltalk (3), base (1) | 1,319 | 3 | {}"
    says = "13 words of its question in a row are in the training data"
    looked = "mid smoltalk (505K), base (5.4M)"
    summary = "In the training data: 3 of 1,319 items of word_problems; scored {}."
    for dropped, scored in ((0, "with them"), (3, "without them")):
        evals = full.read("rl", "evals.json")
        evals["tasks"]["word_problems"]["left_out"] = dropped
        put(full, "rl", "evals.json", evals)
        written = report.write(full)
        page = re.sub(r"\s+", " ", Seen((full.folder / "report.html").read_text()).text)
        text = re.sub(r" +", " ", (full.folder / "report.md").read_text())
        assert f"| {row.format(scored)} |" in text and says in text and looked in text
        assert row.format(scored).replace(" | ", "") in page and says in page and looked in page
        assert summary.format(scored) in report.closing(full, written)


def test_a_contamination_check_is_shown_only_if_it_was_made(full: Run) -> None:
    put(full, "", "contamination.json", contamination_of(0))
    written = report.write(full)
    assert "| word_problems |          | 1,319 |            0 |" in (full.folder / "report.md").read_text()
    assert "In the training data" not in report.closing(full, written)
    (full.folder / "contamination.json").unlink()
    written = report.write(full)
    assert written["contamination"] == {}
    assert "ontamina" not in (full.folder / "report.md").read_text()
    assert "ontamina" not in Seen((full.folder / "report.html").read_text()).text.partition("Settings")[0]


# -- report.md and the terminal ----------------------------------------------------------------------------


def test_parts_are_listed_below_their_task(full: Run) -> None:
    lines = report.evaluation_table(report.collect(full)).split("\n")
    at = next(i for i, line in enumerate(lines) if line.startswith("word_problems"))
    seen, unseen = lines[at + 1 : at + 3]
    assert seen.startswith("  seen ") and seen.split() == ["seen", "0.25", "0.500", "±", "0.065", "(60)"]
    assert unseen.startswith("  unseen ") and len(unseen) == len(seen) == len(lines[at])


@pytest.mark.parametrize("md", [False, True])
def test_tables_are_aligned(full: Run, md: bool) -> None:
    written = report.collect(full)
    for table in (report.evaluation_table(written, md), report.training_table(written, md)):
        lines = table.split("\n")
        ends = {len(line) for line in lines}
        assert len(ends) == 1 if md else len(lines[0]) == len(lines[1]) == max(ends)


def test_markdown_has_the_content_of_the_page(full: Run) -> None:
    report.write(full)
    text = (full.folder / "report.md").read_text()
    assert "A chat model named Juniper, made by Ada, trained by LanBot." in text
    assert "2.36M parameters, 4K tokens in 6m40s of training, 10m07s with evaluation." in text
    assert "### Find the price (right)" in text and "## assistant\n\n    >>> Hello.\n    Hello.\n\nHello." in text
    assert "&nbsp;&nbsp;unseen" in text


def test_a_fence_in_a_transcript_does_not_end_its_code_block(full: Run) -> None:
    put(full, "rl", "evals.json", {**evals_of("rl"), "transcripts": [transcript("```` is a fence")]})
    assert report.markdown(report.collect(full)).count("`````\n") == 2


def test_the_summary_on_the_terminal(full: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lanbot.report.terminal.program", lambda: "lanbot")
    monkeypatch.setenv("LANBOT_RUNS", str(full.folder.parent))
    full = Run(full.folder, full.recipe, Options.from_environment())
    assert report.closing(full, report.collect(full)).split("\n") == [
        "Juniper by Ada",
        "  2.36M parameters, 4K tokens in 6m40s of training, 10m07s with evaluation",
        "",
        "  task                sft -> rl ± error    n  chance",
        "  -------------  ----------------------  ---  ------",
        "  identity       0.500 -> 0.750 ± 0.043  100    0.25",
        "  word_problems  0.400 -> 0.600 ± 0.049  100    0.25",
        "",
        "  In the training data: 3 of 1,319 items of word_problems; scored with them.",
        "",
        f"  report         {full.folder}/report.html",
        f"  as text        {full.folder}/report.md",
        "  talk to it     lanbot chat demo",
        '  give it work   lanbot agent demo "How many r are in strawberry?"',
        "  make your own  lanbot init my-bot.toml",
    ]


def test_the_summary_names_a_run_outside_the_runs_folder_by_its_path(
    full: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANBOT_RUNS", str(full.folder.parent / "other"))
    full = Run(full.folder, full.recipe, Options.from_environment())
    assert f" chat {full.folder}\n" in report.closing(full, report.collect(full))


def test_the_summary_before_rl_has_no_comparison(run: Run) -> None:
    shutil.rmtree(run.phase("rl"))
    said = report.closing(run, report.collect(run))
    assert "sft ± error" in said and "->" not in said and "Not yet done: rl." in said


def test_a_name_cannot_move_the_cursor(run: Run) -> None:
    named = Run(run.folder, load("demo", {"identity.name": "Ju\x1b[2Jni\nper"}))
    assert report.closing(named, report.collect(named)).startswith("Ju [2Jni per\n")


@pytest.mark.parametrize(("on_path", "said"), [(True, "lanbot"), (False, ".venv/bin/lanbot")])
def test_commands_are_written_as_this_shell_finds_them(
    on_path: bool, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / ".venv" / "bin" / "lanbot"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(program.with_name("python")))
    monkeypatch.setenv("PATH", str(program.parent) if on_path else str(tmp_path))
    assert terminal.program() == said


@pytest.mark.parametrize(
    ("number", "said"),
    [(0, "0"), (950, "950"), (999_600, "1M"), (2_359_296, "2.36M"), (561e6, "561M"), (1.1e9, "1.1B")],
)
def test_counts_have_three_digits(number: float, said: str) -> None:
    assert count(number) == said


# -- planned and actual ------------------------------------------------------------------------------------


def plan_of(*names: str) -> dict[str, Any]:
    seconds, dollars = ({"low": n, "expected": 2 * n, "high": 3 * n} for n in (3_600.0, 24.0))
    phases = [{"name": name, "seconds": seconds, "dollars": dollars, "tokens": 1} for name in names]
    return {"gpus": "8xH100", "price": 24.0, "phases": phases, "advice": []}


def test_a_plan_stands_beside_what_the_phases_took(full: Run) -> None:
    put(full, "", "plan.json", plan_of("tokenizer", "base", "later"))
    put(full, "base", "evals.json", {**full.read("base", "evals.json"), "wall_seconds": 5_400.0})
    written = report.write(full)
    assert written["planned"]["phases"]["base"]["seconds"]["high"] == 10_800
    shown = {row[0]: row[1:] for row in report.tables.planned_rows(written)}
    assert shown["base"] == ("2 h", "1 to 3 h", "1 h 30 min", "$48", "$36")
    assert shown["tokenizer"][2:] == ("7 s", "$48", "$0.05") and shown["later"][2] == ""
    for file in ("report.md", "report.html"):
        text = Seen((full.folder / file).read_text()).text
        assert "Planned and actual" in text and "1 h 30 min" in text and "8xH100 at $24.00 an hour" in text


def test_a_resumed_phase_shows_its_training_time_and_says_so(full: Run) -> None:
    evals = full.read("base", "evals.json")
    evals.pop("wall_seconds", None)
    put(full, "base", "evals.json", evals)
    put(full, "", "plan.json", plan_of("base"))
    written = report.write(full)
    assert report.tables.planned_rows(written)[0][3] == "2 min *"
    assert "as the phase was resumed" in report.planned_table(written)


def test_without_a_plan_there_is_no_table(full: Run) -> None:
    written = report.write(full)
    assert written["planned"] == {} and "Planned" not in (full.folder / "report.html").read_text()


def test_the_course_of_rl_is_shown_with_the_columns_that_were_measured(full: Run) -> None:
    path = full.phase("rl") / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line |= {
            "reward_error": 0.1,
            "dropped_groups": 0.25,
            "correct": 0.4,
            "term_tool": 0.05,
            "entropy": line["step"],
        }
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    written = report.write(full)
    course = written["rl"]["rl"]
    assert list(written["rl"]) == ["rl"] and 5 <= len(course) <= 10
    assert course[0]["first"] == 1 and course[-1]["last"] == lines[-1]["step"]
    assert course[0]["entropy"] == pytest.approx((course[0]["first"] + course[0]["last"]) / 2)
    text, page = ((full.folder / f"report.{kind}").read_text() for kind in ("md", "html"))
    assert "## The course of rl" in text and "0.500 ± 0.100" in text and "| +0.050 |" in text.replace("  ", " ")
    assert "The course of RL" in page and "all equal" in page and "rollout tok/s" not in text


def test_pass_at_k_during_rl_is_shown_between_before_and_after(full: Run) -> None:
    path = full.phase("rl") / "evals.json"
    result = json.loads(path.read_text())
    before, after = result["pass"]["before"], result["pass"]["after"]
    result["pass"] = {"before": before, "step 20": after, "after": after}
    path.write_text(json.dumps(result))
    report.write(full)
    text, page = ((full.folder / f"report.{kind}").read_text() for kind in ("md", "html"))
    header = next(line for line in text.splitlines() if line.startswith("| metric"))
    assert [cell.strip() for cell in header.split("|")[1:-1]] == ["metric", "before", "step 20", "after"]
    assert "<span>step 20</span>" in page
