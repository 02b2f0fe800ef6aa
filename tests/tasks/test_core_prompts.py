"""CORE's prompts, to the character and to the token."""

import csv
import gzip
import hashlib
import json
import random
import re
import zipfile
from pathlib import Path

import pytest

from lanbot.core.errors import UserError
from lanbot.evals.score import Centered, Score
from lanbot.tasks import core
from lanbot.tasks.core import ANSWER, CHOICE, GREEDY, SCHEMA, TASKS, CoreTask, Prompt, prompts, shots, texts

LABELS = [task.label for task in TASKS]

QUIZ = [
    {"query": "Question: Which is cold?", "choices": ["ice", "fire"], "gold": 0},
    {"query": "Question: Which flies?", "choices": ["a pig", "a crow", "a stone"], "gold": 1},
    {"query": "Question: Which is red?", "choices": ["blood", "snow"], "gold": 0},
]
WHO = [
    {
        "context_options": ["Ann fed the cat because Ann", "Ann fed the cat because the cat"],
        "continuation": "was hungry.",
        "gold": 1,
    },
    {
        "context_options": ["Bob hid the key so Bob", "Bob hid the key so the key"],
        "continuation": "was safe.",
        "gold": 0,
    },
    {"context_options": ["Cy ate as Cy", "Cy ate as Dan"], "continuation": "slept.", "gold": 1},
]
FACTS = [
    {"context": " Two and two is\n", "continuation": "four"},
    {"context": "The sky is", "continuation": "blue"},
    {"context": "Snow is ", "continuation": "white as milk"},
]


def ids(text: str) -> list[int]:
    """A byte each, after a 0."""
    return [0, *text.encode()]


def judged(prompt: Prompt) -> tuple[str, str]:
    """(prefix, scored text) of a prompt of bytes."""
    start = prompt.start
    return bytes(prompt.ids[1:start]).decode(), bytes(prompt.ids[start:]).decode()


def prompts_of(task: CoreTask, items: list, i: int, context: int | None = None) -> list[Prompt]:
    return prompts(task, [ids(text) for text in texts(task, items, i)], context)


# -- written out by hand -----------------------------------------------------------------------------------


def test_multiple_choice_with_shots() -> None:
    task = CoreTask("quiz", "quiz", CHOICE, 2, 25, ANSWER)
    before = """Question: Which is red?
Answer: blood

Question: Which is cold?
Answer: ice

Question: Which flies?
Answer: """
    assert texts(task, QUIZ, 1) == [before + "a pig", before + "a crow", before + "a stone"]
    assert [judged(prompt) for prompt in prompts_of(task, QUIZ, 1)] == [
        (before + "a ", "pig"),  # what all choices begin with is not judged
        (before + "a ", "crow"),
        (before + "a ", "stone"),
    ]


def test_multiple_choice_without_shots() -> None:
    task = CoreTask("quiz", "quiz", CHOICE, 0)
    assert texts(task, QUIZ, 0) == ["Question: Which is cold? ice", "Question: Which is cold? fire"]
    one, other = prompts_of(task, QUIZ, 0)
    assert one == Prompt([0, *b"Question: Which is cold? ice"], 26)
    assert other == Prompt([0, *b"Question: Which is cold? fire"], 26)


def test_schema_with_shots() -> None:
    task = CoreTask("who", "who", SCHEMA, 2)
    before = """Bob hid the key so Bob was safe.

Ann fed the cat because the cat was hungry.

"""
    assert texts(task, WHO, 2) == [before + "Cy ate as Cy slept.", before + "Cy ate as Dan slept."]
    assert [judged(prompt) for prompt in prompts_of(task, WHO, 2)] == [
        (before + "Cy ate as Cy", " slept."),
        (before + "Cy ate as Dan", " slept."),
    ]


def test_schema_without_shots() -> None:
    task = CoreTask("who", "who", SCHEMA, 0)
    assert texts(task, WHO, 1) == ["Bob hid the key so Bob was safe.", "Bob hid the key so the key was safe."]
    assert prompts_of(task, WHO, 1) == [
        Prompt([0, *b"Bob hid the key so Bob was safe."], 23),
        Prompt([0, *b"Bob hid the key so the key was safe."], 27),
    ]


def test_language_modeling_with_shots() -> None:
    task = CoreTask("facts", "facts", GREEDY, 2, delimiter=ANSWER)
    before = """The sky is
Answer: blue

Two and two is
Answer: four

Snow is
Answer:"""
    assert texts(task, FACTS, 2) == [before, before + " white as milk"]
    (only,) = prompts_of(task, FACTS, 2)
    assert judged(only) == (before, " white as milk")


def test_language_modeling_without_shots() -> None:
    task = CoreTask("facts", "facts", GREEDY, 0)
    assert texts(task, FACTS, 0) == ["Two and two is", "Two and two is four"]
    assert prompts_of(task, FACTS, 0) == [Prompt([0, *b"Two and two is four"], 15)]


# -- tokens ------------------------------------------------------------------------------------------------


def test_a_long_prompt_loses_its_beginning() -> None:
    task = CoreTask("quiz", "quiz", CHOICE, 2, 25, ANSWER)
    whole, cut = prompts_of(task, QUIZ, 0), prompts_of(task, QUIZ, 0, context=10)
    for long, short in zip(whole, cut, strict=True):
        assert short.ids == long.ids[-10:] and short.cut == len(long.ids) - 10
        assert short.ids[short.start :] == long.ids[long.start :], "the same is judged"
    assert prompts_of(task, QUIZ, 0, context=len(max(whole).ids) + 9) == whole


def test_a_continuation_longer_than_the_context_is_judged_as_far_as_it_goes() -> None:
    task = CoreTask("facts", "facts", GREEDY, 0)
    (prompt,) = prompts_of(task, FACTS, 2, context=8)
    assert prompt.ids == list(b" as milk") and prompt.start == 1


def test_a_choice_that_another_begins_with_is_judged_by_its_last_token() -> None:
    """The common prefix is the whole shorter choice, so its last token is scored."""
    task = CoreTask("quiz", "quiz", CHOICE, 0)
    made = prompts(task, [[0, 5, 6], [0, 5, 6, 7]])
    assert made == [Prompt([0, 5, 6], 2), Prompt([0, 5, 6, 7], 2)]


def test_tokens_that_merge_over_the_prompts_end_are_judged() -> None:
    """A tokenizer may merge the prompt's end with the continuation; the tokens that differ are scored."""
    task = CoreTask("facts", "facts", GREEDY, 0)
    assert prompts(task, [[0, 5, 6], [0, 5, 9, 7]]) == [Prompt([0, 5, 9, 7], 2)]


# -- shots -------------------------------------------------------------------------------------------------


def test_shots_are_drawn_as_in_the_reference_implementation() -> None:
    items = [{"query": str(i)} for i in range(300)]
    task = CoreTask("quiz", "quiz", CHOICE, 10)
    for i in (0, 1, 7, 150, 299):
        others = [item for j, item in enumerate(items) if j != i]
        assert shots(task, items, i) == random.Random(1234 + i).sample(others, 10)
        assert items[i] not in shots(task, items, i)


def test_few_items_can_all_be_shots() -> None:
    assert shots(CoreTask("quiz", "quiz", CHOICE, 2), QUIZ, 1) == [QUIZ[2], QUIZ[0]]


# -- where the data comes from -----------------------------------------------------------------------------

DATA = "commonsense_reasoning/copa.jsonl"
COPA = next(task for task in TASKS if task.label == "copa")
LINES = b"".join(json.dumps({**QUIZ[0], "query": f"Q{i}\u2028"}, ensure_ascii=False).encode() + b"\n" for i in range(5))


@pytest.mark.parametrize("layout", ["eval_data/{}", "eval_data/{}.gz", "eval_bundle/eval_data/{}"])
def test_a_mirror_has_the_bundle_in_a_folder(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANBOT_MIRROR", str(tmp_path))
    path = tmp_path / "core" / layout.format(DATA)
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(LINES) if path.suffix == ".gz" else LINES)
    assert [item["query"] for item in core.load(COPA)] == [f"Q{i}\u2028" for i in SHUFFLED]


SHUFFLED = list(range(5))
random.Random(1337).shuffle(SHUFFLED)


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of the downloaded zip."""
    path = tmp_path / "eval_bundle.zip"
    monkeypatch.setattr("lanbot.tasks.core.hub.url_file", lambda url, mirror, options: path)
    return path


def zipped(path: Path, name: str, content: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("__MACOSX/eval_bundle/eval_data/commonsense_reasoning/._copa.jsonl", b"\0not rows")
        archive.writestr(name, content)


@pytest.mark.parametrize("top", ["eval_bundle/eval_data/", "eval_data/"])
def test_the_bundle_is_read_out_of_its_zip(bundle: Path, top: str) -> None:
    zipped(bundle, top + DATA, LINES)
    assert [item["query"] for item in core.load(COPA)] == [f"Q{i}\u2028" for i in SHUFFLED]


def test_a_damaged_bundle_is_an_error(bundle: Path) -> None:
    bundle.write_bytes(b"<html>not found</html>")
    with pytest.raises(UserError, match="cannot be read") as error:
        core.load(COPA)
    assert "Delete the file" in error.value.remedy
    zipped(bundle, "eval_bundle/eval_data/other.jsonl", LINES)
    with pytest.raises(UserError, match=r"copa\.jsonl: not in it"):
        core.load(COPA)
    zipped(bundle, "eval_bundle/eval_data/" + DATA, LINES + b"{half\n")
    with pytest.raises(UserError, match=r"copa\.jsonl, line 6: cannot be read"):
        core.load(COPA)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"query": "Q", "gold": 0}, "choices"),
        ({"query": "Q", "choices": ["a", "b"], "gold": 2}, "gold is 2"),
        ({"query": "Q", "choices": ["a", "b"], "gold": "0"}, "gold is '0'"),
        ({"query": "Q", "choices": ["a", ""], "gold": 0}, "a text is missing"),
        ({"query": None, "choices": ["a", "b"], "gold": 0}, "a text is missing"),
        (["no", "columns"], "TypeError"),
    ],
)
def test_an_invalid_row_is_an_error_with_its_place(bundle: Path, row: object, problem: str) -> None:
    zipped(bundle, "eval_data/" + DATA, LINES + json.dumps(row).encode())
    with pytest.raises(UserError, match=f"line 6: not an item of copa .*{problem}"):
        core.load(COPA)


# -- the bundle itself -------------------------------------------------------------------------------------

FIRST_20 = {
    "hellaswag_zeroshot": "761883a1a5ab6a97",
    "jeopardy": "b88a1cd95c52fde0",
    "bigbench_qa_wikidata": "3c1de30ad933cb80",
    "arc_easy": "df1127a699cde154",
    "arc_challenge": "e41ca1264f9b70ca",
    "copa": "3c97d3af4f5487ce",
    "commonsense_qa": "4be492c68169f820",
    "piqa": "7b15b4d1c415e2ff",
    "openbook_qa": "d5a32f00fff37ef6",
    "lambada_openai": "80178d30cc7224a8",
    "hellaswag": "ad2ba46f96501a1a",
    "winograd": "4569b6e8d7bf76ad",
    "winogrande": "fc4131904deb0aeb",
    "bigbench_dyck_languages": "f6c6eda6425c437c",
    "agi_eval_lsat_ar": "af5cf8eba6dbc193",
    "bigbench_cs_algorithms": "bcc60729f024ede1",
    "bigbench_operators": "f81301ef5f97c827",
    "bigbench_repeat_copy_logic": "77cc247d7db01381",
    "squad": "a9368093bc093ddf",
    "coqa": "4e0930838ef6844f",
    "boolq": "bacdeb42dcd686de",
    "bigbench_language_identification": "eeea09bd7ae9ac4c",
}
"""Of the rendered prompts of each task's first 20 items. HellaSwag's are those of a mirror that strips its choices."""


@pytest.mark.usefixtures("real_mirror")
@pytest.mark.parametrize("task", TASKS, ids=LABELS)
def test_prompts_are_pinned(task: CoreTask) -> None:
    items = core.load(task)
    rendered = [texts(task, items, i) for i in range(20)]
    assert all(
        len(item) == (2 if task.kind == GREEDY else len(core.options(task, items[i])))
        for i, item in enumerate(rendered)
    )
    assert hashlib.sha256(json.dumps(rendered).encode()).hexdigest()[:16] == FIRST_20[task.label]


def test_the_table_of_tasks_is_the_bundles(real_mirror: Path) -> None:
    said = {}
    for entry in (real_mirror / "core" / "core.yaml").read_text().split("\n-\n")[1:]:
        values = dict(re.findall(r"^ +(\w+): (.*)$", entry, re.MULTILINE))
        delimiter = json.loads(values.get("continuation_delimiter", '" "'))
        shots = json.loads(values["num_fewshot"])[0]
        said[values["label"]] = (values["dataset_uri"], values["icl_task_type"], shots, delimiter)
    assert {task.label: (f"{task.file}.jsonl", task.kind, task.shots, task.delimiter) for task in TASKS} == said
    assert list(said) == LABELS and len(said) == 22
    with (real_mirror / "core" / "eval_meta_data.csv").open(newline="") as file:
        baselines = {row["Eval Task"]: float(row["Random baseline"]) for row in csv.DictReader(file)}
    assert {task.label: task.baseline for task in TASKS} == {label: baselines[label] for label in LABELS}


def test_centering_gives_the_published_figures(real_mirror: Path) -> None:
    found = 0
    for path in (real_mirror / "core" / "reference").glob("*.csv"):
        lines = [[cell.strip() for cell in row] for row in csv.reader(path.open())]
        published = {label: (float(accuracy), float(centered)) for label, accuracy, centered in lines[1:-1]}
        ours = [Centered.of(Score(published[task.label][0], 1, 0.0, 0.0), task.baseline / 100) for task in TASKS]
        assert [one.value for one in ours] == pytest.approx([published[task.label][1] for task in TASKS], abs=2e-6)
        assert Centered.mean(ours).value == pytest.approx(float(lines[-1][2]), abs=2e-6)
        found += 1
    assert found
