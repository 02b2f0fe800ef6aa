"""Permissions: which calls of an agent's tools are made, which are refused, and which the user is asked about."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import RLock
from typing import Any, Literal

from lanbot.config.agent import Permissions
from lanbot.tools.question import Question, question
from lanbot.tools.rules import Address, Files, Rule, Target, always_rule, exactly, instructs, target_of
from lanbot.tools.tool import Tool, ToolError, Toolset, Wrapper
from lanbot.tools.web import PERMIT
from lanbot.tools.workspace import Workspace

Answer = Literal["once", "always", "no"]
Ask = Callable[[Question], Answer]
DEFAULTS = ("read", "remember", "forget")
"""What is allowed if no rule says otherwise; anything else is asked about."""
OWN_FILES = ("write_file", "edit_file")
"""Allowed too, where the files are the agent's own and not a folder of the user's."""


@dataclass(frozen=True)
class Decision:
    """answer: "allow" or "deny". by: the rule, or who said so. rule: what would allow the call."""

    tool: str
    arguments: Mapping[str, Any]
    answer: str
    by: str
    rule: str


@dataclass
class Policy:
    """The rules of a session.

    defaults: allowed where no rule says otherwise. home: the run's folder, in which no tool writes but among its own
    files. always: what the user allowed for the rest of the session.
    """

    deny: list[Rule] = field(default_factory=list)
    ask: list[Rule] = field(default_factory=list)
    allow: list[Rule] = field(default_factory=list)
    defaults: list[Rule] = field(default_factory=lambda: parsed(DEFAULTS))
    home: Path | None = None
    always: list[Rule] = field(default_factory=list)

    @classmethod
    def of(cls, settings: Permissions, further: Iterable[str] = (), home: Path | None = None) -> "Policy":
        """further: what is allowed by default besides DEFAULTS."""
        defaults = parsed((*DEFAULTS, *further))
        return cls(parsed(settings.deny), parsed(settings.ask), parsed(settings.allow), defaults, home)

    def decide(self, tool: Tool, target: Target, files: Workspace) -> tuple[str, str]:
        """ "allow", "ask" or "deny", and why."""
        if tool.subject == "page" and not isinstance(target, Address):
            tool = replace(tool, kind="read")  # of the offline folder

        def first(rules: list[Rule], allowing: bool) -> Rule | None:
            return next((rule for rule in rules if rule.matches(tool, target, allowing)), None)

        names = target.names if isinstance(target, Files) and tool.kind != "read" else ()
        if rule := first(self.deny, False):
            return "deny", f"the rule deny {rule}"
        if any(self._at_home(name, files) for name in names):
            return "deny", "the run's own folder is not written by tools"
        instructing = any(map(instructs, names))
        always = [exactly(tool, name) for name in names if exactly(tool, name) in self.always]
        if rule := first(always if instructing else self.always, True):
            return "allow", f"the user, always {rule}"
        if rule := first(self.ask, False):
            return "ask", f"the rule ask {rule}"
        allow = [rule for rule in self.allow if rule.spec is not None] if instructing else self.allow
        if rule := first(allow, True):
            return "allow", f"the rule allow {rule}"
        if instructing:
            return "ask", "it tells agents what to do"
        if rule := first(self.defaults, True):
            return "allow", f"the default {rule}"
        return "ask", f"no rule allows it (kind {tool.kind})"

    def warnings(self, tools: Mapping[str, Tool]) -> list[str]:
        """A line for each rule that can never match."""
        lines, before = [], list[tuple[str, Rule]]()
        for scope, rules in (("deny", self.deny), ("ask", self.ask), ("allow", self.allow)):
            for rule in rules:
                problem = rule.problem(tools)
                shadow = next((f"{other} {one}" for other, one in before if one.covers(rule, tools)), "")
                if problem or (shadow and not shadow.startswith(f"{scope} ")):
                    lines.append(f"{scope} {rule} can never match: {problem or f'{shadow} comes first'}")
            before += [(scope, rule) for rule in rules]
        return lines

    def _at_home(self, name: str, files: Workspace) -> bool:
        root = files.folder
        if root is None or self.home is None:
            return False
        home, path = self.home.resolve(), root / name
        if files.folds_case:
            home, path = Path(str(home).casefold()), Path(str(path).casefold())
        return path.is_relative_to(home) and not path.is_relative_to(home / "agent" / "files")


class Permitted(Wrapper):
    """The calls that a policy allows, or the user when asked.

    ask: None where nobody can be asked; what would be asked is refused then. decided: hears of each decision. The
    arguments that were decided on are those that the tool gets.
    """

    def __init__(
        self,
        inner: Toolset,
        policy: Policy,
        files: Workspace,
        ask: Ask | None = None,
        decided: Callable[[Decision], None] = lambda decision: None,
    ) -> None:
        super().__init__(inner)
        self.policy, self.files, self.ask, self.decided = policy, files, ask, decided
        self.lock = RLock()  # two questions at once could not be told apart

    def call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        tool, frozen = self[name], deepcopy(dict(arguments))
        target = target_of(tool, frozen, self.files)
        asked = self._decide(tool, frozen, target)
        if tool.subject not in ("url", "page"):
            return super().call(name, frozen)
        with _permit(lambda method, url: self._request(tool, target, asked, method, url)):
            return super().call(name, frozen)

    def _decide(self, tool: Tool, arguments: dict[str, Any], target: Target) -> bool:
        """Whether the user was asked and said yes. Raises ToolError if the call may not be made."""
        with self.lock:
            answer, by = self.policy.decide(tool, target, self.files)
            if answer == "ask":
                answer, by = self._asked(tool, arguments, target, by)
                self._tell(tool, arguments, target, answer, by)
                return True
            self._tell(tool, arguments, target, answer, by)
            return False

    def _asked(self, tool: Tool, arguments: dict[str, Any], target: Target, why: str) -> tuple[str, str]:
        if self.ask is None:
            return "deny", f"{why}, and nobody can be asked"
        rule = always_rule(tool, target)
        shown = question(tool, deepcopy(arguments), target, self.files, rule)
        said = self.ask(shown)
        if said not in ("once", "always"):
            return "deny", "the user said no"
        if question(tool, deepcopy(arguments), target_of(tool, arguments, self.files), self.files, rule) != shown:
            return "deny", "what it would do changed while the user was asked; call again"
        if said == "always":
            self.policy.always.append(rule)
            return "allow", f"the user, always {rule}"
        return "allow", "the user, once"

    def _tell(self, tool: Tool, arguments: Mapping[str, Any], target: Target, answer: str, by: str) -> None:
        self.decided(Decision(tool.name, deepcopy(dict(arguments)), answer, by, str(always_rule(tool, target))))
        if answer != "allow":
            raise ToolError(f"{tool.name} was not allowed: {by}")

    def _request(self, tool: Tool, first: Target, asked: bool, method: str, url: str) -> None:
        """Looks at one request of a call. Where a redirect leads must be allowed by the rules, or be the same host if
        the user said yes to it. Raises ToolError."""
        target = Address.of(method, url)
        if target == first:
            return
        answer, by = self.policy.decide(tool, target, self.files)
        moved = isinstance(first, Address)
        near = isinstance(first, Address) and (first.scheme, first.place) == (target.scheme, target.place)
        if answer == "allow" or (answer == "ask" and asked and near):
            return
        by = f"it was redirected to {target.place}; {by}" if moved else by
        self._tell(tool, {"url": url}, target, "deny", by)


@contextmanager
def _permit(look: Callable[[str, str], None]) -> Any:
    token = PERMIT.set(look)
    try:
        yield
    finally:
        PERMIT.reset(token)


def parsed(texts: Iterable[str]) -> list[Rule]:
    return [Rule.parse(text) for text in texts]
