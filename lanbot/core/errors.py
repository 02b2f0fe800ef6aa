"""Errors that a user can cause and fix."""

from collections.abc import Iterable


class UserError(Exception):
    """An error that the user can fix. Shown without a traceback.

    problem: one line that names the file, key or value. remedy: one line that says what to do.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(f"{problem}\n{remedy}" if remedy else problem)
        self.problem = problem
        self.remedy = remedy


class UsageError(UserError):
    """A command line that cannot be read (exit code 2)."""


class Stopped(Exception):  # noqa: N818  (not an error: a signal asked for it)
    """A signal asked the run to stop and the state is saved. exit_code is 130 (Ctrl-C) or 143 (SIGTERM)."""

    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def did_you_mean(wrong: str, names: Iterable[str]) -> str:
    """ " Did you mean NAME?", or nothing if no name is alike."""
    import difflib  # slow to import, and rarely needed

    near = difflib.get_close_matches(wrong, list(names), n=1)
    return f" Did you mean {near[0]}?" if near else ""
