"""Skills and the project's note: what the model is told of them, and what it can read."""

from pathlib import Path

import pytest

from lanbot.agent.skills import FOLDER, Skills, find_note, note_text
from lanbot.tools.python_call import PythonCalls
from lanbot.tools.tool import Toolset

GOOD = "---\nname: {}\ndescription: |\n  Fills in forms.\n  Use it for PDFs.\nlicense: MIT\n---\n# Forms\nRun it.\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / FOLDER


def write(folder: Path, name: str, text: str = GOOD) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "SKILL.md").write_text(text.format(name) if "{}" in text else text)


def test_names_and_descriptions_are_told_and_the_rest_is_read_when_asked(folder: Path) -> None:
    write(folder, "pdf-forms")
    (folder / "pdf-forms" / "references").mkdir()
    (folder / "pdf-forms" / "references" / "fields.md").write_text("a\nb\nc\n")
    (folder.parent / "secret.txt").write_text("secret")
    warned: list[str] = []
    skills = Skills([folder, folder.parent / "none"], warned.append)
    assert "- pdf-forms: Fills in forms. Use it for PDFs." in skills.text and "Run it" not in skills.text
    calls = PythonCalls(Toolset(skills.tools))
    assert calls('read_skill("pdf-forms")').endswith("# Forms\nRun it.\n")
    assert calls('read_skill("pdf-forms", "references/fields.md", start=2, lines=1)') == "b"
    assert calls('read_skill("pdf")') == "error: no skill pdf; there are: pdf-forms"
    assert "outside" in calls('read_skill("pdf-forms", "../../secret.txt")')
    assert calls.toolset["read_skill"].kind == "read" and not warned


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("Forms", GOOD, "small letters"),
        ("a--b", GOOD, "small letters"),
        ("-a", GOOD, "small letters"),
        ("a" * 65, GOOD, "small letters"),
        ("other", GOOD.format("forms"), "its folder's is not"),
        ("plain", "# Only text\n", "between two lines"),
        ("list", "---\n- a\n---\n", "between two lines"),
        ("wrong", "---\nname: [wrong\n---\n", "cannot be read"),
        ("bare", "---\nname: bare\n---\n", "description"),
        ("long", f"---\nname: long\ndescription: {'x' * 1_025}\n---\n", "description"),
    ],
)
def test_what_is_not_as_specified_is_left_out_and_said(folder: Path, name: str, text: str, why: str) -> None:
    write(folder, name, text)
    write(folder, "good")
    warned: list[str] = []
    assert list(Skills([folder], warned.append).skills) == ["good"]
    assert len(warned) == 1 and why in warned[0]


def test_without_skills_nothing_is_told(folder: Path) -> None:
    skills = Skills([folder], pytest.fail)
    assert (skills.text, skills.tools) == ("", [])


def test_the_nearest_note_of_the_repository_counts(tmp_path: Path) -> None:
    inner = tmp_path / "repository" / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "AGENTS.md").write_text("of somebody else")
    assert find_note(inner) is None
    (tmp_path / "repository" / ".git").mkdir()
    assert find_note(inner) is None
    (tmp_path / "repository" / "AGENTS.md").write_text("of the repository")
    assert find_note(inner) == tmp_path / "repository" / "AGENTS.md"
    (inner / "AGENTS.md").write_text("its own")
    assert find_note(inner) == inner / "AGENTS.md"


def test_a_long_note_is_cut_at_a_line_and_that_is_said(tmp_path: Path) -> None:
    file, said = tmp_path / "AGENTS.md", []  # type: Path, list[str]
    file.write_text("\n".join(f"line {n}" for n in range(100)))
    made = note_text(file, 120, len, said.append)
    assert "line 9\n[the other" in made and "line 10" not in made and "of 100 lines are left out]" in made
    assert "of its 100 lines" in said[0]
    file.write_text("Write \x1b[2Jin French.")
    assert note_text(file, 120, len, said.append).endswith(":\nWrite ␛[2Jin French.")
    assert said[1].endswith("1 lines")
    file.write_text(" \n")
    assert note_text(file, 120, len, pytest.fail) == ""
