"""Rules of permissions: which calls `write`, `write_file` or `write_file(notes/**)` mean."""

import re
import socket
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from posixpath import normpath
from typing import Any, get_args
from urllib.parse import unquote

import httpx2

from lanbot.core.errors import did_you_mean
from lanbot.tools.tool import Kind, Tool, ToolError
from lanbot.tools.web import checked_url

KINDS = get_args(Kind)
PORTS = {"http": 80, "https": 443}
_PLACE = re.compile(r"(?:([A-Z]+) +)?(\[[^\]]+\]|[^/\s:\[\]]+)(?::(\d+))?(/\S*)?")
_INSTRUCTIONS = re.compile(r"(?:.*/)?(?:agents\.md|claude\.md|skill\.md|recipe\.toml|skills/.*)", re.DOTALL)
"""Names of files, in lower case."""
_PROBES = (("q", "q/q"), ("z9-z", "z9-z"))  # what * and ** of one rule stand for, to see whether another covers it


@dataclass(frozen=True)
class Files:
    """What a call is about: files of the workspace, by their names. It is allowed if all are, denied if one is."""

    names: tuple[str, ...]
    folds_case: bool = False


@dataclass(frozen=True)
class Address:
    """What a call is about: a request. host: as `plain_host` writes it. path: decoded. odd: whether a server may read
    another path in it, as in /a/%2e%2e/b; no rule about a path allows it."""

    method: str
    scheme: str
    host: str
    port: int
    path: str
    odd: bool

    @classmethod
    def of(cls, method: str, url: str) -> "Address":
        """Raises ToolError if it is no address that can be asked."""
        parsed = checked_url(url)
        if not re.fullmatch("[A-Z]{1,20}", method):
            raise ToolError("a method is a word like GET")
        raw = parsed.raw_path.decode().partition("?")[0] or "/"
        path = raw
        for _ in range(3):
            path = unquote(path)
        path = path.replace("\\", "/")
        plain = "/" + normpath(path).lstrip("/") + ("/" if path.endswith("/") and path.strip("/") else "")
        odd = plain != path or re.search("%(2f|5c|25)", raw, re.IGNORECASE) is not None
        host, port = plain_host(parsed.raw_host.decode()), parsed.port or PORTS[parsed.scheme]
        return cls(method, parsed.scheme, host, port, plain, odd)

    @property
    def place(self) -> str:
        """The host, with the port unless it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


Target = Files | Address | str | None
"""What a call is about; None if no rule can look at it."""


@dataclass(frozen=True)
class Rule:
    """names: a kind, a tool, or the beginning of tools' names and a star. spec: which of their calls; None for all."""

    names: str
    spec: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Rule":
        """The rule of a text that `lanbot.config.agent.RULE` describes."""
        names, _, rest = text.strip().partition("(")
        return cls(names.strip(), rest[:-1].strip() if rest else None)

    def __str__(self) -> str:
        return f"{self.names}({self.spec})" if self.spec is not None else self.names

    def means(self, tool: Tool) -> bool:
        """Whether it is about a tool, at least about some of its calls."""
        if self.names.endswith("*"):
            return tool.name.startswith(self.names[:-1])
        return self.names in (tool.name, tool.kind)

    def matches(self, tool: Tool, target: Target, allowing: bool) -> bool:
        """Whether it is about a call. allowing: for a rule that allows, which must be about the whole of it."""
        if not self.means(tool):
            return False
        if self.spec is None:
            return True
        if isinstance(target, Files):
            found = [_glob(self.spec, target.folds_case)(_name(name, target.folds_case)) for name in target.names]
            return all(found) if allowing else any(found)
        if isinstance(target, Address):
            place = Place.parse(self.spec)
            return place is not None and place.matches(target, allowing)
        return target is not None and _text(self.spec)(target)

    def covers(self, other: "Rule", tools: Mapping[str, Tool]) -> bool:
        """Whether it is about every call that another rule is about."""
        meant = [tool for tool in tools.values() if other.means(tool)]
        if not meant or not all(self.means(tool) for tool in meant):
            return False
        if self.spec is None or self.spec == other.spec:
            return True
        if other.spec is None:
            return False
        targets = [(tool, target) for tool in meant for target in _examples(other.spec, tool)]
        return bool(targets) and all(self.matches(tool, target, allowing=True) for tool, target in targets)

    def problem(self, tools: Mapping[str, Tool]) -> str:
        """Why it can never match a call, and the nearest right name; "" if it can."""
        meant = [tool for tool in tools.values() if self.means(tool)]
        if not meant and self.names in KINDS:
            return f"there is no tool of kind {self.names}" if tools else ""
        if not meant:
            return f"there is no such tool.{did_you_mean(self.names.rstrip('*'), [*tools, *KINDS])}"
        if self.spec is None:
            return ""
        found = [_spec_problem(self.spec, tool) for tool in meant]
        return "" if "" in found else found[0]


@dataclass(frozen=True)
class Place:
    """A spec about addresses: [METHOD ]HOST[:PORT][/PATH]."""

    method: str
    host: str
    port: int
    path: str

    @classmethod
    @lru_cache(maxsize=256)
    def parse(cls, spec: str) -> "Place | None":
        found = _PLACE.fullmatch(spec)
        if found is None:
            return None
        method, host, port, path = found.groups(default="")
        below = "*." if host.startswith("*.") else ""
        if "*" in host[len(below) :] and host != "*":
            return None
        with suppress(ToolError, ValueError):
            plain = host if host == "*" else below + plain_host(host[len(below) :])
            return cls(method, plain, int(port or 0), path)
        return None

    def matches(self, address: Address, allowing: bool) -> bool:
        if self.method not in ("", address.method):
            return False
        if self.port and self.port != address.port:
            return False
        if not self.port and allowing and address.port not in PORTS.values():
            return False
        below = self.host.startswith("*.") and address.host.endswith(self.host[1:])
        if self.host not in ("*", address.host) and not below:
            return False
        if not self.path:
            return True
        return not (allowing and address.odd) and _glob(self.path, False)(address.path)


def target_of(tool: Tool, arguments: Mapping[str, Any], files: Any) -> Target:
    """What a call is about. files: the workspace. Raises ToolError if the argument is no such thing."""
    if tool.subject == "path":
        default = tool.schema.get("properties", {}).get("path", {}).get("default", "")
        return Files((files.name_of(arguments.get("path", default)),), files.folds_case)
    if tool.subject == "files":
        return Files(tuple(files.names()), files.folds_case)
    if tool.subject in ("url", "page"):
        url = arguments.get("url", "")
        if tool.subject == "page" and isinstance(url, str) and "://" not in url:
            return url
        return Address.of(str(arguments.get("method", "GET")).upper(), url)
    value = arguments.get(tool.subject, tool.schema.get("properties", {}).get(tool.subject, {}).get("default"))
    return None if value is None else str(value)


def instructs(name: str) -> bool:
    """Whether a file tells agents what to do. To write one takes a rule that names a path, or the user's yes to it."""
    return _INSTRUCTIONS.fullmatch(name.casefold()) is not None


def exactly(tool: Tool, name: str) -> Rule:
    """The rule about one file."""
    return Rule(tool.name, _escaped(name))


def always_rule(tool: Tool, target: Target) -> Rule:
    """The narrow rule that "always" adds: the tool with the file's folder, with the host, or with the same text; of a
    file that tells agents what to do, with that file."""
    if isinstance(target, Files) and tool.subject == "path":
        name = target.names[0]
        folder = name.rpartition("/")[0]
        if name and (not folder or instructs(name)):
            return exactly(tool, name)
        return Rule(tool.name, f"{_escaped(folder)}/**" if folder else "**")
    if isinstance(target, Address):
        if "method" not in tool.schema.get("properties", {}):
            return Rule(tool.name, target.place)
        folder = "" if target.odd else _escaped(target.path.rpartition("/")[0]) + "/**"
        return Rule(tool.name, f"{target.method} {target.place}{folder}")
    return Rule(tool.name, _escaped(target.strip()) if isinstance(target, str) else None)


def plain_host(host: str) -> str:
    """A host in one form: lower case, in ASCII, without a dot at the end, an IP address as it is usually written.

    Raises ToolError if it is no host's name.
    """
    bare = host.strip("[]")
    try:
        with suppress(ValueError):
            ip = ip_address(bare)
            return str((isinstance(ip, IPv6Address) and ip.ipv4_mapped) or ip)
        plain = httpx2.URL(f"http://{bare}/").raw_host.decode().rstrip(".").lower()
    except (httpx2.InvalidURL, ValueError):
        raise ToolError(f"{host[:100]!r} is no host's name") from None
    if plain[-1:].isdigit() or plain.rpartition(".")[2].startswith("0x"):  # 127.1, 0x7f000001
        with suppress(OSError):
            return socket.inet_ntoa(socket.inet_aton(plain))
    return plain


def _spec_problem(spec: str, tool: Tool) -> str:
    """Why a spec matches no call of a tool; "" if it may."""
    if tool.subject in ("path", "files"):
        if re.match(r"[A-Z]+ |\w+:", spec):
            return f"{tool.name} takes a file of the workspace, not a host or an address"
        if spec.startswith(("/", "~")) or ".." in spec.split("/"):
            return f"{spec} is outside the workspace; a path starts in it, like notes/**"
        if any(part.startswith(".") and part.strip(".") for part in spec.split("/")):
            return "no tool reaches names that start with a dot"
        return ""
    if tool.subject not in ("url", "page"):
        return "" if tool.subject else f"rules about {tool.name} have nothing in brackets; write {tool.name}"
    if found := re.match(r"(?:host:|domain:|\w+://)([\w*.-]+)", spec):
        return f"write {tool.name}({found[1]})"
    place = Place.parse(spec)
    if place is None or ("." not in place.host and ":" not in place.host and place.host != "*"):
        return f"{spec} names no host; write {tool.name}(example.com)"
    if place.method not in ("", "GET") and "method" not in tool.schema.get("properties", {}):
        return f"{tool.name} only sends GET"
    return ""


def _examples(spec: str, tool: Tool) -> Iterator[Target]:
    """Targets that a spec is about, with unlikely names for its stars."""
    for star, stars in _PROBES:
        filled = spec.replace("**", "\0").replace("*", star).replace("\0", stars)
        if tool.subject in ("path", "files"):
            yield Files((filled,))
        elif tool.subject in ("url", "page"):
            place = Place.parse(filled)
            for method in [place.method] if place and place.method else ["GET", "QQQ"]:
                if place:
                    yield Address(method, "https", place.host, place.port or 443, place.path or f"/{star}", False)
        else:
            yield filled


def _name(name: str, folds_case: bool) -> str:
    plain = unicodedata.normalize("NFC", name)
    return plain.casefold() if folds_case else plain


@lru_cache(maxsize=256)
def _glob(spec: str, folds_case: bool) -> Callable[[str], bool]:
    """Paths: * stands for a piece of a name, ** for any names; a/** is the folder a too, and a/ all of it."""
    spec = _name(spec.removeprefix("./"), folds_case)
    spec += "**" if spec.endswith("/") and len(spec) > 1 else ""
    pattern = _pattern(spec, "[^/]*")
    return lambda name: re.fullmatch(pattern, name, re.DOTALL) is not None


@lru_cache(maxsize=256)
def _text(spec: str) -> Callable[[str], bool]:
    """Texts: * stands for anything."""
    pattern = _pattern(spec, ".*")
    return lambda text: re.fullmatch(pattern, text.strip(), re.DOTALL) is not None


def _pattern(spec: str, star: str) -> str:
    """A regular expression: ** is any text, * what `star` says, and a star after a backslash is one."""
    made = ""
    for piece in re.findall(r"\\.|/\*\*$|\*\*/|\*\*|.", spec, re.DOTALL):
        if piece == "/**":
            made += "(?:/.*)?"
        elif piece == "**/":
            made += "(?:.*/)?"
        elif piece == "**":
            made += ".*"
        elif piece == "*":
            made += star
        else:
            made += re.escape(piece[1:] if len(piece) == 2 and piece[0] == "\\" else piece)
    return made


def _escaped(text: str) -> str:
    return re.sub(r"([\\*])", r"\\\1", text)
