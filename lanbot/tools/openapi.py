"""OpenAPI 3 descriptions: the calls that a file lists, and whether a call fits one of them."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode

import httpx2

from lanbot.core.errors import UserError
from lanbot.tools.tool import ToolError
from lanbot.tools.web import checked_url

METHODS = ("get", "put", "post", "delete", "patch", "head", "options")
FORM = "application/x-www-form-urlencoded"
CONVERTED = {"true": True, "false": False}


@dataclass(frozen=True)
class Parameter:
    """A parameter in the path or the query. schema: with what it refers to."""

    name: str
    required: bool
    schema: Mapping[str, Any]

    def check(self, texts: list[str]) -> None:
        """Raises ToolError if the values, as they stand in the address, do not fit the schema."""
        kind, items = self.schema.get("type"), self.schema.get("items", {}).get("type")
        if kind == "array":
            pieces = texts if len(texts) > 1 else texts[0].split(",")
            value: Any = [_converted(text, items) for text in pieces]
        elif len(texts) > 1:
            raise ToolError(f"{self.name} is given {len(texts)} times")
        else:
            value = _converted(texts[0], kind)
        _validate(value, self.schema, self.name)


@dataclass(frozen=True)
class Operation:
    """A call that a description lists. base: scheme, host, port and the path before `path`, of its server."""

    method: str
    base: str
    path: str
    summary: str
    in_path: tuple[Parameter, ...]
    in_query: tuple[Parameter, ...]
    body: Mapping[str, Any] | None
    body_kind: str
    body_required: bool
    auth: tuple[str, str] | None
    """How a key is sent: the header's name, and its text with {} for the key; None: not at all."""

    @property
    def line(self) -> str:
        """The call as a model reads it: GET https://host/path?needed=&[optional=] - what it does."""
        query = "&".join(f"{p.name}=" if p.required else f"[{p.name}=]" for p in self.in_query)
        body = f" body={self.body_kind}" if self.body is not None else ""
        summary = f" - {self.summary}" if self.summary else ""
        return f"{self.method} {self.base}{self.path}{'?' if query else ''}{query}{body}{summary}"

    def values(self, url: httpx2.URL) -> dict[str, str] | None:
        """The values of the path's parameters; None if the address is another one's."""
        base = httpx2.URL(self.base)
        if (url.scheme, url.host, _port(url)) != (base.scheme, base.host, _port(base)):
            return None
        names = re.findall(r"{([^{}]+)}", self.path)
        pieces = re.split(r"{[^{}]+}", base.path.rstrip("/") + self.path)
        found = re.fullmatch("([^/]+)".join(map(re.escape, pieces)), url.raw_path.decode().partition("?")[0])
        if found is None:
            return None
        values = dict(zip(names, map(unquote, found.groups()), strict=True))
        inside = any(value in (".", "..") or re.search(r"[/\\\0]", value) for value in values.values())
        return None if inside else values

    def check(self, url: httpx2.URL, values: Mapping[str, str], body: Any) -> bytes:
        """The body as it is sent. Raises ToolError if a parameter or the body does not fit."""
        for parameter in self.in_path:
            parameter.check([values[parameter.name]])
        given: dict[str, list[str]] = {}
        for name, value in parse_qsl(url.query.decode(), keep_blank_values=True):
            given.setdefault(name, []).append(value)
        known = {parameter.name: parameter for parameter in self.in_query}
        for name, texts in given.items():
            if name not in known:
                raise ToolError(f"there is no parameter {name}; there are: {', '.join(known) or 'none'}")
            known[name].check(texts)
        missing = [name for name, parameter in known.items() if parameter.required and name not in given]
        if missing:
            raise ToolError(f"missing in the address: {', '.join(missing)}")
        return self._body(body)

    def _body(self, body: Any) -> bytes:
        if body is None:
            if self.body_required:
                raise ToolError(f"this call needs a body ({self.body_kind})")
            return b""
        if self.body is None:
            raise ToolError("this call takes no body")
        if isinstance(body, str):
            try:
                body = json.loads(body)
            except ValueError as error:
                raise ToolError(f"the body is not JSON: {error}") from None
        _validate(body, self.body, "body")
        return urlencode(body, doseq=True).encode() if self.body_kind == FORM else json.dumps(body).encode()


def read_description(file: str) -> list[Operation]:
    """The calls that a description lists. Raises UserError if it is none, or lists none that can be made."""
    document = _document(file)
    try:
        found = [operation for server in _servers(document, file) for operation in _operations(document, server, file)]
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{file}: a part of it is not as OpenAPI says ({error})", "Correct the description.") from None
    if not found:
        raise UserError(f"{file}: lists no call that can be made", "Calls that need other headers or cookies cannot.")
    return found


def _document(file: str) -> dict[str, Any]:
    import yaml

    try:
        document = yaml.safe_load(Path(file).read_text(encoding="utf-8"))  # JSON is YAML
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}", "Name an OpenAPI description in agent.apis.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: {' '.join(str(error).split())}", "It must be JSON or YAML.") from None
    version = str(document.get("openapi", "")) if isinstance(document, dict) else ""
    if not version.startswith("3."):
        raise UserError(f"{file}: no OpenAPI 3 description", "Convert an older one first, with swagger2openapi say.")
    for reference in _references(document):
        if not reference.startswith("#/"):
            raise UserError(f"{file}: refers to {reference}, outside the file", "Bundle it into one file first.")
    return _nullable(document) if version.startswith("3.0") else document


def _servers(document: Mapping[str, Any], file: str) -> Iterator[str]:
    for server in document.get("servers") or [{}]:
        url = server.get("url", "")
        for name, variable in server.get("variables", {}).items():
            url = url.replace(f"{{{name}}}", str(variable.get("default", "")))
        try:
            yield str(checked_url(url)).rstrip("/")
        except ToolError as error:
            remedy = "Give it a whole address under servers: - url: https://host/path."
            raise UserError(f"{file}: server {url!r}: {error}", remedy) from None


def _operations(document: dict[str, Any], base: str, file: str) -> Iterator[Operation]:
    for path, item in document.get("paths", {}).items():
        item = _followed(document, item, file)
        for method in METHODS:
            if method not in item:
                continue
            parts = _parameters(document, [*item.get("parameters", []), *item[method].get("parameters", [])], file)
            if any(p.required for place in ("header", "cookie") for p in parts.get(place, ())):
                continue  # only the key is sent in a header
            body = _followed(document, item[method].get("requestBody", {}), file)
            kinds = [kind for kind in body.get("content", {}) if "json" in kind or kind == FORM]
            if body and not kinds:
                continue
            yield Operation(
                method.upper(),
                base,
                path,
                " ".join((item[method].get("summary") or item[method].get("description") or "").split())[:100],
                tuple(parts.get("path", ())),
                tuple(parts.get("query", ())),
                _schema(document, body["content"][kinds[0]].get("schema", {})) if kinds else None,
                kinds[0] if kinds else "",
                bool(body.get("required")),
                _auth(document, item[method], file),
            )


def _parameters(document: dict[str, Any], listed: list[Any], file: str) -> dict[str, list[Parameter]]:
    """By place; one of the operation replaces one of its path."""
    found: dict[tuple[str, str], Parameter] = {}
    for given in listed:
        given = _followed(document, given, file)
        made = Parameter(given["name"], bool(given.get("required")), _schema(document, given.get("schema", {})))
        found[given["in"], given["name"]] = made
    places: dict[str, list[Parameter]] = {}
    for (place, _), parameter in found.items():
        places.setdefault(place, []).append(parameter)
    return places


def _auth(document: dict[str, Any], operation: Mapping[str, Any], file: str) -> tuple[str, str] | None:
    """The first way to send one key in a header that the operation, or else the description, asks for."""
    schemes = document.get("components", {}).get("securitySchemes", {})
    for requirement in operation.get("security", document.get("security", [])):
        for name in requirement if len(requirement) == 1 else ():
            scheme = _followed(document, schemes.get(name, {}), file)
            if scheme.get("type") == "apiKey" and scheme.get("in") == "header":
                return scheme["name"], "{}"
            if scheme.get("type") == "http" and str(scheme.get("scheme")).lower() in ("bearer", "basic"):
                return "Authorization", f"{scheme['scheme'].capitalize()} {{}}"
    return None


def _followed(document: dict[str, Any], part: Any, file: str) -> dict[str, Any]:
    """What a part refers to, or the part itself. Raises UserError if it leads nowhere."""
    for _ in range(9):
        if not isinstance(part, dict) or "$ref" not in part:
            break
        pointer, part = part["$ref"], document
        for step in pointer.removeprefix("#/").split("/"):
            part = part.get(unquote(step).replace("~1", "/").replace("~0", "~")) if isinstance(part, dict) else None
    if not isinstance(part, dict):
        raise UserError(f"{file}: {pointer} leads nowhere", "Correct the description.")
    return part


def _references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        part = list(part.values())
    for inner in part if isinstance(part, list) else ():
        yield from _references(inner)


def _nullable(part: Any) -> Any:
    """The schemas of OpenAPI 3.0 in the words of JSON schema."""
    if isinstance(part, list):
        return [_nullable(inner) for inner in part]
    if not isinstance(part, dict):
        return part
    made = {name: _nullable(inner) for name, inner in part.items()}
    if made.pop("nullable", None) is True and isinstance(made.get("type"), str):
        made["type"] = [made["type"], "null"]
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if isinstance(made.get(exclusive), bool) and made.pop(exclusive) and bound in made:
            made[exclusive] = made.pop(bound)
    return made


def _schema(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """A schema that stands alone: with the components that it may refer to."""
    if "$ref" in schema:
        schema = {**_followed(document, schema, "")}
    return schema | {"components": document.get("components", {})}


def _validate(value: Any, schema: Mapping[str, Any], name: str) -> None:
    from jsonschema import Draft202012Validator
    from referencing import Registry

    try:
        errors = list(Draft202012Validator(schema, registry=Registry()).iter_errors(value))
    except Exception as error:  # of a schema that is none, or refers to what is not there
        raise ToolError(f"{name} cannot be checked: {error}") from None
    if errors:
        place = "".join(f"[{step!r}]" for step in errors[0].absolute_path)
        raise ToolError(f"{name}{place}: {errors[0].message[:200]}")


def _converted(text: str, kind: Any) -> Any:
    """A parameter's text as what its schema says it is; as it stands if it is not that."""
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), None)
    try:
        if kind in ("integer", "number"):
            return int(text) if re.fullmatch(r"-?\d{1,30}", text) else float(text)
    except ValueError:
        return text
    return CONVERTED.get(text, text) if kind == "boolean" else text


def _port(url: httpx2.URL) -> int:
    return url.port or {"http": 80, "https": 443}[url.scheme]
