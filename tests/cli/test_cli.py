import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lanbot.cli import main
from lanbot.cli.shared import parse_overrides
from lanbot.config.recipe_file import load
from lanbot.config.run import Run
from lanbot.core.errors import UsageError
from lanbot.distributed.runtime import Runtime
from lanbot.phases import pipeline
from lanbot.phases.phase import Phase
from lanbot.sandbox import canary, launch, sandbox
from lanbot.sandbox.canary import Verdict

COMMANDS = ("init", "run", "chat", "agent", "eval", "report", "runs", "data", "doctor")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder with no runs and no mirror; signals as they were, afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LANBOT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("LANBOT_MIRROR", "")  # so that what --mirror sets is undone
    monkeypatch.setenv("LANBOT_UNSAFE_EXEC", "")  # the same for --unsafe-exec
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, before)


def exit_code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    return stopped.value.code


def succeed(*arguments: str) -> None:
    assert exit_code(*arguments) == 0


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 1) -> list[str]:
    """The two lines of a command that fails with this exit code."""
    assert exit_code(*arguments) == code
    captured = capsys.readouterr()
    lines = captured.err.rstrip("\n").split("\n")
    assert len(lines) == 2 and lines[0].startswith("lanbot: ") and captured.out == "", captured
    return lines


LANBOT = [sys.executable, "-c", "from lanbot.cli import main; main()"]


def lanbot(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*LANBOT, *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)


def made(name: str = "smoke") -> Run:
    return Run.create(load("smoke", {"name": name}))


# -- usage -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["nope"],
        ["--nope"],
        ["run"],
        ["run", "smoke", "stray"],
        ["run", "smoke", "--base.tokens"],
        ["runs", "--nope"],
        ["data", "nope"],
        ["chat"],
        ["agent"],
        ["eval", "smoke", "--nope", "3"],
        ["eval", "smoke", "--limit", "many"],
        ["report", "smoke", "too", "many"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_2_and_says_why(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(*arguments) == 2
    captured = capsys.readouterr()
    said = captured.out + captured.err
    assert "Error" in said or said.startswith("lanbot: ")
    assert "Traceback" not in said


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom lanbot.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print('HEAVY', sorted({'torch', 'numpy', 'pyarrow', 'tiktoken', 'tokenizers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("HEAVY []")
    assert all(command in done.stdout for command in COMMANDS)


def test_overrides_are_distinguished_from_their_values() -> None:
    assert parse_overrides(("--base.tokens", "3", "--name=x=y", "--seed", "-1")) == {
        "base.tokens": "3",
        "name": "x=y",
        "seed": "-1",
    }
    assert parse_overrides(("--base.batch-tokens", "3")) == {"base.batch_tokens": "3"}
    for wrong in (("base.tokens", "3"), ("--",), ("--base.tokens",)):
        with pytest.raises(UsageError):
            parse_overrides(wrong)


# -- run ---------------------------------------------------------------------------------------------------


def test_run_of_an_unknown_recipe(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    lines = error_of(capsys, "run", "nope")
    assert "nope: no such recipe" in lines[0] and "smoke" in lines[1]
    assert not (place / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("--base.tokns 3", 2, "Did you mean tokens?"),
        ("--base.tokens many", 2, "--base.tokens must be a whole number"),
        ("--base.tokens 0", 1, "base.tokens = 0"),
        ("--mirror nowhere", 1, "nowhere: no such folder"),
    ],
)
def test_run_with_what_a_recipe_cannot_take(
    arguments: str, code: int, said: str, capsys: pytest.CaptureFixture[str], place: Path
) -> None:
    assert said in error_of(capsys, "run", "smoke", *shlex.split(arguments), code=code)[0]
    assert not (place / "runs").exists()


def test_run_of_an_unknown_phase(capsys: pytest.CaptureFixture[str]) -> None:
    lines = error_of(capsys, "run", "smoke", "--phase", "middle", code=2)
    assert "'middle'" in lines[0] and "mid" in lines[1]


def test_run_gives_the_pipeline_its_recipe_and_phases(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def execute(run: Run, phases: list[Phase], runtime: Runtime) -> None:
        calls.append((run, [phase.name for phase in phases]))

    monkeypatch.setattr(pipeline, "execute", execute)
    succeed("run", "smoke", "--phase", "mid+sft", "--base.depth", "3", "--name", "mine", "--rl.clip=2")
    succeed("run", "smoke", "--phase", "base")
    succeed("run", "smoke")
    (run, phases), *others = calls
    assert phases == ["mid", "sft"]
    assert run.recipe == load("smoke", {"model.depth": "3", "name": "mine", "rl.clip": "2"})
    assert Run.open("mine") == run
    assert [phases for _, phases in others] == [
        ["tokenizer", "base"],
        ["tokenizer", "base", "mid", "sft", "rl"],
    ]


def test_code_runs_without_a_sandbox_only_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(pipeline, "execute", lambda run, *_: seen.append(run.options.unsafe_exec))
    succeed("run", "smoke")
    succeed("run", "smoke", "--unsafe-exec", "--base.depth", "2")
    assert seen == [False, True]


def test_a_recipe_whose_programs_could_not_be_run_is_refused_before_it_trains(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: Path
) -> None:
    (place / "mine.toml").write_text("[evals]\ntasks = ['humaneval']\n")
    monkeypatch.setattr(canary, "check", lambda level: Verdict(level, level == launch.OPEN, "got through: a socket"))
    monkeypatch.setattr("lanbot.tasks.contamination.real", lambda tasks: [])
    lines = error_of(capsys, "run", "mine.toml")
    assert "no sandbox holds" in lines[0] and "--unsafe-exec" in lines[1]
    monkeypatch.setattr(pipeline, "execute", lambda *_: None)
    succeed("run", "mine.toml", "--unsafe-exec")


def test_a_run_of_another_recipe_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    made().phase("base").mkdir()
    assert "base.clip" in error_of(capsys, "run", "smoke", "--base.clip", "9")[0]


def test_ctrl_c_exits_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(pipeline, "execute", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    assert exit_code("run", "smoke") == 130
    assert capsys.readouterr().err.startswith("lanbot: stopped; saved checkpoints are complete")


def test_sigterm_exits_143(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(pipeline, "execute", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert exit_code("run", "smoke") == 143
    assert capsys.readouterr().err.startswith("lanbot: stopped; saved checkpoints are complete")


def test_an_error_of_lanbots_own_is_two_lines_and_with_debug_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(pipeline, "execute", broken)
    lines = error_of(capsys, "run", "smoke")
    assert "ZeroDivisionError: by zero" in lines[0] and "--debug" in lines[1]
    with pytest.raises(ZeroDivisionError):
        main(["run", "smoke", "--debug"])


def test_an_error_of_the_users_shows_a_traceback_with_debug_only() -> None:
    plain, debug = lanbot("run", "nope"), lanbot("run", "nope", "--debug")
    assert (plain.returncode, debug.returncode) == (1, 1)
    assert "Traceback" not in plain.stderr and plain.stderr.count("\n") == 2
    assert "Traceback" in debug.stderr and "no such recipe" in debug.stderr


# -- data --------------------------------------------------------------------------------------------------


def test_data_show_in_a_pipe_marks_what_the_loss_counts_without_colours() -> None:
    shown = lanbot("data", "show", "word_problems", "--index", "2")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith("word_problems train, row 2 of 1,000,000 | ")
    assert "<|assistant_start|>«" in shown.stdout and "<|assistant_end|>»" in shown.stdout
    assert "\x1b" not in shown.stdout


def test_data_show_in_a_pipe_that_closes_early_ends_quietly() -> None:
    command = f'{shlex.quote(sys.executable)} -c "from lanbot.cli import main; main()" data show word_problems'
    done = subprocess.run(f"{command} | true", shell=True, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


def test_data_show_of_what_is_not_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LANBOT_OFFLINE", "1")
    monkeypatch.setenv("LANBOT_CACHE", str(tmp_path))
    assert "Did you mean gsm8k?" in error_of(capsys, "data", "show", "gsm8")[0]
    asked = ("identity:builtin", "--split", "test", "--index", "2000")
    assert "no row 2,000" in error_of(capsys, "data", "show", *asked)[0]
    assert "offline" in error_of(capsys, "data", "show", "gsm8k")[0]


def test_data_show_of_a_local_file(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "c.jsonl").write_text('[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]\n{\n')
    assert "c.jsonl, line 2" in error_of(capsys, "data", "show", "jsonl:c.jsonl")[0]


def test_data_list_names_the_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    succeed("data", "list")
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("gsm8k", "smoltalk", "jsonl", "identity"))


# -- runs --------------------------------------------------------------------------------------------------


def test_runs_of_an_empty_folder(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    succeed("runs")
    assert capsys.readouterr().out == f"No runs in {place / 'runs'}/ yet: lanbot run RECIPE\n"


def test_runs_lists_what_is_done_and_begun(capsys: pytest.CaptureFixture[str]) -> None:
    made("new")
    run = made("old")
    run.phase("tokenizer").mkdir()
    (run.phase("tokenizer") / "evals.json").write_text("{}")
    run.phase("base").mkdir()
    succeed("runs")
    lines = capsys.readouterr().out.split("\n")
    assert lines[2].split()[:3] == ["new", "nothing", "yet"]
    assert lines[3].split()[:3] == ["old", "tokenizer", "(base)"]


def test_delete_asks_for_yes_when_nobody_can_be_asked(capsys: pytest.CaptureFixture[str]) -> None:
    run = made()
    assert "--yes" in error_of(capsys, "runs", "delete", "smoke")[1]
    assert run.folder.exists()
    succeed("runs", "delete", "smoke", "--yes")
    assert not run.folder.exists()
    assert capsys.readouterr().out.startswith(f"Deleted {run.folder}")
    assert "no such run" in error_of(capsys, "runs", "delete", "smoke", "--yes")[0]


@pytest.mark.parametrize(("reply", "kept"), [("n", True), ("", True), ("y", False)])
def test_delete_does_as_the_reply_says(reply: str, kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made()
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt: reply)
    succeed("runs", "delete", "smoke")
    assert run.folder.exists() == kept


@pytest.mark.parametrize("arguments", [["chat", "smoke"], ["agent", "smoke", "2+2"], ["eval", "smoke"]], ids=" ".join)
def test_a_run_without_a_model_says_what_to_do(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    made()
    lines = error_of(capsys, *arguments)
    assert "no model yet" in lines[0] and "lanbot run" in lines[1]


def test_report_of_a_run_that_has_nothing_yet(capsys: pytest.CaptureFixture[str]) -> None:
    run = made()
    succeed("report", "smoke")
    assert str(run.folder / "report.md") in capsys.readouterr().out
    assert (run.folder / "report.md").is_file()


@pytest.mark.parametrize("name", ["", ".", "..", "x" * 300])
def test_delete_takes_nothing_but_the_name_of_a_run(
    name: str, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made()
    monkeypatch.chdir(run.folder)
    assert "no such run" in error_of(capsys, "runs", "delete", name, "--yes")[0]
    assert "no such run" in error_of(capsys, "runs", "delete", str(run.folder), "--yes")[0]
    assert (run.folder / "recipe.toml").is_file()


def test_runs_shows_where_an_imported_phase_is_from(capsys: pytest.CaptureFixture[str]) -> None:
    run = made()
    run.phase("base").mkdir()
    (run.phase("base") / "imported.json").write_text('{"checkpoint": "step_000000", "note": "imported from NAME"}')
    succeed("runs")
    assert "base (imported from NAME)" in capsys.readouterr().out


# -- terminals, locales, pipes -------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", ["0", "1", "2"])
def test_help_ends_on_the_narrowest_terminal(columns: str) -> None:
    code = "from lanbot.cli import main; main(['chat', '--help'])"
    environment = {**os.environ, "COLUMNS": columns}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "--temperature" in done.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_behind_stdout_is_two_lines() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([*LANBOT, "data", "list"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 2)
    assert "output: No space left on device" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"), [(("run", "smoke"), True), (("runs",), False), (("run", "--help"), False)]
)
def test_only_a_run_that_is_terminated_speaks_of_what_was_saved(arguments: tuple[str, ...], said: int) -> None:
    code = (
        "import os, signal, sys\nfrom lanbot import cli\n"
        "cli.app.__class__.__call__ = lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM)\n"
        f"cli.main({list(arguments)})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 143 and done.stderr.startswith("lanbot: stopped")
    assert ("saved checkpoints" in done.stderr) == said


def test_bytes_that_are_no_text_never_reach_a_recipe(place: Path) -> None:
    name = os.fsencode("Caf") + b"\xe9"
    done = subprocess.run(
        [*LANBOT, "init", "--name", name, "--creator", "Ada"], capture_output=True, input=b"", check=False
    )
    assert done.returncode == 0, done.stderr
    assert load(place / "lanbot.toml").identity.name == "Caf\ufffd"


def test_files_are_utf8_in_any_locale(place: Path) -> None:
    environment = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    command = [*LANBOT, "init", "--name", "Zo\u00eb", "--creator", "Ada", "--personality", "calm"]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 'name = "Zo\u00eb"'.encode() in (place / "lanbot.toml").read_bytes()


def test_init_takes_piped_answers(place: Path) -> None:
    done = subprocess.run([*LANBOT, "init"], input="Robi\nAda\n\n", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    who = load(place / "lanbot.toml").identity
    assert (who.name, who.creator, who.personality) == ("Robi", "Ada", load("demo").identity.personality)


# -- init and doctor ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "file", "folder"),
    [
        ('Ro"bi', "mine.toml", "mine"),
        ("O'Brien", "My Bot.toml", "my-bot"),
        ("Zoë 🤖", "zoë_2.toml", "zoë_2"),
        ("two\nlines", "mine", "mine"),
        ("[identity]", "a.b.toml", "a-b"),
        (' name = "demo" ', "🤖.toml", "bot"),
    ],
)
def test_init_writes_a_recipe_that_carries_who_the_bot_is(name: str, file: str, folder: str, place: Path) -> None:
    creator, personality = 'Ada "the first" O\'Neil\\', "says: 'hm', \"ha\"\nand [more]"
    succeed("init", file, "--name", name, "--creator", creator, "--personality", personality)
    recipe = load(place / file)
    who = recipe.identity
    assert (who.name, who.creator, who.personality) == (name.strip(), creator, personality)
    assert recipe.name == folder
    demo = load("demo")
    assert (recipe.base, recipe.mid, recipe.sft, recipe.rl) == (demo.base, demo.mid, demo.sft, demo.rl)


def test_init_without_a_terminal_takes_the_defaults(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "ada")
    succeed("init", "--name", " ")
    recipe = load(place / "lanbot.toml")
    assert (recipe.identity.name, recipe.identity.creator) == ("LanBot", "ada")
    assert recipe.identity.personality


def test_init_asks_on_a_terminal(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replies = {"Its name": "Robi", "Who makes it": "Ada", "personality": "cheerful"}
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt: next(v for k, v in replies.items() if k in prompt))
    succeed("init")
    who = load(place / "lanbot.toml").identity
    assert (who.name, who.creator, who.personality) == ("Robi", "Ada", "cheerful")


def test_init_overwrites_nothing_and_makes_no_folder(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "mine.toml").write_text("mine")
    assert "mine.toml: already exists" in error_of(capsys, "init", "mine.toml")[0]
    assert (place / "mine.toml").read_text() == "mine"
    assert "no such folder" in error_of(capsys, "init", "none/mine.toml")[0]


def test_doctor_prints_its_table(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    succeed("doctor", "--mirror", str(place))
    facts, _, found = capsys.readouterr().out.rstrip().partition("\n\n")
    shown = dict(line.split("  ", 1) for line in facts.split("\n"))
    assert {"lanbot", "python", "torch", "device", "matmul", "memory free", "disk free", "mirror"} <= set(shown)
    assert shown["mirror"].strip() == str(place)
    assert all(value.strip() for value in shown.values())
    assert found == sandbox.doctor() and found.startswith("sandbox: ")
