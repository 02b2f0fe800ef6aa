"""Memory: what was remembered is found again, in another process too, whatever the query is."""

import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanbot.core.errors import UserError
from lanbot.tools.memory import MAX_TEXT, RECALLED, Memory, ToolError


def memory_of(*texts: str, path: Path | None = None) -> Memory:
    memory = Memory(path)
    for text in texts:
        memory.remember(text)
    return memory


def numbers(recalled: str) -> list[int]:
    return [int(line.partition(":")[0]) for line in recalled.split("\n")]


def test_what_the_tools_say() -> None:
    memory = Memory()
    assert memory.remember("my cat is Tom") == "remembered as 1"
    assert memory.remember("  the key\n is under the mat ") == "remembered as 2"
    assert memory.recall("Where is the key?") == "2: the key is under the mat"
    assert memory.recall("dog") == "nothing found"
    assert memory.forget(2) == "forgot 2"
    assert memory.recall("key") == "nothing found"
    assert memory.all() == [(1, "my cat is Tom")]


# -- what is found -------------------------------------------------------------------------------------------


def test_more_of_the_words_come_first_whatever_the_length() -> None:
    memory = memory_of(
        "my favorite food, which I eat every day of the week with my friends in town, is pasta",
        "favorite",
        "food",
    )
    assert numbers(memory.recall("what is my favorite food?"))[0] == 1


def test_of_single_words_the_rarer_one_counts_more() -> None:
    memory = memory_of("red kite", "blue boat", "blue house", "blue tree", "blue bird")
    assert numbers(memory.recall("blue kite"))[0] == 1


def test_of_equals_the_latest_comes_first_and_three_at_most() -> None:
    memory = memory_of(*[f"tea number {word}" for word in ("one", "two", "six", "ten")])
    assert numbers(memory.recall("tea")) == [4, 3, 2]
    assert len(numbers(memory.recall("tea number"))) == RECALLED


def test_forms_of_a_word_and_capitals_and_accents_are_found() -> None:
    memory = memory_of("Mia CLIMBED mountains", "Zoë lives in Łódź")
    assert memory.recall("climbing a mountain").startswith("1: ")
    assert memory.recall("zoe") == memory.recall("ZOË?") == "2: Zoë lives in Łódź"


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("İstanbul trip in May", "İstanbul"),
        ("İstanbul trip in May", "istanbul"),
        ("istanbul trip", "İSTANBUL"),
        ("cafe\u0301 at noon", "café"),
        ("café at noon", "CAFE\u0301?"),
        ("Straße 12", "STRASSE"),
        ("ｆｕｌｌ width", "full"),
        ("我的猫叫汤姆", "猫"),
        ("我的猫叫汤姆", "汤姆是谁?"),
        ("私のねこはタマです", "ねこ"),
        ("แมวของฉันชื่อทอม", "แมว"),
        ("मेरी बिल्ली का नाम टॉम है", "बिल्ली"),
        ("моя кошка Маша", "КОШКА"),
    ],
)
def test_every_script_and_form_of_unicode_is_found(text: str, query: str) -> None:
    memory = memory_of(text, "something else")
    assert memory.recall(query) == f"1: {text}"


def test_small_words_count_only_when_there_are_no_others() -> None:
    memory = memory_of("what is the matter", "Tom is my cat")
    assert memory.recall("what is the cat of my name?") == "2: Tom is my cat"
    assert memory.recall("What is the...?").startswith("1: ")


@pytest.mark.parametrize(
    "query",
    [
        '"tea',
        "tea'",
        "tea*",
        "AND tea",
        "tea OR",
        "NOT tea",
        "NEAR(tea, 2)",
        "text:tea",
        "tea AND AND",
        "(tea",
        "tea -milk",
        "^tea +",
        "{tea}",
        "'; drop table memories; -- tea",
        "tea\0",
        "tea " * 500,
    ],
    ids=lambda query: query[:20],
)
def test_a_query_is_words_and_nothing_else(query: str) -> None:
    assert memory_of("some tea").recall(query) == "1: some tea"


@given(st.text())
def test_any_query_is_answered(query: str) -> None:
    recalled = MIXED.recall(query)
    assert recalled == "nothing found" or re.fullmatch(r"\d: .*(\n\d: .*){0,2}", recalled)


MIXED = memory_of("a b c AND or not", "çé 数 ² ½ ١", "__ x_y")


@pytest.mark.parametrize("query", ["", " ", "?!", "___", "\0"])
def test_a_query_without_words_finds_nothing(query: str) -> None:
    assert memory_of("some tea").recall(query) == "nothing found"


# -- remember and forget -------------------------------------------------------------------------------------


def test_the_same_is_remembered_once() -> None:
    memory = memory_of("some tea", "some milk")
    assert memory.remember("some  tea") == "remembered as 1"
    assert memory.recall("tea") == "1: some tea"


def test_a_number_is_not_given_twice() -> None:
    memory = memory_of("one", "two")
    memory.forget(2)
    assert memory.remember("three") == "remembered as 3"


def test_the_number_may_be_text_and_must_be_there() -> None:
    memory = memory_of("one", "two")
    assert memory.forget("2") == "forgot 2"  # type: ignore[arg-type]
    for wrong in (2, -1, 0):
        with pytest.raises(ToolError, match=f"^nothing is remembered as {wrong}$"):
            memory.forget(wrong)
    for wrong in ("one", None, 1.5, 10**30):
        with pytest.raises(ToolError, match="the number that recall shows"):
            memory.forget(wrong)  # type: ignore[arg-type]
    assert memory.all() == [(1, "one")]


def test_what_is_empty_or_too_long_is_refused() -> None:
    memory = Memory()
    with pytest.raises(ToolError, match="nothing to remember"):
        memory.remember(" \n")
    with pytest.raises(ToolError, match="too long"):
        memory.remember("x" * (MAX_TEXT + 1))
    assert memory.all() == []


def test_cleared_it_is_as_new() -> None:
    memory = memory_of("some tea", "some milk")
    memory.clear()
    assert (memory.all(), memory.recall("tea")) == ([], "nothing found")
    assert memory.remember("more tea") == "remembered as 1"


# -- the file ------------------------------------------------------------------------------------------------


def test_another_conversation_finds_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "memory.db"
    first = memory_of("my cat is Tom", path=path)
    second = Memory(path)
    assert second.recall("cat") == "1: my cat is Tom"
    second.remember("my dog is Rex")
    assert first.recall("dog") == "2: my dog is Rex"
    first.forget(1)
    first.close()
    assert Memory(path).all() == [(2, "my dog is Rex")]


def test_two_processes_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    code = (
        "import sys\nfrom lanbot.tools.memory import Memory\n"
        "for i in range(40):\n"
        "    memory = Memory(sys.argv[1])\n"
        "    number = memory.remember(f'{sys.argv[2]} {i}').split()[-1]\n"
        "    assert f'{sys.argv[2]} {i}' in memory.recall(f'{sys.argv[2]} {i}')\n"
        "    i % 4 or memory.forget(number)\n"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(path), name], stderr=subprocess.PIPE, text=True)
        for name in ("apples", "pears", "plums")
    ]
    assert [process.communicate()[1] for process in started] == [""] * 3
    memory = Memory(path)
    expected = {f"{name} {i}" for name in ("apples", "pears", "plums") for i in range(40) if i % 4}
    assert {text for _, text in memory.all()} == expected
    assert len(memory.all()) == len(expected)
    memory.database.execute("insert into words (words) values ('integrity-check')")
    assert memory.database.execute("pragma integrity_check").fetchone() == ("ok",)


def test_what_fails_midway_is_undone(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "memory.db")
    memory.database.execute("drop table words")
    with pytest.raises(sqlite3.Error):
        memory.remember("some tea")
    assert memory.all() == []


def test_a_file_that_is_not_a_memory_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    path.write_text("something else, and long enough to be told from an empty file" * 20)
    with pytest.raises(UserError, match=r"memory.db: cannot be used as a memory: file is not a database") as raised:
        Memory(path)
    assert "move it away" in raised.value.remedy
    assert path.read_text().startswith("something else")


def test_a_file_of_an_older_version_is_read_and_its_index_rebuilt(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    with sqlite3.connect(path) as database:
        database.execute("create table memories (id integer primary key autoincrement, text text not null unique)")
        database.execute("create virtual table words using fts5 (text, tokenize = 'porter unicode61')")
        for number, text in ((1, "İstanbul trip in May"), (4, "我的猫叫汤姆")):
            database.execute("insert into memories values (?, ?)", (number, text))
            database.execute("insert into words (rowid, text) values (?, ?)", (number, text))
    database.close()
    memory = Memory(path)
    assert memory.recall("istanbul") == "1: İstanbul trip in May"
    assert memory.recall("猫") == "4: 我的猫叫汤姆"
    assert memory.remember("new") == "remembered as 5"


def test_a_locked_file_says_who_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "memory.db"
    Memory(path).close()
    monkeypatch.setattr("lanbot.tools.memory.BUSY_SECONDS", 0.2)
    code = (
        "import sqlite3, sys\ndatabase = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "database.execute('begin exclusive')\nprint('locked', flush=True)\nsys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdin and holder.stdout and holder.stdout.readline() == "locked\n"
    with pytest.raises(UserError) as raised:
        Memory(path)
    known = Path("/proc/self/fd").exists()
    who = f"process {holder.pid} (" if known else "another process"
    assert raised.value.problem.startswith(f"{path}: locked by {who}") and "move it" not in raised.value.remedy
    assert capsys.readouterr().err.startswith(f"{path}: waiting for {who}")
    holder.communicate()
    assert Memory(path).all() == []


def test_a_file_that_cannot_be_written_can_be_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "memory.db"
    memory_of("my cat is Tom", path=path).close()
    real = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda name, **options: real(f"file:{path}?mode=ro", **options | {"uri": True})
    )
    memory = Memory(path)
    assert memory.recall("cat") == "1: my cat is Tom"
    for change in (lambda: memory.remember("dog"), lambda: memory.forget(1)):
        with pytest.raises(ToolError, match="the memory is read-only"):
            change()
    assert memory.all() == [(1, "my cat is Tom")]


def test_a_memory_that_cannot_be_created_is_empty_and_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*given: object, **named: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", read_only)
    memory = Memory(tmp_path / "new" / "memory.db")
    assert memory.recall("cat") == "nothing found"
    with pytest.raises(ToolError, match="read-only"):
        memory.remember("cat")


# -- provenance, and what a person does with it --------------------------------------------------------------


def test_each_text_keeps_its_time_and_its_conversation(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "memory.db", source="first")
    memory.remember("my cat is Tom")
    memory.source = "second"
    memory.remember("my dog is Rex")
    memory.remember("my  cat is Tom")  # known: it stays where it came from
    memory.close()
    entries = Memory(tmp_path / "memory.db").entries()
    assert [(entry.number, entry.text, entry.source) for entry in entries] == [
        (1, "my cat is Tom", "first"),
        (2, "my dog is Rex", "second"),
    ]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", entry.time) for entry in entries)


def test_an_edited_text_is_found_by_its_new_words_only() -> None:
    memory = memory_of("my cat is Tom", "my dog is Rex")
    memory.source = "me"
    memory.edit(1, " my cat\n is Pip ")
    assert (memory.recall("Tom"), memory.recall("Pip")) == ("nothing found", "1: my cat is Pip")
    assert [entry.source for entry in memory.entries()] == ["me", ""]
    memory.edit(1, "my cat is Pip")
    for number, text, why in [(1, "my dog is Rex", "remembered as 2"), (9, "x", "as 9"), (1, " ", "nothing to")]:
        with pytest.raises(ToolError, match=why):
            memory.edit(number, text)
    assert memory.all() == [(1, "my cat is Pip"), (2, "my dog is Rex")]


def test_a_search_shows_more_than_a_recall() -> None:
    memory = memory_of(*[f"tea number {number}" for number in range(9)])
    assert [entry.number for entry in memory.search("tea")] == [9, 8, 7, 6, 5, 4, 3, 2, 1]
    assert memory.search("milk") == []


def test_an_older_file_has_no_provenance_and_gets_it_from_now_on(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    with sqlite3.connect(path) as database:
        database.execute("create table memories (id integer primary key autoincrement, text text not null unique)")
        database.execute("insert into memories values (1, 'some tea')")
    database.close()
    memory = Memory(path, source="now")
    memory.remember("some milk")
    assert [(entry.text, entry.source, bool(entry.time)) for entry in memory.entries()] == [
        ("some tea", "", False),
        ("some milk", "now", True),
    ]
    assert memory.recall("tea") == "1: some tea"
