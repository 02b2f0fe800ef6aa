import gzip
import itertools
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lanbot.chat.formats.lanbot import LanBotFormat
from lanbot.chat.messages import call, chat, output, parts, python, spoken, text, validate
from lanbot.config.recipe import Identity, MixturePart
from lanbot.core.errors import UserError
from lanbot.data import hub
from lanbot.data.corpus import open_corpus
from lanbot.data.loader import ChatLoader
from lanbot.synthetic import world
from lanbot.synthetic.world.grammar import Cell, held_out_row, sections
from lanbot.tasks.gsm8k import MARK, with_calls
from lanbot.tasks.mixture import Mixture
from lanbot.tasks.registry import all_tasks, make_task
from lanbot.tasks.task import TaskContext, final_number, multiple_choice
from lanbot.tokenizers.bpe import BPETokenizer
from lanbot.tools.calculator import answer

BYTES = LanBotFormat(BPETokenizer.of_bytes(LanBotFormat.special_tokens))


def write_rows(path: Path, rows: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return path


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A mirror of a few made-up rows, in the layout of the real one."""
    monkeypatch.setenv("LANBOT_MIRROR", str(tmp_path))
    gsm8k = [
        {
            "question": "Half of 48?",
            "answer": "It is 48/2 = <<48/2=24>>24. And 1 more <<24+1=25>>25.\n#### 25",
        },
        {"question": "A third?", "answer": "Rounded <<1/3=0.33>>0.33, wrong <<2+2=5>>5.\n#### 1,205"},
    ]
    for split in ("train", "test"):
        write_rows(tmp_path / f"gsm8k/{split}.jsonl.gz", gsm8k)
    four = {"text": ["ice", "fire", "sand", "fog"], "label": ["A", "B", "C", "D"]}
    three = {"text": ["ice", "fire", "sand"], "label": ["1", "2", "3"]}
    arc = [
        {"id": "a", "question": "What is hot?", "choices": four, "answerKey": "B"},
        {"id": "b", "question": "What is cold?", "choices": three, "answerKey": "3"},
    ]
    for name in ("ARC-Easy", "ARC-Challenge"):
        write_rows(tmp_path / f"arc/{name}/test.jsonl.gz", arc)
    mmlu = [{"question": "2+2?", "subject": "algebra", "choices": ["3", "4", "5", "6"], "answer": 1}]
    write_rows(tmp_path / "mmlu/test.jsonl.gz", mmlu)
    write_rows(tmp_path / "mmlu/auxiliary_train_partial.jsonl.gz", mmlu * 3)
    write_rows(tmp_path / "smoltalk_like/train.jsonl.gz", [{**chat("hi", "ho"), "source": "x", "license": "MIT"}])
    words = "a\r\nstrawberry\r\nbanana\r\nunbelievablyextralong\r\n" + "".join(
        f"w{chr(97 + i)}d\r\n" for i in range(26)
    )
    (tmp_path / "words").mkdir()
    (tmp_path / "words/words_alpha.txt.gz").write_bytes(gzip.compress(words.encode()))
    return tmp_path


def said(words: str) -> dict:
    return {"role": "assistant", "content": words}


# -- gsm8k -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("mirror")
def test_gsm8k_marks_become_calls_with_their_outputs() -> None:
    task = make_task("gsm8k", "train")
    assert len(task) == 2
    question, solution = task.conversation(0)["messages"]
    assert question == {"role": "user", "content": "Half of 48?"}
    assert solution["content"] == [
        text("It is 48/2 = "),
        python("48/2"),
        output("24"),
        text("24. And 1 more "),
        python("24+1"),
        output("25"),
        text("25.\n#### 25"),
    ]


@pytest.mark.parametrize(
    ("solution", "content"),
    [
        ("no mark", [text("no mark")]),
        ("<<2*3=6>>6", [python("2*3"), output("6"), text("6")]),
        ("<<2*3=6>><<6+1=7>>", [python("2*3"), output("6"), python("6+1"), output("7")]),
        ("<<500*4=2,000>>", [python("500*4"), output("2000")]),
        ("<<7/2=3.50>>", [python("7/2"), output("3.5")]),
        ("a <<five*2=10>>10", [text("a 10")]),
        ("a <<2+=4>>4", [text("a 4")]),
        ("a <<2+2=four>>4", [text("a 4")]),
        ("Rounded <<1/3=0.33>>0.33, wrong <<2+2=5>>5.", [text("Rounded 0.33, wrong 5.")]),
    ],
)
def test_marks_of_every_kind(solution: str, content: list) -> None:
    assert with_calls(solution) == content


@pytest.mark.usefixtures("mirror")
def test_gsm8k_accepts_the_right_answer_and_no_other() -> None:
    task = make_task("gsm8k", "test")
    right = [
        "#### 25",
        "so\n#### 25",
        "#### 25.",
        "#### $25",
        "#### 25.0",
        "#### 25\nmore",
        "#### 3\n#### 25",
    ]
    wrong = ["", "25", "#### 24", "#### 25\n#### 24", "####", "#### 250", "#### -25", "#### twenty-five"]
    assert [task.check(0, said(words)) for words in right] == [True] * len(right)
    assert [task.check(0, said(words)) for words in wrong] == [False] * len(wrong)
    assert task.check(1, said("#### 1205")) and not task.check(1, said("#### 1,2"))
    assert all(task.check(i, task.conversation(i)["messages"][-1]) for i in range(2))


@pytest.mark.usefixtures("mirror")
def test_a_number_in_a_calls_output_is_not_the_answer() -> None:
    assert not make_task("gsm8k", "test").check(0, {"role": "assistant", "content": [output("#### 25")]})


@pytest.mark.parametrize(
    ("words", "number"),
    [
        ("#### 72", "72"),
        ("#### 72\n", "72"),
        ("####72", "72"),
        ("#### 1,200", "1200"),
        ("#### $5.", "5"),
        ("#### -3.50", "-3.5"),
        ("#### 1,000,000", "1000000"),
        ("#### 12345.67", "12345.67"),
        ("#### 1234567.5", "1234567.5"),
        ("#### 1\n#### 2", "2"),
        ("72", None),
        ("", None),
        ("####", None),
        ("#### \n", None),
        ("#### soon", None),
        ("#### 42 dollars", "42"),
        ("#### 18%", "18"),
        ("#### **18**", "18"),
        ("#### **$1,800.50** in all", "1800.5"),
        ("#### -7 degrees", "-7"),
        ("#### 1e3", "1000"),
        ("#### .5 miles", "0.5"),
        ("#### 1.2.3", None),
        ("#### about 5", None),
        ("#### **", None),
    ],
)
def test_final_number(words: str, number: str | None) -> None:
    assert final_number(words) == number


# -- multiple choice ---------------------------------------------------------------------------------------


def test_multiple_choice_names_each_choice_and_answers_with_a_letter_alone() -> None:
    question, letter = multiple_choice("What is hot?", ["ice", "fire"], 1)["messages"]
    assert question["content"] == "What is hot?\n- ice = A\n- fire = B\nAnswer with the letter."
    assert letter == {"role": "assistant", "content": "B"}


@pytest.mark.usefixtures("mirror")
@pytest.mark.parametrize("name", ["arc_easy", "arc_challenge"])
def test_arc(name: str) -> None:
    task = make_task(name, "test")
    assert [task.conversation(i)["messages"][-1]["content"] for i in range(2)] == ["B", "C"]
    assert [list(task.letters(i)) for i in range(2)] == [["A", "B", "C", "D"], ["A", "B", "C"]]
    assert "- sand = C" in task.conversation(1)["messages"][0]["content"]
    assert task.check(0, said("B")) and not task.check(0, said("A")) and not task.check(1, said("3"))


@pytest.mark.usefixtures("mirror")
def test_mmlu_trains_on_its_auxiliary_set() -> None:
    test, train = make_task("mmlu", "test"), make_task("mmlu", "train")
    assert (len(test), len(train)) == (1, 3)
    assert test.conversation(0)["messages"][-1]["content"] == "B"
    assert list(test.letters(0)) == ["A", "B", "C", "D"]
    assert test.check(0, said("B")) and not test.check(0, said("D"))


def test_a_task_that_is_not_multiple_choice_has_no_letters() -> None:
    with pytest.raises(NotImplementedError):
        make_task("identity:builtin", "test").letters(0)


# -- spelling ----------------------------------------------------------------------------------------------


def words_of(task) -> list[str]:
    return [task.words[i] for i in range(len(task))]


def test_both_spelling_tasks_hold_out_the_same_words_and_train_on_made_up_ones() -> None:
    for name in ("simple_spelling:builtin", "spelling_bee:builtin"):
        trained, test = words_of(make_task(name, "train")), set(words_of(make_task(name, "test")))
        train, real = set(trained), set(world.WORDS)
        assert len(trained) == len(train) > 5 * len(test) > 0
        assert test == {word for word in real if world.held_out(word)}
        assert train & real == real - test
        assert len(train - real) > 5_000
        assert not [word for word in train if world.held_out(word)]


def asks(section: str, split: str) -> set[int]:
    """Indices of the question templates of a split."""
    task = make_task(f"{'simple_spelling' if section == 'spell' else 'spelling_bee'}:builtin", split)
    known = {wording: place for place, row in enumerate(sections("spelling")[section]) for wording in wordings(row[0])}
    rows = range(0, len(task), max(1, len(task) // 900))
    asked = {}
    for i in rows:
        word, question = task.words[i], task.conversation(i)["messages"][0]["content"]
        letter = task._letter(i) if section == "count" else ""
        fits = {place for form, place in known.items() if form.format(word=word, letter=letter) == question}
        assert fits, question
        asked[i] = fits
    return set().union(*(fits for fits in asked.values() if len(fits) == 1))


def wordings(cell: Cell) -> list[str]:
    return list(map("".join, itertools.product(*[(piece,) if isinstance(piece, str) else piece for piece in cell])))


@pytest.mark.parametrize("section", ["spell", "count"])
def test_a_fifth_of_the_question_templates_is_never_trained_on(section: str) -> None:
    train, test = asks(section, "train"), asks(section, "test")
    size = len(sections("spelling")[section])
    assert train == {place for place in range(size) if not held_out_row(place)}
    assert test == set(range(size)) and len(train) <= 0.8 * size


@pytest.mark.parametrize("split", ["train", "test"])
def test_simple_spelling_spells_the_word_it_asks_for(split: str) -> None:
    task = make_task("simple_spelling:builtin", split)
    for i in range(len(task)):
        question, spelling = task.conversation(i)["messages"]
        assert task.words[i] in question["content"]
        assert spelling["content"].replace("-", "") == task.words[i]
        assert spelling["content"].count("-") == len(task.words[i]) - 1
        assert task.check(i, spelling)
        assert not task.check(i, said(task.words[i])) and not task.check(i, said(spelling["content"][:-1]))


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_spelling_bees_call_gives_the_count(split: str) -> None:
    task = make_task("spelling_bee:builtin", split)
    counts = []
    for i in range(min(300, len(task))):
        question, solution = task.conversation(i)["messages"]
        call = next(part["text"] for part in parts(solution) if part["type"] == "python")
        result = next(part["text"] for part in parts(solution) if part["type"] == "output")
        letter = call[-3]
        assert task.words[i] in question["content"] and letter in question["content"]
        assert answer(call) == result == str(task.words[i].count(letter)) == final_number(spoken(solution))
        assert task.check(i, solution)
        assert not task.check(i, said(f"#### {int(result) + 1}"))
        counts.append(int(result))
    assert 0 in counts and max(counts) >= 2


@pytest.mark.usefixtures("mirror")
def test_the_word_list_of_a_mirror_is_cleaned() -> None:
    words = words_of(make_task("simple_spelling", "train")) + words_of(make_task("simple_spelling", "test"))
    assert sorted(words) == sorted(["strawberry", "banana", *(f"w{chr(97 + i)}d" for i in range(26))])


# -- the built-in tasks ------------------------------------------------------------------------------------


def test_word_problems_accept_their_own_answers_only() -> None:
    task = make_task("word_problems", "test")
    for i in range(50):
        solution = task.conversation(i)["messages"][-1]
        assert task.check(i, solution)
        number = int(final_number(spoken(solution)) or 0)
        assert task.check(i, said(f"#### {number:,}")) and not task.check(i, said(f"#### {number + 1}"))
        assert not task.check(i, said(str(number)))


# -- by name -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wrong", "right"), [("gsm8", "gsm8k"), ("arc_eazy", "arc_easy"), ("identiti:x", "identity")])
def test_an_unknown_task_suggests_the_nearest(wrong: str, right: str) -> None:
    with pytest.raises(UserError, match=f"Did you mean {right}") as caught:
        make_task(wrong, "train")
    assert wrong in caught.value.problem and all(name in caught.value.remedy for name in all_tasks())


def test_jsonl_without_a_file_is_an_error() -> None:
    with pytest.raises(UserError, match="jsonl:PATH"):
        make_task("jsonl", "train")


def test_a_hub_task_offline_or_with_an_incomplete_mirror_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LANBOT_MIRROR", raising=False)
    monkeypatch.setenv("LANBOT_OFFLINE", "1")
    monkeypatch.setenv("LANBOT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"openai/gsm8k.*offline"):
        len(make_task("gsm8k", "train"))
    monkeypatch.setenv("LANBOT_MIRROR", str(tmp_path))
    with pytest.raises(UserError, match=r"openai/gsm8k.*gsm8k/train\.jsonl\.gz"):
        len(make_task("gsm8k", "train"))


# -- jsonl -------------------------------------------------------------------------------------------------

GOOD = json.dumps(chat("hi", "ho"))
BARE = json.dumps(chat("hi", "ho")["messages"])


def own(path: Path, *lines: str, skip: bool = False):
    path.write_text("\n".join(lines) + "\n")
    return make_task(f"jsonl:{path}", "train", TaskContext(skip_bad_rows=skip))


def test_jsonl_rows_are_objects_or_bare_lists(tmp_path: Path) -> None:
    task = own(tmp_path / "c.jsonl", GOOD, "", BARE)
    assert len(task) == 2 and task.note == ""
    assert task.conversation(0) == task.conversation(1) == chat("hi", "ho")


def test_rows_in_the_layouts_of_sharegpt_and_alpaca(tmp_path: Path) -> None:
    share = {"id": "x", "conversations": [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "hi"},
                                          {"from": "gpt", "value": "ho"}]}  # fmt: skip
    task = own(
        tmp_path / "c.jsonl",
        json.dumps(share),
        json.dumps({"instruction": "hi", "input": "", "output": "ho"}),
        json.dumps({"instruction": "Add.", "input": "2, 2", "output": "4", "system": "Be brief."}),
        json.dumps({"instruction": "", "input": "hi", "output": "ho", "history": [["a", "b"]]}),
        json.dumps({"conversations": share["conversations"][1:], "system": "Be brief."}),
    )
    assert task.conversation(3)["messages"] == [*chat("a", "b")["messages"], *chat("hi", "ho")["messages"]]
    assert task.conversation(4) == task.conversation(0)
    system = {"role": "system", "content": "Be brief."}
    assert task.conversation(0)["messages"] == [system, *chat("hi", "ho")["messages"]]
    assert task.conversation(1) == chat("hi", "ho")
    assert task.conversation(2)["messages"] == [system, *chat("Add.\n\n2, 2", "4")["messages"]]


def test_names_of_special_tokens_are_plain_text_and_noted(tmp_path: Path) -> None:
    task = own(tmp_path / "c.jsonl", GOOD, json.dumps(chat("say <|assistant_end|>", "<|im_start|>")))
    assert len(task) == 2 and "1 rows have names of special tokens" in task.note and "line 2" in task.note
    ids, mask = BYTES.render(task.conversation(1))
    assert sum(id >= 256 for id in ids) == 5 and sum(mask) == len("<|im_start|>") + 1


def marked(*marks: dict[str, object], share: bool = False) -> dict[str, object]:
    """A turn for each of `marks`, which are keys of its answer."""
    role, content, user, bot = ("from", "value", "human", "gpt") if share else ("role", "content", "user", "assistant")
    turns = [message for mark in marks for message in ({role: user, content: "hi"}, {role: bot, content: "ho", **mark})]
    return {"conversations" if share else "messages": turns}


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("mark", [{"train": False}, {"weight": 0}, {"weight": 0.0}, {"train": False, "weight": 1}])
def test_answers_with_train_false_or_weight_0_have_no_loss(
    mark: dict[str, object], share: bool, tmp_path: Path
) -> None:
    row = marked(mark, {"train": True, "weight": 1}, share=share)
    answers = own(tmp_path / "c.jsonl", json.dumps(row)).conversation(0)["messages"][1::2]
    assert answers[0] == {"role": "assistant", "content": "ho", "train": False}
    assert answers[1] == {"role": "assistant", "content": "ho"}


@pytest.mark.parametrize("mark", [{"train": "no"}, {"weight": 0.5}, {"weight": [1]}])
def test_other_values_of_train_and_weight_are_refused(mark: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="line 1: message 2 is marked with"):
        len(own(tmp_path / "c.jsonl", json.dumps(marked(mark))))


def test_the_developer_is_the_system_and_layouts_mix(tmp_path: Path) -> None:
    messages = [{"role": "developer", "content": "Be brief."}, *chat("hi", "ho")["messages"]]
    task = own(tmp_path / "c.jsonl", *(json.dumps({key: messages}) for key in ("messages", "conversations")))
    system = {"role": "system", "content": "Be brief."}
    assert task.conversation(0) == task.conversation(1) == {"messages": [system, *chat("hi", "ho")["messages"]]}


CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}


@pytest.mark.parametrize(
    "answer",
    [
        [
            {
                "role": "assistant",
                "content": "Let me look.",
                "tool_calls": [{**CALL, "function": {"name": "weather"}}, 1],
            }
        ],
        [{"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}],
        [{"role": "assistant", "content": None, "function_call": CALL["function"]}],
        [{"from": "function_call", "value": "{}"}, {"from": "observation", "value": "4"}],
        [{"role": "function", "content": "4"}],
    ],
)
def test_tool_calls_of_other_formats_are_refused_and_never_dropped(answer: list[object], tmp_path: Path) -> None:
    row = json.dumps({"messages": [{"role": "user", "content": "How warm is it?"}, *answer]})
    with pytest.raises(UserError, match="line 2: message 2 is a tool call or a tool's result") as caught:
        len(own(tmp_path / "c.jsonl", GOOD, row))
    assert '"tool_calls"' in caught.value.remedy and str(caught.value).count("\n") == 1
    assert len(own(tmp_path / "c.jsonl", GOOD, row, skip=True)) == 1


def test_openais_tool_calls_are_read_and_train_every_format(tmp_path: Path) -> None:
    called = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    again = {"id": "c2", "type": "function", "function": {"name": "python", "arguments": '{"code": "2+2"}'}}
    messages = [
        {"role": "user", "content": "How warm is it?"},
        {"role": "assistant", "content": "I look.", "tool_calls": [called, again]},
        {"role": "tool", "content": "mild", "tool_call_id": "c1"},
        {"role": "tool", "content": "4", "tool_call_id": "c2"},
        {"role": "assistant", "content": "It is mild."},
    ]
    task = own(tmp_path / "c.jsonl", json.dumps({"messages": messages}))
    assert len(task) == 1
    conversation = task.conversation(0)
    parts_of = [text("I look."), call("weather", {"city": "Oslo"}, "c1"), {**python("2+2"), "id": "c2"}]
    assert conversation["messages"][1]["content"] == parts_of
    ids, mask = BYTES.render(conversation)
    shown = BYTES.tokenizer.decode(ids)
    assert "<|python_start|>weather(city='Oslo')<|python_end|><|output_start|>mild<|output_end|>" in shown
    assert "<|python_start|>2+2<|python_end|><|output_start|>4<|output_end|>It is mild.<|assistant_end|>" in shown
    said = BYTES.tokenizer.decode([token for token, own in zip(ids, mask, strict=True) if own])
    assert "mild<" not in said and "weather" in said
    begun = BYTES.prompt(conversation["messages"][:4])
    assert BYTES.tokenizer.decode(begun).endswith("<|python_start|>2+2<|python_end|><|output_start|>4<|output_end|>")


def test_arrays_of_conversations(tmp_path: Path) -> None:
    rows = [chat("hi", "ho"), {"instruction": "hi", "input": "", "output": "ho"}, marked({}, share=True)]
    for indent in (None, 2):
        (tmp_path / "c.json").write_text(json.dumps(rows, indent=indent))
        task = make_task(f"jsonl:{tmp_path}/c.json", "train")
        assert [task.conversation(i) for i in range(len(task))] == [chat("hi", "ho")] * 3


def test_a_changed_file_changes_the_fingerprint(tmp_path: Path) -> None:
    parts = (MixturePart(f"jsonl:{tmp_path / 'c.jsonl'}"),)

    def fingerprint(answer: str) -> str:
        own(tmp_path / "c.jsonl", json.dumps(chat("hi", answer)))
        return mixture(mixed=parts).fingerprint

    assert fingerprint("ho") == fingerprint("ho") != fingerprint("ha")


def test_a_gzipped_file_and_parts(tmp_path: Path) -> None:
    rows = [chat("2+2?", [python("2+2"), output("4"), text("4")]), chat("hi", "ho")]
    task = make_task(f"jsonl:{write_rows(tmp_path / 'c.jsonl.gz', rows)}", "train")
    assert [task.conversation(i) for i in range(len(task))] == rows


def test_a_line_separator_inside_a_row_does_not_end_it(tmp_path: Path) -> None:
    row = chat("a\u2028b\u0085c", "d\x0be\x1cf")
    task = own(tmp_path / "c.jsonl", json.dumps(row, ensure_ascii=False), GOOD)
    assert len(task) == 2 and task.conversation(0) == row


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "not JSON"),
        ("hello", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"text": "hello"}', "no list of messages"),
        ('{"messages": [{"role": "user", "content": "hi"}]}', "nobody answers"),
        ('[{"role": "bot", "content": "hi"}]', "message 1 has the role 'bot'"),
        (json.dumps(chat("hi", " ")), "message 2 is empty"),
        (json.dumps(chat("a" * 10_000_000, "ho")), "message 1 is 10,000,000 characters long"),
        (json.dumps(chat("\ud800", "ho")), "half of a surrogate pair"),
        ('{"conversations": [{"from": "human", "value": "hi"}]}', "nobody answers"),
        ('{"conversations": [{"from": "robot", "value": "hi"}]}', "message 1 has the role 'robot'"),
        ('{"instruction": "hi", "output": 7}', "no list of messages"),
        ('{"instruction": "hi", "output": "ho", "history": 3}', "no list of messages"),
    ],
)
def test_a_broken_row_is_an_error_with_file_and_line_or_skipped(line: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    with pytest.raises(UserError) as caught:
        len(own(path, GOOD, "", line, GOOD))
    assert caught.value.problem.startswith(f"{path}, line 3: ") and problem in caught.value.problem
    assert str(caught.value).count("\n") == 1
    task = own(path, GOOD, "", line, GOOD, skip=True)
    assert len(task) == 2
    assert "1 of 3 rows skipped" in task.note and f"{path}, line 3" in task.note


@pytest.mark.parametrize(("lines", "skip"), [([""], True), ([""], False), (["{", "{"], True)])
def test_a_file_without_conversations_is_an_error(lines: list[str], skip: bool, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"c\.jsonl.*no conversation"):
        len(own(tmp_path / "c.jsonl", *lines, skip=skip))


def test_a_missing_truncated_or_damaged_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.jsonl: no such file"):
        len(make_task(f"jsonl:{tmp_path}/none.jsonl", "train"))
    with pytest.raises(UserError, match="cannot be read"):
        len(make_task(f"jsonl:{tmp_path}", "train"))
    whole = write_rows(tmp_path / "c.jsonl.gz", [chat(str(i), str(i * i)) for i in range(500)]).read_bytes()
    (tmp_path / "torn.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"torn\.jsonl\.gz: cannot be read"):
        len(make_task(f"jsonl:{tmp_path}/torn.jsonl.gz", "train", TaskContext(skip_bad_rows=True)))
    for place in range(20, len(whole), len(whole) // 20):
        flipped = bytearray(whole)
        flipped[place] ^= 0xFF
        (tmp_path / "flipped.jsonl.gz").write_bytes(flipped)
        with pytest.raises(UserError, match=r"flipped\.jsonl\.gz"):
            len(make_task(f"jsonl:{tmp_path}/flipped.jsonl.gz", "train"))


# -- mixtures ----------------------------------------------------------------------------------------------

PARTS = (
    MixturePart("identity:builtin", rows=30, epochs=3),
    MixturePart("simple_spelling:builtin", rows=20),
    MixturePart("word_problems", rows=10, epochs=2),
)


def mixture(seed: int = 0, mixed: tuple[MixturePart, ...] = PARTS) -> Mixture:
    return Mixture(mixed, Identity("Robi"), BYTES, seed)


def items(mixed: Mixture) -> list[tuple[int, int]]:
    """(part, row) in order."""
    return [(mixed.tasks.index(task), row) for task, row in map(mixed.item, range(len(mixed)))]


def test_a_part_without_a_number_of_rows_or_with_too_many_takes_all() -> None:
    name = "simple_spelling:builtin"
    size = len(make_task(name, "train"))
    for rows in (None, size + 1_000):
        mixed = mixture(0, (MixturePart(name, rows),))
        assert {row for _, row in items(mixed)} == set(range(size))
        assert [f"{size:,} available" in note for note in mixed.notes()] == [True] * (rows is not None)


def test_a_mixture_has_the_rows_and_epochs_of_its_parts_and_no_row_repeats_within_an_epoch() -> None:
    order = items(mixture())
    assert len(order) == 90 + 20 + 20
    for k, part in enumerate(PARTS):
        rows = [row for part_k, row in order if part_k == k]
        epochs = [rows[i : i + part.rows] for i in range(0, len(rows), part.rows)]
        assert len(epochs) == part.epochs and len(set(rows)) == part.rows
        assert all(set(epoch) == set(rows) and len(set(epoch)) == part.rows for epoch in epochs)


def test_the_order_is_mixed_and_follows_from_the_seed() -> None:
    order = [k for k, _ in items(mixture())]
    assert all(set(order[i : i + 65]) == {0, 1, 2} for i in (0, 65))
    assert items(mixture(1)) == items(mixture(1))
    assert items(mixture(1)) != items(mixture(2))
    assert [k for k, _ in items(mixture(1))] != [k for k, _ in items(mixture(2))]


def test_a_mixtures_rows_are_rendered_conversations_of_this_identity() -> None:
    mixed = mixture()
    for i in range(len(mixed)):  # requests are typed as people type; what is under loss is the conversation's
        ids, mask = mixed[i]
        expected = BYTES.render(mixed.conversation(i))
        learned = [token for token, own in zip(ids, mask, strict=True) if own]
        assert learned == [token for token, own in zip(*expected, strict=True) if own]
    assert any("Robi" in BYTES.tokenizer.decode(mixed[i][0]) for i in range(len(mixed)))


BAD = {
    "gsm8k/train.jsonl.gz": ("gsm8k", [
        ({"question": "2+2?"}, "no column 'answer' (it has question)"),
        ({"question": 4, "answer": "#### 4"}, "question is '4', not text"),
        ({"question": "", "answer": "#### 4"}, "question is '', not text"),
        (["2+2?", "4"], "not a row of columns"),
    ]),
    "mmlu/auxiliary_train_partial.jsonl.gz": ("mmlu", [
        ({"question": "2+2?", "choices": ["3", "4"], "answer": 2}, "answer 2 of the choices"),
        ({"question": "2+2?", "choices": ["3", "4"], "answer": -1}, "answer -1 of the choices"),
        ({"question": "2+2?", "choices": ["3", None], "answer": 1}, "answer 1 of the choices"),
        ({"question": "2+2?", "choices": "34", "answer": 1}, "choices is '34', not a list"),
    ]),
    "arc/ARC-Easy/train.jsonl.gz": ("arc_easy", [
        ({"question": "2+2?", "choices": {"text": ["3", "4"], "label": ["A", "B"]}, "answerKey": "E"}, "not a row of"),
        ({"question": "2+2?", "choices": {"text": ["3", "4"]}, "answerKey": "B"}, "not a row of allenai/ai2_arc"),
    ]),
    "smoltalk_like/train.jsonl.gz": ("smoltalk", [
        ({"messages": []}, "no list of messages"),
        ({"messages": [{"role": "user"}]}, "not a row of"),
        ({"messages": [{"role": "user", "content": "hi"}]}, "nobody answers"),
        ({"messages": [{"role": "assistant", "content": "hi"}]}, "before anyone asked"),
        ({"messages": [{"role": "user", "content": ""}, {"role": "assistant", "content": "hi"}]}, "is empty"),
        ({"messages": [{"role": "user", "content": "hi"}] * 2}, "second of the role 'user'"),
    ]),
}  # fmt: skip


@pytest.mark.parametrize(
    ("file", "name", "row", "problem"), [(file, name, *bad) for file, (name, bads) in BAD.items() for bad in bads]
)
def test_a_bad_row_of_a_data_set_is_an_error_or_skipped(
    file: str, name: str, row: object, problem: str, mirror: Path, capsys: pytest.CaptureFixture
) -> None:
    good = {
        "gsm8k": {"question": "2+2?", "answer": "<<2+2=4>>4 #### 4"},
        "mmlu": {"question": "2+2?", "choices": ["3", "4"], "answer": 1},
        "arc_easy": {"question": "2+2?", "choices": {"text": ["3", "4"], "label": ["A", "B"]}, "answerKey": "B"},
        "smoltalk": chat("hi", "ho"),
    }[name]
    write_rows(mirror / file, [good, row, good, row])
    task = make_task(name, "train")
    assert len(task) == 4 and validate(task.conversation(0), "here") == task.conversation(2)
    with pytest.raises(UserError) as caught:
        task.conversation(1)
    assert caught.value.problem.startswith(f"{mirror / file}, line 2: ") and problem in caught.value.problem
    assert "skip_bad_rows" in caught.value.remedy or "messages" in caught.value.remedy
    with pytest.raises(UserError, match=r"line [24]: "):
        list(mixture(0, (MixturePart(name),)))
    rendered = list(mixture(0, (MixturePart(name, epochs=2, skip_bad_rows=True),)))
    assert rendered.count(([], [])) == 4 and len(rendered) == 8
    loader = ChatLoader(rendered, BYTES.bos, 1, 512)
    while loader.next_batch() is not None:
        pass
    assert loader.notes()["bad"] == 4
    assert capsys.readouterr().err.count("skipped") == 1, "reported once"
    asked = mixture(0, (MixturePart(name, skip_bad_rows=True),))
    assert asked.leave_out_bad_rows() == 2 and len(asked) == 2
    assert all(asked.conversation(i) == task.conversation(0) for i in range(2))


def test_a_mixture_reports_skipped_rows(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    own(path, GOOD, "{", GOOD)
    mixed = mixture(0, (MixturePart(f"jsonl:{path}", skip_bad_rows=True),))
    assert len(mixed) == 2
    assert mixed.notes() and "1 of 3 rows skipped" in mixed.notes()[0]
    with pytest.raises(UserError, match="line 2"):
        mixture(0, (MixturePart(f"jsonl:{path}"),))


# -- the real mirror ---------------------------------------------------------------------------------------

ROWS = {  # as data/MANIFEST.md counts them
    ("gsm8k", "train"): 7_473,
    ("gsm8k", "test"): 1_319,
    ("arc_easy", "train"): 2_251,
    ("arc_easy", "validation"): 570,
    ("arc_easy", "test"): 2_376,
    ("arc_challenge", "train"): 1_119,
    ("arc_challenge", "validation"): 299,
    ("arc_challenge", "test"): 1_172,
    ("mmlu", "train"): 12_126,
    ("mmlu", "validation"): 1_531,
    ("mmlu", "test"): 14_042,
    ("humaneval", "test"): 164,
    ("smoltalk", "train"): 24_498,
    ("smoltalk", "test"): 1_278,
}


@pytest.mark.usefixtures("real_mirror")
@pytest.mark.parametrize(("name", "split"), ROWS)
def test_every_real_row_is_a_conversation_that_renders(name: str, split: str) -> None:
    task = make_task(name, split)
    assert len(task) == ROWS[name, split]
    for i in range(len(task)):
        conversation = validate(task.conversation(i), f"{name} {split} {i}")
        ids, mask = BYTES.render(conversation)
        assert len(ids) == len(mask) and 0 < sum(mask) < len(mask)
        last = conversation["messages"][-1]
        if task.kind == "choice":
            assert last["content"] in task.letters(i)
        if task.kind != "chat" and not task.runs_code:
            assert task.check(i, last)


@pytest.mark.usefixtures("real_mirror")
@pytest.mark.parametrize("name", ["gsm8k", "arc_easy", "arc_challenge", "mmlu", "humaneval", "smoltalk"])
def test_the_hubs_parquet_gives_the_conversations_of_the_mirrors_rows(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(name, "test")
    expected = [task.conversation(i) for i in range(50)]
    pq.write_table(pa.Table.from_pylist([task.rows[i] for i in range(50)]), tmp_path / "a.parquet")  # type: ignore[attr-defined]
    monkeypatch.setattr(hub, "files", lambda source, options: [tmp_path / "a.parquet"])
    task = make_task(name, "test")
    assert [task.conversation(i) for i in range(len(task))] == expected
    if task.kind == "choice":
        assert all(task.check(i, expected[i]["messages"][-1]) and task.letters(i)[0] == "A" for i in range(50))


@pytest.mark.usefixtures("real_mirror")
def test_nearly_all_real_gsm8k_marks_become_calls() -> None:
    for split in ("train", "test"):
        task = make_task("gsm8k", split)
        marks = sum(len(MARK.findall(row["answer"])) for row in task.rows)
        opened = sum(row["answer"].count("<<") for row in task.rows)
        solutions = [task.conversation(i)["messages"][-1] for i in range(len(task))]
        calls = sum(part["type"] == "python" for solution in solutions for part in parts(solution))
        assert marks >= 0.99 * opened
        assert 0.95 * opened <= calls <= opened


@pytest.mark.usefixtures("real_mirror")
def test_every_real_word_renders() -> None:
    words = {split: words_of(make_task("simple_spelling", split)) for split in ("train", "test")}
    assert set(words["train"]).isdisjoint(words["test"])
    assert len(words["train"]) + len(words["test"]) > 250_000
    assert all(word.isalpha() and word.islower() and 3 <= len(word) <= 12 for word in words["train"] + words["test"])
    for split in words:
        task = make_task("simple_spelling", split)
        for i in range(len(task)):
            _, mask = BYTES.render(task.conversation(i))
            assert sum(mask) == 2 * len(task.words[i])  # letters, dashes between them, the end of the turn
    bee = make_task("spelling_bee", "test")
    assert all(bee.check(i, bee.conversation(i)["messages"][-1]) for i in range(0, len(bee), 10))


@pytest.mark.usefixtures("real_mirror")
def test_every_real_document_is_in_the_corpus_once() -> None:
    train, validation = open_corpus("hf:HuggingFaceFW/fineweb-edu", 0)
    counts = []
    for corpus in (train, validation):
        documents = list(corpus.once())
        assert all(documents)
        counts.append(len(documents))
    assert counts == [18_496, 530]
