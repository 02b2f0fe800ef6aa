import errno
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lanbot.config.recipe import PHASES, Recipe
from lanbot.config.recipe_file import load
from lanbot.config.run import Run, list_runs, read_metrics
from lanbot.core.errors import UserError
from lanbot.core.files import write_atomic

MADE_BY = {
    "tokenizer": ("seed", "tokenizer", "base.data"),
    "base": ("model", "base"),
    "mid": ("identity", "mid"),
    "sft": ("identity", "sft"),
    "rl": ("identity", "rl"),
}


def create(recipe: Recipe, root: Path) -> Run:
    return Run.create(recipe, root, made_by=MADE_BY)


def make(root: Path, begun: tuple[str, ...] = (), **overrides: str) -> Run:
    run = create(load("smoke", {k.replace("__", "."): v for k, v in overrides.items()}), root)
    for phase in begun:
        run.phase(phase).mkdir(exist_ok=True)
    return run


def test_create_writes_the_resolved_recipe(tmp_path: Path) -> None:
    run = make(tmp_path / "deep" / "runs")
    assert run.folder == tmp_path / "deep" / "runs" / "smoke"
    assert load(run.folder / "recipe.toml") == run.recipe == load("smoke")
    assert not any(run.begun(phase) or run.done(phase) for phase in PHASES)
    assert run.last_model() is None


def test_a_run_resumes_unchanged(tmp_path: Path) -> None:
    first = make(tmp_path, tuple(PHASES))
    (first.phase("base") / "metrics.jsonl").write_text("{}\n")
    again = make(tmp_path)
    assert again == first
    assert (again.phase("base") / "metrics.jsonl").read_text() == "{}\n"


@pytest.mark.parametrize(
    ("phase", "key", "value"),
    [
        ("tokenizer", "tokenizer.vocab_size", "600"),
        ("tokenizer", "seed", "5"),
        ("base", "model.depth", "3"),
        ("base", "base.clip", "2.5"),
        ("mid", "identity.name", "Robi"),
        ("mid", "mid.clip", "2.5"),
        ("sft", "sft.clip", "0.5"),
        ("rl", "rl.group_size", "8"),
    ],
)
def test_other_settings_for_a_phase_are_refused_once_it_has_begun(
    phase: str, key: str, value: str, tmp_path: Path
) -> None:
    make(tmp_path)
    changed = make(tmp_path, **{key: value})  # not begun yet: accepted, and written
    assert load(changed.folder / "recipe.toml") == changed.recipe != load("smoke")
    changed.phase(phase).mkdir()
    before = (changed.folder / "recipe.toml").read_text()
    with pytest.raises(UserError) as caught:
        make(tmp_path)
    assert str(caught.value).count("\n") == 1
    assert f"its {phase} was made with {key} = {value}" in caught.value.problem
    assert str(changed.folder) in caught.value.problem
    assert (changed.folder / "recipe.toml").read_text() == before


def test_settings_of_later_phases_may_change_when_earlier_ones_have_begun(tmp_path: Path) -> None:
    make(tmp_path, ("tokenizer", "base"))
    changed = make(tmp_path, rl__steps="9", sft__clip="3", evals__limit="4", identity__name="Robi")
    assert load(changed.folder / "recipe.toml").rl.steps == 9


def test_a_changed_mixture_is_refused_in_a_line_of_bearable_length(tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        "name = 'r'\n[mid]\nmixture = [{task = 'identity'}, {task = 'world_chat'}, {task = 'word_problems'}]"
    )
    run = create(load(recipe), tmp_path)
    run.phase("mid").mkdir()
    recipe.write_text("name = 'r'\n[mid]\nmixture = [{task = 'identity'}]")
    with pytest.raises(UserError, match=r"mid\.mixture") as caught:
        create(load(recipe), tmp_path)
    assert len(caught.value.problem) < 300 + len(str(tmp_path))


def test_a_folder_that_is_no_run_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "smoke").mkdir()
    (tmp_path / "smoke" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="not a run") as caught:
        make(tmp_path)
    assert str(tmp_path / "smoke") in caught.value.problem
    assert [path.name for path in (tmp_path / "smoke").iterdir()] == ["thesis.txt"]


def test_an_empty_folder_may_become_a_run(tmp_path: Path) -> None:
    (tmp_path / "smoke").mkdir()
    assert (make(tmp_path).folder / "recipe.toml").is_file()


def test_what_a_kill_left_of_a_beginning_is_no_obstacle(tmp_path: Path) -> None:
    """It may come after the lock, and while recipe.toml is written."""
    folder = make(tmp_path).folder
    (folder / "recipe.toml").rename(folder / ".recipe.toml.tmp")
    assert {path.name for path in folder.iterdir()} == {".lock", ".recipe.toml.tmp"}
    assert (make(tmp_path).folder / "recipe.toml").is_file()


# -- one process trains ---------------------------------------------------------------------------------------

HOLD = """
import os, sys, time
from pathlib import Path
from lanbot.config.recipe_file import load
from lanbot.config.run import Run
Run.create(load("smoke"), Path(sys.argv[1]))
if not sys.argv[2:] or os.fork() == 0:  # a child that speaks has let go
    print(os.getpid(), flush=True)
time.sleep(60)
"""


def holder(root: Path, *arguments: str) -> tuple[subprocess.Popen[str], str]:
    """A process that trains in a run of `root`, and its output."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(root), *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_a_second_process_on_a_run_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    first, _ = holder(tmp_path)
    try:
        with pytest.raises(UserError) as caught:
            make(tmp_path)
        assert str(caught.value).count("\n") == 1
        assert f"{tmp_path / 'smoke'} is in use: process {first.pid} trains there" in caught.value.problem
        with pytest.raises(UserError, match="is in use"):
            Run.open("smoke", tmp_path).delete()
        make(tmp_path, name="other")
        assert load(tmp_path / "smoke" / "recipe.toml") == load("smoke")
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert (tmp_path / "smoke" / ".lock").is_file()
    assert make(tmp_path).folder.is_dir()
    assert (tmp_path / "smoke" / ".lock").read_text() == f"{os.getpid()}\n"


def test_a_forked_child_does_not_keep_its_dead_parents_run(tmp_path: Path) -> None:
    parent, child = holder(tmp_path, "fork")
    try:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert make(tmp_path).folder.is_dir()
    finally:
        os.kill(int(child), signal.SIGKILL)


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(UserError, match=r"smoke: Read-only file system\n"):
        make(tmp_path)


def test_open_by_name_and_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(tmp_path / "runs")
    assert Run.open("smoke", tmp_path / "runs") == run
    assert Run.open(str(run.folder), tmp_path / "elsewhere") == run
    monkeypatch.chdir(tmp_path)
    assert Run.open("runs/smoke", tmp_path / "elsewhere").recipe == run.recipe


def test_an_unknown_run_lists_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There are none yet"):
        Run.open("smoke", tmp_path)
    make(tmp_path, name="one")
    make(tmp_path, name="two")
    with pytest.raises(UserError) as caught:
        Run.open("three", tmp_path)
    assert str(caught.value).count("\n") == 1
    assert caught.value.problem.startswith("three: ") and caught.value.remedy == "There are: one, two."


def test_a_damaged_recipe_in_a_run_is_named(tmp_path: Path) -> None:
    run = make(tmp_path)
    (run.folder / "recipe.toml").write_text("name = ")
    with pytest.raises(UserError, match=r"recipe\.toml"):
        Run.open("smoke", tmp_path)


def test_list_runs_names_runs_only(tmp_path: Path) -> None:
    assert list_runs(tmp_path / "none") == []
    make(tmp_path, name="b")
    make(tmp_path, name="a")
    (tmp_path / "no-run").mkdir()
    assert [path.name for path in list_runs(tmp_path)] == ["a", "b"]


def test_a_phase_is_done_when_its_last_file_is_there(tmp_path: Path) -> None:
    run = make(tmp_path, ("tokenizer", "base"))
    assert run.begun("base") and not run.done("base") and run.last_model() is None
    (run.phase("tokenizer") / "evals.json").write_text("{}")
    assert run.done("tokenizer") and run.last_model() is None, "a vocabulary is no model"
    (run.phase("base") / "evals.json").write_text('{"checkpoint": "step_000003"}')
    assert run.done("base") and run.last_model() == "base" and run.checkpoint("base") == "step_000003"
    assert run.read("base", "evals.json") == {"checkpoint": "step_000003"}
    assert run.read("mid", "evals.json") == {}


def test_an_imported_phase_is_done_and_says_where_it_is_from(tmp_path: Path) -> None:
    run = make(tmp_path, ("base",))
    (run.phase("base") / "imported.json").write_text('{"checkpoint": "step_000000", "note": "imported from NAME"}')
    assert run.done("base") and run.last_model() == "base" and run.note("base") == "imported from NAME"


@pytest.mark.parametrize("name", ["", ".", "..", "../smoke", "{root}/smoke", "x" * 300, "a\0b", "smoke/base"])
def test_only_a_name_in_the_runs_folder_names_a_run_to_delete(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    make(tmp_path)
    monkeypatch.chdir(tmp_path / "smoke")  # which has a recipe.toml
    with pytest.raises(UserError, match="no such run") as caught:
        Run.open(name.format(root=tmp_path), tmp_path, paths=False)
    assert str(caught.value).count("\n") == 1
    assert (tmp_path / "smoke" / "recipe.toml").is_file()


def test_an_empty_name_is_never_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path)
    monkeypatch.chdir(tmp_path / "smoke")
    with pytest.raises(UserError, match="no such run"):
        Run.open("", tmp_path)
    assert Run.open(".", tmp_path).folder == Path(".")


def test_a_link_to_a_run_is_not_deleted(tmp_path: Path) -> None:
    kept = make(tmp_path / "elsewhere")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "smoke").symlink_to(kept.folder)
    with pytest.raises(UserError, match="a link"):
        Run.open("smoke", tmp_path / "runs", paths=False).delete()
    assert (kept.folder / "recipe.toml").is_file()


def test_a_run_that_cannot_be_deleted_is_an_error_of_two_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    run = make(tmp_path)
    monkeypatch.setattr(shutil, "rmtree", read_only)
    with pytest.raises(UserError, match="cannot be deleted, Read-only file system\n"):
        run.delete()


def test_files_that_vanish_meanwhile_are_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(tmp_path, ("base",))
    size = run.size()
    (run.phase("base") / "model.safetensors").write_bytes(b"x" * 100)
    lstat = os.lstat

    def renamed(path: str, *rest: Any) -> os.stat_result:
        if str(path).endswith("model.safetensors"):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return lstat(path, *rest)

    monkeypatch.setattr(os, "lstat", renamed)
    assert run.size() == size


@pytest.mark.parametrize("text", ["", '{"tasks": {', "\xff"])
def test_a_damaged_file_of_a_phase_is_named(text: str, tmp_path: Path) -> None:
    run = make(tmp_path, ("base",))
    (run.phase("base") / "evals.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"base/evals\.json: empty or damaged\n"):
        run.read("base", "evals.json")


def test_a_cut_line_of_metrics_is_left_out_at_the_end_and_named_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"st')
    assert read_metrics(path) == [{"step": 1}]
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2: not JSON"):
        read_metrics(path)


def test_size_counts_files_at_every_depth(tmp_path: Path) -> None:
    run = make(tmp_path, ("base",))
    before = run.size()
    (run.phase("base") / "step").mkdir()
    (run.phase("base") / "step" / "weights").write_bytes(b"x" * 1000)
    assert run.size() == before + 1000


def test_delete_removes_the_run_and_nothing_else(tmp_path: Path) -> None:
    kept, gone = make(tmp_path, name="kept"), make(tmp_path, ("base",), name="gone")
    gone.delete()
    assert not gone.folder.exists() and kept.folder.exists()


def test_write_atomic_replaces_a_file_completely(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_atomic(path, "one")
    write_atomic(path, "two")
    assert path.read_text() == "two"
    assert os.listdir(tmp_path) == ["file.json"]


def test_write_atomic_that_fails_midway_leaves_the_file_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.json"
    write_atomic(path, "whole")
    real = Path.write_text

    def torn(self: Path, text: str, *rest: object, **named: object) -> int:
        real(self, text[:3])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", torn)
    with pytest.raises(UserError, match=r"file\.json: cannot be written, the disk is full\nFree some space"):
        write_atomic(path, "something much longer")
    monkeypatch.undo()
    assert path.read_text() == "whole"


def test_settings_that_do_not_say_what_is_trained_may_change_at_any_time(tmp_path: Path) -> None:
    run = create(load("smoke"), tmp_path)
    run.phase("base").mkdir()
    changes = {"base.checkpoint_every": "7", "base.eval_every": "9", "base.micro_batch": "1"}
    assert create(load("smoke", changes), tmp_path).recipe.base.checkpoint_every == 7


def test_bad_rows_may_be_left_out_once_the_first_was_met(tmp_path: Path) -> None:
    recipe = load("smoke")
    run = create(recipe, tmp_path)
    for phase in ("tokenizer", "base", "mid"):
        run.phase(phase).mkdir()
    lenient = tuple(replace(part, skip_bad_rows=True) for part in recipe.mid.mixture)
    changed = replace(recipe, base=replace(recipe.base, skip_bad_rows=True), mid=replace(recipe.mid, mixture=lenient))
    assert create(changed, tmp_path).recipe.mid.mixture[0].skip_bad_rows
    other = tuple(replace(part, rows=7) for part in lenient)
    with pytest.raises(UserError, match=r"mid\.mixture"):
        create(replace(changed, mid=replace(recipe.mid, mixture=other)), tmp_path)


def test_another_corpus_is_refused_once_the_tokenizer_was_trained_on_the_first(tmp_path: Path) -> None:
    run = create(load("smoke"), tmp_path)
    run.phase("tokenizer").mkdir()
    with pytest.raises(UserError, match=r"its tokenizer was made with base\.data = builtin:world, not texts"):
        create(load("smoke", {"base.data": "texts"}), tmp_path)
