"""External APIs: what a description lists can be called, nothing else, and its key is seen by nobody."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from local_site import Site

from lanbot.core.errors import UserError
from lanbot.tools.api import Apis, open_api
from lanbot.tools.python_call import PythonCalls
from lanbot.tools.tool import Logged, Toolset

KEY = "s3cr3t-k3y/+="
JSON = {"Content-Type": "application/json"}
SHOP: dict[str, Any] = {
    "openapi": "3.0.3",
    "info": {"title": "shop", "version": "1"},
    "security": [{"key": []}],
    "paths": {
        "/items": {
            "get": {
                "summary": "Finds items",
                "parameters": [
                    {"$ref": "#/components/parameters/word"},
                    {"name": "most", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 9}},
                    {"name": "kind", "in": "query", "schema": {"type": "string", "enum": ["tea", "cake"]}},
                    {"name": "tag", "in": "query", "schema": {"type": "array", "items": {"type": "string"}}},
                ],
            },
            "post": {
                "summary": "Adds an item",
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Item"}}},
                },
            },
        },
        "/items/{id}": {
            "parameters": [{"name": "id", "in": "path", "required": True, "schema": {"type": "integer"}}],
            "get": {"summary": "Shows an item"},
            "delete": {"summary": "Removes an item", "security": []},
        },
        "/items/newest": {"get": {"summary": "Shows the newest"}},
        "/notes/{name}": {
            "get": {"parameters": [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}]}
        },
        "/admin": {"get": {"parameters": [{"name": "X-Admin", "in": "header", "required": True}]}},
    },
    "components": {
        "parameters": {"word": {"name": "q", "in": "query", "required": True, "schema": {"type": "string"}}},
        "schemas": {
            "Item": {
                "type": "object",
                "required": ["name"],
                "additionalProperties": False,
                "properties": {
                    "name": {"type": "string", "maxLength": 9},
                    "price": {"type": "number", "minimum": 0, "exclusiveMinimum": True, "nullable": True},
                    "parts": {"type": "array", "items": {"$ref": "#/components/schemas/Item"}},
                },
            }
        },
        "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
    },
}

Call = Callable[..., str]


def described(folder: Path, site: Site, name: str = "shop.json", **changes: Any) -> str:
    file = folder / name
    file.write_text(json.dumps({**SHOP, "servers": [{"url": site.url + "/v1"}], **changes}))
    return str(file)


@pytest.fixture
def call(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """call(method, path or address, body) by the description of SHOP, with a key."""
    monkeypatch.setenv("SHOP_KEY", KEY)
    calls = PythonCalls(Toolset(Apis(site.web, [open_api(described(tmp_path, site), "SHOP_KEY")]).tools))

    def made(method: str, path: str, *body: object) -> str:
        url = path if "://" in path else site.url + path
        return calls(f"http_request({', '.join(map(repr, [method, url, *body]))})")

    return made


def test_a_listed_call_is_made_with_its_key(call: Call, site: Site) -> None:
    site.answers |= {"/v1/items": (200, JSON, b'[{"name": "tea"}]'), "/v1/items/7": (204, {}, b"")}
    assert call("GET", "/v1/items?q=green%20tea&most=3&tag=a&tag=b") == '[{"name": "tea"}]'
    assert call("post", "/v1/items", {"name": "cake", "price": None}) == '[{"name": "tea"}]'
    assert call("POST", "/v1/items", '{"name": "bread"}') == '[{"name": "tea"}]'
    assert call("DELETE", "/v1/items/7") == "204 No Content"
    paths = ["/v1/items?q=green%20tea&most=3&tag=a&tag=b", "/v1/items", "/v1/items", "/v1/items/7"]
    assert [asked.path for asked in site.asked] == paths
    assert [json.loads(asked.body or b"0") for asked in site.asked] == [
        0,
        {"name": "cake", "price": None},
        {"name": "bread"},
        0,
    ]
    assert site.asked[1].headers["content-type"] == "application/json"
    assert [asked.headers.get("authorization") for asked in site.asked] == [f"Bearer {KEY}"] * 3 + [None]


@pytest.mark.parametrize(
    ("method", "path", "body", "why"),
    [
        ("GET", "/v1/admin", None, "not among the listed calls"),
        ("GET", "/v1/secret", None, "not among the listed calls"),
        ("GET", "/items?q=a", None, "not among the listed calls"),
        ("GET", "/v1/items/../admin?q=a", None, "not among the listed calls"),
        ("GET", "/v1/notes/..%2fadmin", None, "not among the listed calls"),
        ("GET", "/v1/notes/%2e%2e", None, "not among the listed calls"),
        ("GET", "/v1/notes/a%5c..%5cb", None, "not among the listed calls"),
        ("GET", "/v1//items?q=a", None, "not among the listed calls"),
        ("GET", "http://localhost:{port}/v1/items?q=a", None, "not among the listed calls"),
        ("GET", "https://127.0.0.1:{port}/v1/items?q=a", None, "not among the listed calls"),
        ("GET", "http://127.0.0.1:1/v1/items?q=a", None, "not among the listed calls"),
        ("GET", "http://127.0.0.1@evil.example/v1/items?q=a", None, "a user's name or password"),
        ("GET", "file:///v1/items?q=a", None, "only addresses that start with"),
        ("PUT", "/v1/items", None, "PUT is not among the calls of this address; there are: GET, POST"),
        ("DELETE", "/v1/items/newest", None, "id: 'newest' is not of type 'integer'"),
        ("GET", "/v1/items", None, "missing in the address: q"),
        ("GET", "/v1/items?q=a&all=1", None, "there is no parameter all; there are: q, most, kind, tag"),
        ("GET", "/v1/items?q=a&most=10", None, "most: 10 is greater than the maximum of 9"),
        ("GET", "/v1/items?q=a&most=many", None, "most: 'many' is not of type 'integer'"),
        ("GET", "/v1/items?q=a&kind=milk", None, "kind: 'milk' is not one of ['tea', 'cake']"),
        ("GET", "/v1/items?q=a&q=b", None, "q is given 2 times"),
        ("GET", "/v1/items/tea", None, "id: 'tea' is not of type 'integer'"),
        ("GET", "/v1/items?q=a", {"x": 1}, "this call takes no body"),
        ("POST", "/v1/items", None, "this call needs a body (application/json)"),
        ("POST", "/v1/items", "name=tea", "the body is not JSON"),
        ("POST", "/v1/items", {"price": 1}, "body: 'name' is a required property"),
        ("POST", "/v1/items", {"name": "tea", "admin": True}, "body: Additional properties are not allowed"),
        ("POST", "/v1/items", {"name": "tea", "price": 0}, "body['price']: 0 is less than or equal to"),
        ("POST", "/v1/items", {"name": "t", "parts": [{"name": 5}]}, "body['parts'][0]['name']: 5 is not of type"),
    ],
)
def test_what_is_not_listed_is_not_sent(method: str, path: str, body: object, why: str, call: Call, site: Site) -> None:
    said = call(method, path.replace("{port}", str(site.port)), body)
    assert said.startswith("error: ") and why in said
    assert site.asked == []


def test_a_path_of_its_own_goes_before_a_pattern(call: Call, site: Site) -> None:
    site.answers["/v1/items/newest"] = (200, JSON, b"5")
    assert call("GET", "/v1/items/newest") == "5"


def test_an_answer_that_is_an_error_says_why(call: Call, site: Site) -> None:
    site.answers["/v1/items/8"] = (422, JSON, b'{"detail":\n "sold out"}' + b" " * 9_000)
    assert call("GET", "/v1/items/8") == 'error: 422 Unprocessable Entity: {"detail": "sold out"}'
    assert call("GET", "/v1/items/9") == "error: 404 Not Found: not here"


def test_a_redirect_is_followed_only_to_a_listed_call(call: Call, site: Site, make_site: Callable[[], Site]) -> None:
    other = make_site()
    site.answers |= {
        "/v1/items/1": (302, {"Location": "/v1/items/2"}, b""),
        "/v1/items/2": (200, JSON, b"2"),
        "/v1/items/3": (302, {"Location": "/v1/admin"}, b""),
        "/v1/items/4": (302, {"Location": other.url + "/v1/items/2"}, b""),
        "/v1/items": (307, {"Location": other.url + "/v1/items"}, b""),
    }
    assert call("GET", "/v1/items/1") == "2"
    for path in ("/v1/items/3", "/v1/items/4"):
        assert "not among the listed calls" in call("GET", path)
    assert call("POST", "/v1/items", {"name": "tea"}) == "error: 307 Temporary Redirect"
    assert other.asked == [] and "/v1/admin" not in [asked.path for asked in site.asked]


def test_nobody_sees_the_key(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SHOP_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    sent_back = f"You sent {KEY}, s3cr3t-k3y%2F%2B%3D and more".encode()
    site.answers |= {
        "/v1/items/1": (200, JSON, sent_back),
        "/v1/items/2": (401, JSON, sent_back),
        "/v1/items/3": (302, {"Location": "https://evil.example/"}, b""),
    }
    apis = Apis(site.web, [open_api(described(tmp_path, site), "SHOP_KEY")])
    log: list[Any] = []
    calls = PythonCalls(Logged(Toolset(apis.tools), lambda *called: log.append(called)))
    said = [calls(f'http_request("GET", "{site.url}/v1/items/{number}")') for number in (1, 2, 3, 4)]
    assert said[0] == "You sent [hidden], [hidden] and more" and "[hidden]" in said[1]
    assert all(asked.headers["authorization"] == "Bearer " + KEY for asked in site.asked) and len(site.asked) == 4
    everywhere = f"{said} {log} {apis.apis} {[tool.declaration for tool in apis.tools]} {caplog.text}"
    assert KEY not in everywhere and "k3y" not in everywhere


@pytest.mark.parametrize(
    ("scheme", "header", "value"),
    [
        ({"type": "apiKey", "in": "header", "name": "X-Key"}, "x-key", "me:pass"),
        ({"type": "http", "scheme": "Basic"}, "authorization", "Basic bWU6cGFzcw=="),
    ],
)
def test_other_ways_to_send_a_key(
    scheme: dict[str, str], header: str, value: str, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_KEY", "me:pass")
    site.answers["/v1/items/1"] = (200, JSON, f"1 {value}".encode())
    file = described(tmp_path, site, components={**SHOP["components"], "securitySchemes": {"key": scheme}})
    (http_request,) = Apis(site.web, [open_api(file, "SHOP_KEY")]).tools
    assert (
        http_request.run("GET", site.url + "/v1/items/1")
        == f"1 {value.replace('me:pass', '[hidden]').replace('bWU6cGFzcw==', '[hidden]')}"
    )
    assert site.asked[0].headers[header] == value


def test_the_model_is_told_what_it_may_call(site: Site, tmp_path: Path) -> None:
    (http_request,) = Apis(site.web, [open_api(described(tmp_path, site))]).tools
    assert http_request.kind == "network"
    assert http_request.description.split("\n") == [
        "Calls an external API. These calls can be made:",
        f"GET {site.url}/v1/items?q=&[most=]&[kind=]&[tag=] - Finds items",
        f"POST {site.url}/v1/items body=application/json - Adds an item",
        f"GET {site.url}/v1/items/{{id}} - Shows an item",
        f"DELETE {site.url}/v1/items/{{id}} - Removes an item",
        f"GET {site.url}/v1/items/newest - Shows the newest",
        f"GET {site.url}/v1/notes/{{name}}",
    ]


def test_a_listed_host_that_is_not_public_stays_closed(site: Site, tmp_path: Path) -> None:
    from lanbot.tools.web import Web

    calls = PythonCalls(Toolset(Apis(Web(), [open_api(described(tmp_path, site))]).tools))
    assert "not on the public internet" in calls(f'http_request("GET", "{site.url}/v1/items/1")')
    assert site.asked == []


def test_yaml_server_variables_and_forms(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(
        "openapi: 3.1.0\nservers:\n- url: http://127.0.0.1:{port}\n"
        f"  variables: {{port: {{default: '{site.port}'}}}}\n"
        "paths:\n  /login:\n    post:\n      requestBody:\n        content:\n"
        "          application/x-www-form-urlencoded:\n            schema: {type: object}\n"
    )
    site.answers["/login"] = (200, {"Content-Type": "text/plain"}, b"hello")
    calls = PythonCalls(Toolset(Apis(site.web, [open_api(str(file))]).tools))
    assert calls(f'http_request("POST", "{site.url}/login", {{"name": "a&b"}})') == "hello"
    assert (site.asked[0].body, site.asked[0].headers["content-type"]) == (
        b"name=a%26b",
        "application/x-www-form-urlencoded",
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "No such file"),
        ("{", "expected"),
        ("[]", "no OpenAPI 3 description"),
        ('{"swagger": "2.0"}', "no OpenAPI 3 description"),
        ('{"openapi": "3.0.0", "paths": {}}', "server ''"),
        ('{"openapi": "3.0.0", "servers": [{"url": "/v1"}], "paths": {}}', "server '/v1'"),
        ('{"openapi": "3.0.0", "servers": [{"url": "https://a.example"}], "paths": {}}', "lists no call"),
        ('{"openapi": "3.0.0", "servers": [{"url": "https://a.example"}], "paths": []}', "not as OpenAPI says"),
        ('{"openapi": "3.0.0", "paths": {"/a": {"$ref": "https://evil.example/x"}}}', "outside the file"),
        (
            '{"openapi": "3.0.0", "servers": [{"url": "https://a.example"}], "paths": {"/a": {"$ref": "#/b"}}}',
            "#/b leads nowhere",
        ),
    ],
)
def test_a_description_that_cannot_be_used(text: str | None, why: str, tmp_path: Path) -> None:
    file = tmp_path / "api.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError) as raised:
        open_api(str(file))
    assert why in raised.value.problem and raised.value.problem.startswith(str(file)) and raised.value.remedy


def test_a_key_that_is_missing_or_has_no_place(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHOP_KEY", raising=False)
    with pytest.raises(UserError, match="SHOP_KEY, is not set"):
        open_api(described(tmp_path, site), "SHOP_KEY")
    monkeypatch.setenv("SHOP_KEY", "two\nlines")
    with pytest.raises(UserError, match="SHOP_KEY holds a character") as raised:
        open_api(described(tmp_path, site), "SHOP_KEY")
    assert "two" not in str(raised.value)
    monkeypatch.setenv("SHOP_KEY", KEY)
    with pytest.raises(UserError, match="describes no key"):
        open_api(described(tmp_path, site, security=[]), "SHOP_KEY")
