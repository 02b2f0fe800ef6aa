"""The command and configuration that start the zygote at each level."""

import json
import os
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any

BOXED, LOCKED, SEATBELT, OPEN = 1, 2, 3, 4
"""The levels. BOXED has a folder in memory; the others use a temporary folder of the host."""
WORK, SOURCE = "/work", "/source"  # the runs' folder and LanBot's code inside bubblewrap
NOBODY = 65534
TASKS = 64 * max(2, os.cpu_count() or 1)
"""Threads that all runs of a user together may start, besides those that the user already has."""
SYSTEM = (
    *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo", "/etc/ld.so.cache"),
    *("/nix/store", "/gnu/store"),
)
"""Shared libraries and time zones."""
PACKAGE = Path(__file__).resolve().parents[1]
BOOT = "import sys; sys.path.insert(0, {source!r}); from lanbot.sandbox.zygote import main; main()"

SEATBELT_PROFILE = """(version 1)
(deny default)
(allow process-fork)
(allow process-exec (literal {interpreter}))
(allow signal (target children))
(allow sysctl-read)
(allow file-read-metadata)
(allow file-read* {readable} (literal "/dev/null") (literal "/dev/urandom") (literal "/"))
(allow file-write* (subpath {folder}) (literal "/dev/null"))
(allow file-read* (subpath {folder}))
"""
"""For macOS. Untested."""


def interpreter() -> str:
    """The Python that a virtual environment is based on."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def standard_library() -> list[str]:
    below = {"platbase": sys.base_exec_prefix}  # otherwise the second path is the virtual environment's
    return [os.path.realpath(sysconfig.get_path(name, vars=below)) for name in ("stdlib", "platstdlib")]


def readable() -> list[str]:
    """The paths that Python reads: interpreter, standard library, shared libraries; none inside another."""
    prefixes = {sys.base_prefix, sys.base_exec_prefix, str(Path(interpreter()).parents[1])}
    libraries = [os.path.join(prefix, name) for prefix in sorted(prefixes) for name in ("lib", "lib64")]
    paths = [path for path in (*SYSTEM, *libraries, *standard_library(), interpreter()) if os.path.exists(path)]
    paths = list(dict.fromkeys(paths))
    return [path for path in paths if not any(path.startswith(other + "/") for other in paths)]


def open_to_all() -> bool:
    """Whether every user can read the standard library."""
    folders = [folder for path in standard_library() for folder in (Path(path), *Path(path).parents)]
    return all(folder.stat().st_mode & 0o001 for folder in folders)


def tasks_of(uid: int) -> int:
    """The number of threads of a user."""
    count = 0
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                count += len(os.listdir(entry.path + "/task")) if entry.stat().st_uid == uid else 0
            except OSError:  # the process has just ended
                continue
    return count


def command(level: int, folder: str) -> list[str]:
    """The command that starts a zygote of this level; its descriptor 0 must be the control socket. Raises OSError."""
    uid, linux = os.getuid(), sys.platform == "linux"
    drops = linux and uid == 0 and level <= LOCKED
    config: dict[str, Any] = {
        "level": level,
        "folder": folder,
        "read": readable(),
        "drop": NOBODY if drops else None,
        "search": drops and level == LOCKED and not open_to_all(),
        "tasks": TASKS + tasks_of(NOBODY if drops else uid) if linux else (0 if level == SEATBELT else 2_000),
        "source": SOURCE if level == BOXED else str(PACKAGE.parent),
    }
    python = [interpreter(), "-s", "-S", "-P", "-X", "utf8", "-c", BOOT.format(source=config["source"])]
    python.append(json.dumps(config))
    if level == BOXED:
        return [*bubblewrap(config["read"], user_space=not drops), *python]
    if level == SEATBELT:
        sources = [str(PACKAGE / "__init__.py"), str(PACKAGE / "sandbox")]
        paths = (*config["read"], *sources, "/usr", "/System", "/Library/Frameworks", "/private/var/db")
        subpaths = " ".join(f"(subpath {json.dumps(path)})" for path in paths)
        profile = SEATBELT_PROFILE.format(
            interpreter=json.dumps(interpreter()), folder=json.dumps(folder), readable=subpaths
        )
        return ["sandbox-exec", "-p", profile, *python]
    return python


def bubblewrap(paths: list[str], user_space: bool) -> list[str]:
    """bubblewrap's command: namespaces and a read-only root without /proc, /tmp, network or other processes.

    user_space: use a user namespace, which gives the zygote the right to mount. Root does not need one, and without it
    the runs have a real uid, for which the kernel counts threads.
    """
    if not (found := shutil.which("bwrap")):
        raise OSError("bubblewrap (bwrap) is not installed")
    capabilities = ["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"]  # for the zygote, as a run may chmod the folder
    if not user_space:
        capabilities += ["CAP_SETUID", "CAP_SETGID", "CAP_KILL"]
    package = f"{SOURCE}/lanbot"
    parents = {str(parent) for path in (*paths, "/dev/null", f"{package}/sandbox") for parent in Path(path).parents}
    return [
        *(found, "--die-with-parent", "--new-session", *(["--unshare-user"] if user_space else [])),
        *("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"),
        *("--hostname", "sandbox", "--cap-drop", "ALL"),
        *(word for capability in capabilities for word in ("--cap-add", capability)),
        # Those that bwrap creates are for root only.
        *(word for parent in sorted(parents - {"/"}) for word in ("--dir", parent)),
        *(word for path in paths for word in ("--ro-bind", path, path)),
        *("--dev-bind", "/dev/null", "/dev/null", "--dev-bind", "/dev/urandom", "/dev/urandom"),
        *("--ro-bind", str(PACKAGE / "__init__.py"), f"{package}/__init__.py"),
        *("--ro-bind", str(PACKAGE / "sandbox"), f"{package}/sandbox"),
        *("--dir", WORK, "--remount-ro", "/", "--chdir", "/"),
    ]
