"""Evaluation items in training data: which matches count, and which data is searched."""

import gzip
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lanbot.chat.messages import chat
from lanbot.config.recipe import Recipe
from lanbot.config.recipe_file import load
from lanbot.phases.phase import sources
from lanbot.tasks import contamination
from lanbot.tasks.contamination import COMMON, END, Found, Index, question, real
from lanbot.tasks.registry import make_task

QUESTION = "A baker sells 40 loaves a day at 3 dollars each; how much does she earn in 7 days?"  # 18 words
WORDS = QUESTION.lower().replace(";", "").replace("?", "").split()


def check(recipe: Recipe, tasks: Sequence[str], base_chars: int | None = None) -> Found:
    return contamination.check(recipe, tasks, sources(recipe), base_chars)


def plan(recipe: Recipe, tasks: Sequence[str]) -> dict[str, Any]:
    return contamination.plan(recipe, tasks, sources(recipe))


def found(items: list[str], text: str, tasks: list[int] | None = None) -> list[int]:
    """The items found in the text."""
    index = Index([[item] for item in items], tasks or [0] * len(items))
    return sorted(index.find(text)[1])


# -- what counts -------------------------------------------------------------------------------------------


def test_thirteen_words_are_found_and_twelve_are_not() -> None:
    for start in range(len(WORDS) - 12):
        assert found([QUESTION], " ".join(["so", *WORDS[start : start + 13], "so"])) == [0]
        assert found([QUESTION], " ".join(["so", *WORDS[start : start + 12], "so"])) == []
    swapped = [*WORDS[:6], WORDS[7], WORDS[6], *WORDS[8:]]
    assert found([QUESTION], " ".join(swapped)) == []


@pytest.mark.parametrize(
    "text",
    [
        QUESTION.upper(),
        "«" + ",\n\t".join(WORDS) + "»!",
        QUESTION.replace(" ", " - ").replace("?", " ..."),
        "Before it. " + QUESTION + " After it.",
    ],
)
def test_case_punctuation_and_layout_do_not_matter(text: str) -> None:
    assert found([QUESTION], text) == [0]


def test_words_are_of_all_scripts() -> None:
    item = "Über ÉTÉ привет " * 5
    assert found([item], item.lower().replace(" ", "_")) == [0]
    assert found([item], item.replace("привет", "пока")) == []


def test_n_grams_do_not_span_texts() -> None:
    assert found([QUESTION], " ".join(WORDS[:9]) + END + " ".join(WORDS[9:])) == []
    assert found([QUESTION], " ".join(WORDS[:9]) + END + QUESTION) == [0]


def test_n_grams_do_not_span_messages_of_an_item() -> None:
    index = Index([[" ".join(WORDS[:9]), " ".join(WORDS[9:])]], [0])
    assert index.find(QUESTION)[1] == {0: " ".join(WORDS[9:])}, "shorter than an n-gram, it is its longest message"


def test_an_item_shorter_than_an_n_gram_is_found_as_a_whole() -> None:
    short = "Which planet is the largest?"
    assert found([short], "Tell me: which planet is the LARGEST (or so)?") == [0]
    assert found([short], "Which planet is the smallest? The largest planet is Jupiter.") == []
    assert found(["", "?!", short], "which planet is the largest") == [2]


def test_n_grams_of_many_items_are_ignored() -> None:
    common = " ".join(WORDS[:13])
    items = [f"{common} {i} " + " ".join(f"own{i}x{k}" for k in range(13)) for i in range(COMMON + 1)]
    assert found(items, common) == []
    assert found(items[:COMMON], common) == [*range(COMMON)]
    assert found(items, common + END + items[3]) == [3], "its own words still count"
    assert found(items, common, [0, 1] * (len(items) // 2)) == [*range(COMMON + 1)], "two tasks of a few items each"
    assert found([" ".join([common] * (COMMON + 2))], common) == [0], "often in one item is not in many"


def test_a_match_comes_with_its_first_n_gram() -> None:
    words, hits = Index([[QUESTION], ["none of it " * 9]], [0, 1]).find(f"well {END} {QUESTION} {QUESTION}")
    assert hits == {0: " ".join(WORDS[:13])}
    assert words == 1 + 2 * len(WORDS)


def brute(items: list[list[str]], tasks: list[int], texts: list[list[str]], n: int, common: int) -> list[int]:
    def grams(words: list[str]) -> set[tuple[str, ...]]:
        size = min(n, len(words))
        return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)} if words else set()

    own = [grams(words) for words in items]
    read = {tuple(t[i : i + size]) for t in texts for size in range(1, n + 1) for i in range(len(t) - size + 1)}

    def many(item: int, gram: tuple[str, ...]) -> bool:
        return sum(gram in own[other] for other in range(len(items)) if tasks[other] == tasks[item]) > common

    return [i for i in range(len(items)) if any(gram in read and not many(i, gram) for gram in own[i])]


def test_the_index_finds_what_a_plain_search_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contamination, "N", 4)
    monkeypatch.setattr(contamination, "COMMON", 2)
    some = 0
    for seed in range(150):
        rng = random.Random(seed)

        def text(longest: int, rng: random.Random = rng) -> list[str]:
            return [rng.choice("abcdefg") for _ in range(rng.randrange(longest))]

        items = [text(9) for _ in range(12)]
        tasks = [rng.randrange(2) for _ in items]
        texts = [text(30) for _ in range(4)]
        index = Index([[" ".join(words)] for words in items], tasks)
        hits = sorted(index.find(END.join(" ".join(words) for words in texts))[1])
        assert hits == brute(items, tasks, texts, 4, 2)
        some += 0 < len(hits) < len(items)
    assert some > 100, "most trials find some and not all"


# -- what is searched --------------------------------------------------------------------------------------


def write(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return path


def sentence(name: str, words: int = 15) -> str:
    return " ".join(f"{name}{k}" for k in range(words)) + "."


MIRROR = {
    "gsm8k/test": [{"question": sentence(name), "answer": "So it is.\n#### 7"} for name in "abcdefgh"],
    "gsm8k/train": [{"question": sentence("train"), "answer": f"{sentence('a')} #### 1"}],
    "smoltalk_like/train": [
        {"messages": chat(f"Hello! {sentence('b').upper()}", sentence("c"))["messages"]},
        {"messages": chat(sentence("d", 12), sentence("e", 9))["messages"]},
    ],
    "arc/ARC-Easy/test": [
        {"question": "Which is it?", "choices": {"text": choices, "label": [*"ABCD"]}, "answerKey": "A"}
        for choices in ([sentence("same"), "ice", "fog", "sand"], [sentence("i"), sentence("j"), "ice", "fog"])
    ],
}


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """Trains on a mirror's few rows and a corpus of eight documents, and is tested on gsm8k and arc_easy."""
    monkeypatch.setenv("LANBOT_MIRROR", str(tmp_path))
    for name, rows in MIRROR.items():
        write(tmp_path / f"{name}.jsonl.gz", rows)
    corpus = [*({"text": f"{sentence('noise')} {i}"} for i in range(7)), {"text": sentence("g")}]
    write(tmp_path / "corpus/1.jsonl.gz", corpus)
    write(tmp_path / "corpus/2.jsonl.gz", [{"text": sentence("h")}])  # validation
    return recipe_of(
        tmp_path,
        f"""
        [base]
        data = "{tmp_path}/corpus"
        tokens = 10_000
        batch_tokens = 2_048
        [mid]
        mixture = [{{ task = "smoltalk" }}, {{ task = "spelling_bee:builtin" }}]
        [sft]
        mixture = [{{ task = "gsm8k" }}]
        [rl]
        mixture = [{{ task = "gsm8k" }}, {{ task = "identity" }}]
        [evals]
        tasks = ["identity", "gsm8k", "arc_easy"]
        """,
    )


def recipe_of(folder: Path, text: str) -> Recipe:
    path = folder / "recipe.toml"
    path.write_text(text)
    return load(path)


def test_all_training_data_of_a_recipe_is_searched(recipe: Recipe) -> None:
    result = check(recipe, recipe.evals.tasks)
    assert list(result["tasks"]) == ["gsm8k", "arc_easy"]
    gsm8k = result["tasks"]["gsm8k"]
    assert (gsm8k["items"], gsm8k["contaminated"]) == (8, [0, 1, 2, 6])
    # a: in an answer that sft trains on, and rl only asks; b, c: asked and answered in a chat; d: 12 words; e: 9;
    # f: nowhere; g: in the corpus; h: in its validation
    sources = {source: hits["items"] for source, hits in gsm8k["sources"].items()}
    assert sources == {"mid smoltalk": 2, "sft gsm8k": 1, "base": 1}
    assert gsm8k["sources"]["base"]["example"] == {"item": 6, "words": sentence("g", 13)[:-1]}
    assert set(result["words"]) == {"mid smoltalk", "sft gsm8k", "rl gsm8k", "base"}, "generated parts are skipped"
    assert result["words"]["mid smoltalk"] == 1 + 15 + 15 + 12 + 9
    assert json.loads(json.dumps(result)) == result == check(recipe, recipe.evals.tasks)


def test_the_corpus_is_searched_up_to_a_limit(recipe: Recipe) -> None:
    whole = check(recipe, ["gsm8k"])["words"]["base"]
    assert whole >= 8 * 15
    some = check(recipe, ["gsm8k"], base_chars=300)
    assert 0 < some["words"]["base"] < whole / 2
    assert "base" not in check(recipe, ["gsm8k"], base_chars=0)["words"]
    assert plan(recipe, ["gsm8k"])["corpus"][3] == 6 * 10_000, "no more than base can have read"


def test_only_rows_of_the_mixture_are_searched(recipe: Recipe, tmp_path: Path) -> None:
    one = recipe_of(tmp_path, '[mid]\nmixture = [{ task = "smoltalk", rows = 1, epochs = 3 }]')
    assert check(one, ["gsm8k"])["words"]["mid smoltalk"] in (31, 21)


def test_of_multiple_choice_the_question_counts(recipe: Recipe, tmp_path: Path) -> None:
    task = make_task("arc_easy", "test")
    assert question(task, 0) == ["Which is it?\nA " + sentence("same", 11)[:-1]], "all n-grams begin in the question"
    rows = [
        {"question": asked, "choices": {"text": [*first, "c", "d"], "label": [*"ABCD"]}, "answerKey": "A"}
        for asked, first in (("How is it?", [sentence("same"), "b"]), ("How was that?", [sentence("i"), sentence("j")]))
    ]
    write(tmp_path / "arc/ARC-Easy/train.jsonl.gz", rows)
    trains = recipe_of(tmp_path, '[mid]\nmixture = [{ task = "arc_easy" }]')
    assert check(trains, ["arc_easy"])["tasks"]["arc_easy"]["contaminated"] == [0], (
        "27 words of choices are no question"
    )


def test_a_broken_row_is_an_error_only_where_training_has_it(recipe: Recipe, tmp_path: Path) -> None:
    write(tmp_path / "gsm8k/test.jsonl.gz", [*MIRROR["gsm8k/test"], {"question": 7, "answer": "?"}])
    assert check(recipe, ["gsm8k"])["tasks"]["gsm8k"]["items"] == 8


def test_the_plan_changes_only_with_the_data(recipe: Recipe, tmp_path: Path) -> None:
    text = (tmp_path / "recipe.toml").read_text()
    before = plan(recipe, recipe.evals.tasks)
    assert json.loads(json.dumps(before)) == before and before["tasks"] == ["gsm8k", "arc_easy"]
    for old, new in (("identity", "handwritten"), ("spelling_bee:builtin", "simple_spelling:builtin")):
        changed = recipe_of(tmp_path, text.replace(f'"{old}" }}', f'"{new}" }}'))
        assert plan(changed, changed.evals.tasks) == before
    column = ("[base]", "[base]\ndata_column = 'body'")
    for old, new in (('"smoltalk"', '"smoltalk", rows = 1'), ("10_000", "9_000"), ('"arc_easy"]', '"mmlu"]'), column):
        changed = recipe_of(tmp_path, text.replace(old, new))
        assert plan(changed, changed.evals.tasks) != before


def test_generated_tasks_are_not_checked() -> None:
    assert real(load("demo").evals.tasks) == [] and plan(load("demo"), ["gsm8k"])["corpus"] == []
    assert real(["mmlu", "identity", "jsonl:x", "spelling_bee"]) == ["mmlu", "jsonl:x"]


def test_the_summary_has_counts_sources_and_an_example(recipe: Recipe) -> None:
    lines = contamination.summary(check(recipe, recipe.evals.tasks)).split("\n")
    assert " ".join(lines[2].split()) == "gsm8k mid smoltalk 2, sft gsm8k 1, base 1 8 4"
    assert f'gsm8k, item 1, in mid smoltalk: "{sentence("b", 13)[:-1]}"' in lines


# -- the real mirror ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("real_mirror")
def test_real_questions_in_a_jsonl_file_are_found(tmp_path: Path) -> None:
    tasks, taken = ("gsm8k", "arc_challenge"), [3, 100, 700]
    asked = [make_task(name, "test").conversation(i)["messages"][0]["content"] for name in tasks for i in taken]
    asked = [re.sub(r"- (.*) = (.)\n", r"(\2) \1\n", str(said)) for said in asked]  # as others write choices
    path = write(tmp_path / "own.jsonl.gz", [chat(f"HELP ME: {said}", "I will.") for said in asked])
    result = check(recipe_of(tmp_path, f'[sft]\nmixture = [{{ task = "jsonl:{path}" }}]'), tasks)
    assert {name: task["contaminated"] for name, task in result["tasks"].items()} == dict.fromkeys(tasks, taken)
    assert [task["items"] for task in result["tasks"].values()] == [1_319, 1_172]
