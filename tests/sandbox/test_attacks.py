"""Each attack of attacks.py fails at levels 1 and 2, whether the host is root or another user."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from attacks import ATTACKS, KEY

import lanbot
from lanbot.sandbox.launch import OPEN

OTHER = 1_000
PACKAGE = Path(lanbot.__file__).parent

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="levels 1 and 2 are Linux's")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Where another user reads the code: what pytest makes is for this one only."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    (folder / "lanbot" / "core").mkdir(parents=True)
    for name in ("__init__.py", "core/__init__.py", "core/errors.py"):
        shutil.copy(PACKAGE / name, folder / "lanbot" / name)
    shutil.copytree(PACKAGE / "sandbox", folder / "lanbot" / "sandbox", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(Path(__file__).parent / "attacks.py", folder)
    yield folder
    shutil.rmtree(folder)


def python_for(uid: int) -> str | None:
    """A Python that this user can start, which needs nothing that is not in the standard library."""
    for python in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        try:
            subprocess.run([python, "-c", "import tomllib"], user=uid, check=True, capture_output=True, cwd="/")
        except (OSError, subprocess.CalledProcessError):
            continue
        return python
    return None


Outcomes = dict[str, str]


@pytest.fixture(scope="module")
def outcomes(folder: Path) -> dict[tuple[int, str], Outcomes]:
    """The batteries that were run, so that each runs once."""
    return {}


def run_battery(folder: Path, level: int, user: str, names: Sequence[str] = ()) -> Outcomes:
    uid = os.getuid() if user == "root" or os.getuid() else OTHER
    if user == "root" and uid != 0:
        return {"": "not root"}
    python = python_for(uid) if uid != os.getuid() else sys.executable
    if python is None:
        return {"": f"no Python that uid {uid} can start"}
    own = folder / f"{level}-{user}"
    (own / "home").mkdir(parents=True)
    (own / "victims").mkdir()
    (own / "tmp").mkdir()
    for path in (own, own / "home", own / "victims", own / "tmp") if uid != os.getuid() else ():
        os.chown(path, uid, uid)
    (own / "victims").chmod(0o777)
    environment = {"HOME": str(own / "home"), "TMPDIR": str(own / "tmp"), "API_KEY": KEY, "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [python, str(folder / "attacks.py"), str(level), str(own / "victims"), *names],
        **({"user": uid, "group": uid, "extra_groups": []} if uid != os.getuid() else {}),  # type: ignore[arg-type]
        env={**environment, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},  # or no level 4
        capture_output=True,
        cwd=folder,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found: Outcomes = json.loads(done.stdout)
    found["nothing is left"] = found.get("nothing is left", "") + " ".join(os.listdir(own / "tmp"))
    return found


@pytest.mark.parametrize("name", [*ATTACKS, "nothing is left"])
@pytest.mark.parametrize("user", ["root", "another user"])
@pytest.mark.parametrize("level", [1, 2])
def test_the_attack_fails(
    folder: Path, outcomes: dict[tuple[int, str], Outcomes], level: int, user: str, name: str
) -> None:
    if (level, user) not in outcomes:
        outcomes[level, user] = run_battery(folder, level, user)
    found = outcomes[level, user]
    if why := found.get(""):
        assert "got through" not in why
        pytest.skip(why)
    assert found[name] == ""


def test_attacks_succeed_without_a_sandbox(folder: Path) -> None:
    """Those attacks that harm nothing on a machine that stops none of them."""
    names = [
        *("12 x 150 MB by fork", "another program", "loopback socket", "a secret in $HOME", "the host's key"),
        "a daemon that survives",
    ]
    found = run_battery(folder, OPEN, "another user", names)
    if "" in found:
        pytest.skip(found[""])
    assert [name for name in names if found[name] == ""] == []
