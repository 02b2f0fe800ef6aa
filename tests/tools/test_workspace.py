"""The five file tools: the same on disk and in memory, nothing outside reached, errors that help."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lanbot.tools.python_call import PythonCalls
from lanbot.tools.tool import Toolset
from lanbot.tools.workspace import MAX_FILE, MAX_HITS, ToolError, Workspace

NOTES = "Mia has three cats.\nThe red kite costs 12 coins.\n\nTom likes the team."


@pytest.fixture(params=["in memory", "on disk"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Workspace]:
    """make(**files) is a workspace of files, "notes_txt" for notes.txt; in both kinds."""

    def workspace(**files: str) -> Workspace:
        made = Workspace({} if request.param == "in memory" else tmp_path / "files")
        for name, text in files.items():
            made.write_file(name.replace("_", "."), text)
        return made

    return workspace


# -- what the tools say: trained into weights --------------------------------------------------------------


def test_what_the_tools_say(make) -> None:
    workspace = make()
    assert workspace.list_files() == "(empty)"
    assert workspace.write_file("notes.txt", "milk and tea") == "wrote notes.txt"
    assert workspace.write_file("sub/b.txt", "") == "wrote sub/b.txt"
    assert workspace.list_files() == "notes.txt\nsub/"
    assert workspace.list_files("sub") == "b.txt"
    assert workspace.read_file("notes.txt") == "milk and tea"
    assert workspace.read_file("sub/b.txt") == ""
    assert workspace.edit_file("notes.txt", "tea", "bread") == "edited notes.txt"
    assert workspace.read_file("notes.txt") == "milk and bread"
    assert workspace.search_files("BREAD") == "notes.txt:1: milk and bread"
    assert workspace.search_files("tea") == "no match"


def test_a_path_may_be_written_in_several_ways(make) -> None:
    workspace = make()
    assert workspace.write_file("./sub//b.txt", "b") == "wrote sub/b.txt"
    assert workspace.read_file(" sub/./b.txt ") == "b"
    assert workspace.list_files("sub/") == workspace.list_files("./sub") == "b.txt"
    assert workspace.list_files("") == workspace.list_files("./") == "sub/"


def test_lines_are_counted_from_one(make) -> None:
    workspace = make(notes_txt=NOTES, end_txt="a\nb\n")
    assert workspace.read_file("notes.txt") == NOTES
    assert workspace.read_file("notes.txt", start=2, lines=1) == "The red kite costs 12 coins."
    assert workspace.read_file("notes.txt", 3) == "\nTom likes the team."
    assert workspace.read_file("end.txt") == "a\nb\n"
    assert workspace.read_file("end.txt", 1, 2) == "a\nb"
    for start in (3, 4, 99):
        with pytest.raises(ToolError, match=r"^end.txt has 2 lines$"):
            workspace.read_file("end.txt", start)


def test_a_long_file_is_read_in_pieces(make) -> None:
    workspace = make(long_txt="\n".join(f"line {i}" for i in range(1, 1_001)))
    assert workspace.read_file("long.txt").split("\n") == [f"line {i}" for i in range(1, 201)]
    assert workspace.read_file("long.txt", 1_000) == "line 1000"


def test_a_number_may_be_written(make) -> None:
    workspace = make()
    PythonCalls(Toolset(workspace.tools))('write_file("sum.txt", 3 * 4.0)')
    assert workspace.read_file("sum.txt") == "12"


# -- search --------------------------------------------------------------------------------------------------


def test_the_whole_query_comes_before_its_words(make) -> None:
    workspace = make(a_txt="The kite is red.", b_txt="A red kite.", c_txt="red paint")
    assert workspace.search_files("red kite") == "b.txt:1: A red kite."
    assert workspace.search_files("kite red") == "a.txt:1: The kite is red.\nb.txt:1: A red kite."


def test_a_word_comes_before_a_part_of_a_word(make) -> None:
    workspace = make(a_txt="The team met.", b_txt="So much tea!")
    assert workspace.search_files("tea") == "b.txt:1: So much tea!\na.txt:1: The team met."


def test_lines_with_more_of_the_words_come_first_and_half_is_not_enough(make) -> None:
    workspace = make(a_txt="blue and green", b_txt="blue, green, red, dark\nred alone", c_txt="red green blue")
    assert workspace.search_files("red blue green dark") == "b.txt:1: blue, green, red, dark\nc.txt:1: red green blue"


def test_small_words_of_a_question_do_not_count(make) -> None:
    workspace = make(a_txt="What is the price of the day?", b_txt="The kite's price: 12")
    assert workspace.search_files("What is the price of the kite?") == "b.txt:1: The kite's price: 12"


def test_at_most_ten_hits_in_the_order_of_the_files(make) -> None:
    workspace = make(**{f"f{i:02}_txt": "tea\nmore tea" for i in range(8)})
    hits = workspace.search_files("tea").split("\n")
    assert hits == [f"f{i:02}.txt:{n}: {line}" for i in range(5) for n, line in ((1, "tea"), (2, "more tea"))]
    assert len(hits) == MAX_HITS


@pytest.mark.parametrize("query", ["[a", ".*", "(", "\\", "cats)", "a|b"])
def test_a_query_is_no_pattern(make, query: str) -> None:
    workspace = make(a_txt="all cats", b_txt=f"this: {query}")
    assert workspace.search_files(query).split("\n")[0] == f"b.txt:1: this: {query}"


# -- errors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ('read_file("nots.txt")', "no file nots.txt; did you mean notes.txt?"),
        ('read_file("notes")', "no file notes; did you mean notes.txt?"),
        ('read_file("NOTES.TXT")', "no file NOTES.TXT; did you mean notes.txt?"),
        ('edit_file("zzz", "a", "b")', "no file zzz; there are: a.md, notes.txt, sub/plan.txt"),
        ('list_files("zzz")', "no folder zzz; there are: a.md, notes.txt, sub/plan.txt"),
        ('list_files("notes.txt")', "notes.txt is a file; read_file reads it"),
        ('read_file("sub")', "sub is a folder; list_files lists it"),
        ('write_file("sub", "x")', "sub is a folder"),
        ('write_file("notes.txt/x", "x")', "notes.txt is a file, not a folder"),
        ('write_file("", "x")', "a file's name is needed"),
        ('write_file("new/", "x")', "a file's name is needed"),
        ('edit_file("notes.txt", "dog", "cat")', "old occurs 0 times in notes.txt"),
        (
            'edit_file("notes.txt", "the", "a")',
            "old occurs 2 times in notes.txt; give more of the text around it",
        ),
        ('edit_file("a.md", "xx", "y")', "old occurs 2 times in a.md; give more of the text around it"),
        ('edit_file("notes.txt", "", "y")', "old is empty"),
        ('edit_file("notes.txt", "the", 3)', "old and new must be text"),
        ('read_file("notes.txt", 0)', "start and lines are whole numbers from 1 on"),
        ('read_file("notes.txt", lines="all")', "start and lines are whole numbers from 1 on"),
        ("read_file(3)", "the path must be text"),
        ('search_files(" ")', "the query is empty"),
        ("read_file()", "read_file() missing 1 required positional argument: 'path'"),
        (f'write_file("a.md", "x" * 90_000 + "x" * {MAX_FILE})', "too large"),
    ],
)
def test_an_error_says_how_to_fix_the_call(make, call: str, error: str) -> None:
    workspace = make(**{"notes_txt": "in the house, the cat", "sub/plan_txt": "", "a_md": "xxx"})
    before = {name: workspace.read_file(name) for name in workspace.names()}
    said = PythonCalls(Toolset(workspace.tools))(call)
    assert said.startswith(f"error: {error}") and (said == f"error: {error}" or error == "too large")
    assert {name: workspace.read_file(name) for name in workspace.names()} == before


def test_of_many_files_an_error_names_some(make) -> None:
    workspace = make(**{f"{letter * 3}_txt": "" for letter in "abcdefgh"})
    with pytest.raises(ToolError, match=r"^no file 9; there are: aaa.txt, .*eee.txt and 3 more$"):
        workspace.read_file("9")
    with pytest.raises(ToolError, match=r"^no file 9; there are no files$"):
        Workspace({}).read_file("9")


def test_a_file_does_not_grow_beyond_its_limit(make) -> None:
    workspace = make(a_txt="x" * (MAX_FILE - 1) + "y")
    with pytest.raises(ToolError, match="too long"):
        workspace.edit_file("a.txt", "y", "yy")
    with pytest.raises(ToolError, match="read fewer lines"):
        workspace.read_file("a.txt")


def test_an_edit_of_a_file_with_crlf_matches_and_keeps_its_line_ends(make) -> None:
    workspace = make(a_txt="one\r\ntwo\r\nthree\r\n")
    assert workspace.edit_file("a.txt", "one\ntwo", "1\n2\n2b") == "edited a.txt"
    assert workspace.read_file("a.txt") == "1\r\n2\r\n2b\r\nthree\r\n"
    workspace.edit_file("a.txt", "three", "3\n4")
    workspace.edit_file("a.txt", "2b\r\n", "")
    assert workspace.read_file("a.txt") == "1\r\n2\r\n3\r\n4\r\n"
    with pytest.raises(ToolError, match=r"^old occurs 4 times in a.txt; give more"):
        workspace.edit_file("a.txt", "\n", "")


def test_an_edit_of_mixed_line_ends_changes_no_others(make) -> None:
    workspace = make(a_txt="one\ntwo\r\nthree\nfour\n")
    workspace.edit_file("a.txt", "two\nthree", "2\n3")
    assert workspace.read_file("a.txt") == "one\n2\n3\nfour\n"


@pytest.mark.parametrize(
    "name", ["my\u00a0notes.txt", "👩\u200d💻.txt", "10:30.txt", "cafe\u0301.txt", "a\u200bb.txt"], ids=ascii
)
def test_file_names_with_odd_characters_are_listed_found_and_read(make, name: str) -> None:
    workspace = make(**{name: "tea"})
    assert workspace.list_files() == name
    assert workspace.search_files("tea") == f"{name}:1: tea"
    assert workspace.read_file(name) == "tea"


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("my\u00a0notes.txt", "my notes.txt"),
        ("cafe\u0301.txt", "café.txt"),
        ("café.txt", "cafe\u0301.txt"),
        ("a\u200bb.txt", "ab.txt"),
        ("cafe\u0301/a\u00a0b.txt", "café/a b.txt"),
    ],
    ids=ascii,
)
def test_a_name_that_looks_the_same_means_the_file_that_is_there(make, name: str, asked: str) -> None:
    workspace = make()
    workspace.write_file(name, "tea")
    assert workspace.read_file(asked) == "tea"
    assert workspace.write_file(asked, "milk") == f"wrote {name}"
    assert workspace.names() == [name]


def test_text_that_no_text_file_can_hold_is_refused(make) -> None:
    workspace = make(a_txt="tea")
    for text in ("a\0b", "a\ud800b"):
        with pytest.raises(ToolError, match="no text file can hold"):
            workspace.write_file("a.txt", text)
        with pytest.raises(ToolError, match="no text file can hold"):
            workspace.edit_file("a.txt", "tea", text)
    assert workspace.read_file("a.txt") == "tea"


def test_a_search_finds_every_form_of_unicode(make) -> None:
    workspace = make(a_txt="cafe\u0301 in İstanbul", b_txt="我的猫叫汤姆")
    assert workspace.search_files("CAFÉ").startswith("a.txt:1: ")
    assert workspace.search_files("istanbul").startswith("a.txt:1: ")
    assert workspace.search_files("猫") == "b.txt:1: 我的猫叫汤姆"


# -- nothing outside it --------------------------------------------------------------------------------------

OUTSIDE = [
    "../secret.txt",
    "..",
    "sub/../../secret.txt",
    "sub/../notes.txt",
    "/etc/passwd",
    "//etc/passwd",
    "~/secret.txt",
    "..\\secret.txt",
    "C:\\secret.txt",
    "C:/secret.txt",
    ".git/hooks/pre-commit",
    "sub/.hidden",
    ".env",
    "a\0b",
    "a\nb",
    "x" * 101,
    "x/" * 101 + "x",
    "é" * 60,
]


@pytest.mark.parametrize("path", OUTSIDE, ids=repr)
def test_what_is_outside_is_not_reached(make, path: str, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    workspace = make(notes_txt="secret")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    for call in (
        lambda: workspace.read_file(path),
        lambda: workspace.write_file(path, "mine"),
        lambda: workspace.edit_file(path, "secret", "mine"),
        lambda: workspace.list_files(path),
    ):
        with pytest.raises(ToolError, match=r"outside the workspace|cannot be a file's name"):
            call()
    assert workspace.names() == ["notes.txt"]
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


@pytest.fixture
def disk(tmp_path: Path) -> tuple[Workspace, Path]:
    root = tmp_path / "files"
    root.mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.txt").write_text("secret")
    return Workspace(root), root


def test_links_are_not_followed(disk: tuple[Workspace, Path]) -> None:
    workspace, root = disk
    outside = root.parent / "outside"
    (root / "folder").symlink_to(outside)
    (root / "file.txt").symlink_to(outside / "secret.txt")
    (root / "new.txt").symlink_to(outside / "new.txt")
    for path in ("folder/secret.txt", "file.txt", "new.txt", "folder/new.txt"):
        for call in (
            lambda path=path: workspace.read_file(path),
            lambda path=path: workspace.write_file(path, "mine"),
            lambda path=path: workspace.edit_file(path, "secret", "mine"),
        ):
            with pytest.raises(ToolError, match="is a link"):
                call()
    with pytest.raises(ToolError, match="is a link"):
        workspace.list_files("folder")
    assert workspace.list_files() == "(empty)"
    assert workspace.search_files("secret") == "no match"
    assert [path.name for path in outside.iterdir()] == ["secret.txt"]
    assert (outside / "secret.txt").read_text() == "secret"


def test_a_link_in_the_place_of_the_file_beside_is_not_written_through(disk: tuple[Workspace, Path]) -> None:
    workspace, root = disk
    secret = root.parent / "outside" / "secret.txt"
    (root / f".a.txt.{os.getpid()}.tmp").symlink_to(secret)
    assert workspace.write_file("a.txt", "mine") == "wrote a.txt"
    assert secret.read_text() == "secret"


def test_a_workspace_that_is_a_link_itself_is_fine(disk: tuple[Workspace, Path]) -> None:
    _, root = disk
    (root.parent / "link").symlink_to(root)
    Workspace(root.parent / "link").write_file("a.txt", "hi")
    assert (root / "a.txt").read_text() == "hi"


def test_only_text_is_read(disk: tuple[Workspace, Path]) -> None:
    workspace, root = disk
    (root / "photo.jpg").write_bytes(b"\xff\xd8 tea")
    (root / "zero.txt").write_bytes(b"tea\0")
    (root / "good.txt").write_text("tea")
    for name in ("photo.jpg", "zero.txt"):
        with pytest.raises(ToolError, match=f"{name} is not text"):
            workspace.read_file(name)
    assert workspace.search_files("tea") == "good.txt:1: tea"


def test_a_pipe_does_not_hold_it_up(disk: tuple[Workspace, Path]) -> None:
    workspace, root = disk
    os.mkfifo(root / "pipe")
    with pytest.raises(ToolError, match="pipe is no file"):
        workspace.read_file("pipe")
    assert workspace.list_files() == "(empty)"
    assert workspace.search_files("x") == "no match"


@pytest.mark.parametrize("code", ["read", "write"])
def test_a_link_put_there_after_the_check_leads_nowhere(
    code: str, disk: tuple[Workspace, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, root = disk
    workspace.write_file("notes/a.txt", "before")
    outside = root.parent / "elsewhere"
    outside.mkdir()
    (outside / "a.txt").write_text("secret")
    checked = workspace.store.kind

    def kind(name: str) -> str:
        found = checked(name)
        if name == "notes/a.txt" and not (root / "notes").is_symlink():
            (root / "notes").rename(root / "moved")
            (root / "notes").symlink_to(outside)
        return found

    monkeypatch.setattr(workspace.store, "kind", kind)
    with pytest.raises(ToolError):
        workspace.read_file("notes/a.txt") if code == "read" else workspace.write_file("notes/a.txt", "after")
    assert (root / "notes").is_symlink()
    assert [(path.name, path.read_text()) for path in outside.iterdir()] == [("a.txt", "secret")]


def test_a_write_that_fails_leaves_the_file_as_it_was(
    disk: tuple[Workspace, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, root = disk
    workspace.write_file("a.txt", "before")

    def full(*paths: str, **folders: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lanbot.tools.stores.os.replace", full)
    with pytest.raises(ToolError, match=r"^a.txt cannot be written: No space left on device$"):
        workspace.write_file("a.txt", "after")
    assert {path.name: path.read_text() for path in root.iterdir()} == {"a.txt": "before"}


def test_a_file_keeps_its_line_ends_and_its_mode(disk: tuple[Workspace, Path]) -> None:
    workspace, root = disk
    (root / "run.sh").write_bytes(b"a\r\nb\r\n")
    (root / "run.sh").chmod(0o750)
    assert workspace.read_file("run.sh") == "a\r\nb\r\n"
    workspace.edit_file("run.sh", "b", "c")
    assert (root / "run.sh").read_bytes() == b"a\r\nc\r\n"
    assert stat.S_IMODE((root / "run.sh").stat().st_mode) == 0o750


# -- on disk as in memory ------------------------------------------------------------------------------------

PATHS = st.sampled_from(["a.txt", "b.md", "sub/a.txt", "sub", "sub/deep/c.txt", "./b.md", "a", "a.txt/x", "../a", "é"])
TEXTS = st.text(st.sampled_from("ab é\n\rAT😀\x0b"), max_size=12) | st.just("tea\nmore Tea\n")
CALLS = st.one_of(
    st.tuples(st.just("list_files"), PATHS | st.just(".")),
    st.tuples(st.just("read_file"), PATHS, st.integers(0, 4), st.integers(0, 4)),
    st.tuples(st.just("read_file"), PATHS),
    st.tuples(st.just("write_file"), PATHS, TEXTS),
    st.tuples(st.just("edit_file"), PATHS, TEXTS, TEXTS),
    st.tuples(st.just("search_files"), TEXTS),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls=st.lists(CALLS, max_size=12))
def test_disk_and_memory_say_the_same(calls: list, tmp_path_factory: pytest.TempPathFactory) -> None:
    both = [Workspace({}), Workspace(tmp_path_factory.mktemp("files"))]
    for name, *arguments in calls:
        said = []
        for workspace in both:
            try:
                said.append(getattr(workspace, name)(*arguments))
            except ToolError as error:
                said.append(f"error: {error}")
        assert said[0] == said[1], (name, arguments)
    assert both[0].names() == both[1].names()
