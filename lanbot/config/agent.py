"""The section [agent] of a recipe: the limits of the agent, and its tools."""

import re

from pydantic.dataclasses import dataclass

from lanbot.config.keys import CONFIG, Bool, Count, Natural, Number, key, require


@dataclass(frozen=True, config=CONFIG)
class Api:
    """An external API, of which the agent may make the calls that a description lists."""

    file: str = key("", "Its OpenAPI description, in JSON or YAML.")
    key: str = key("", "The environment variable that holds its key.")

    def __post_init__(self) -> None:
        require(bool(self.file), "an API has no file; name its OpenAPI description")


@dataclass(frozen=True, config=CONFIG)
class McpServer:
    """An MCP server: a command to run, or the address of one that runs."""

    name: str = key("", "Before the names of its tools.", pattern="^[A-Za-z][A-Za-z0-9_]*$")
    command: tuple[str, ...] = key((), "The program and its arguments.")
    env: tuple[str, ...] = key((), "The environment variables that the program gets, besides PATH, HOME and the like.")
    url: str = key("", "The address, of streamable HTTP.", pattern="^(https?://.+)?$")
    key: str = key("", "The environment variable whose value is sent to the address as a bearer token.")

    def __post_init__(self) -> None:
        require(bool(self.name), "an MCP server has no name")
        require(bool(self.command) != bool(self.url), f"mcp server {self.name!r}: give it a command or a url")


ADDRESS = re.compile(r"https?://[\w.\[\]:-]+(/\S*)?")
"""Of an endpoint; without a name or a password in it."""


@dataclass(frozen=True, config=CONFIG)
class Endpoint:
    """An OpenAI-compatible endpoint, whose model the agent uses instead of the run's."""

    url: str = key("", "Its address, up to and with /v1.")
    model: str = key("", "Its name of the model.")
    context: Natural = key(0, "Tokens of its context; 0 asks the endpoint.")
    price_in: Number = key(0.0, "Dollars per million tokens that it reads.")
    price_out: Number = key(0.0, "Dollars per million tokens that it writes.")
    key: str = key("", "The environment variable that holds its key.")

    def __post_init__(self) -> None:
        require(
            bool(ADDRESS.fullmatch(self.url)),
            "endpoint: its url is not an address; it looks like https://host/v1, without a name or a password",
        )
        require(bool(self.model), f"endpoint {self.url}: it has no model")


RULE = re.compile(r"[A-Za-z_]\w*\*?(?:\(.*\S.*\))?", re.DOTALL)
"""A rule of the permissions: a kind or a tool (a star ends its name), and in brackets which of its calls."""


@dataclass(frozen=True, config=CONFIG)
class Permissions:
    """Which calls of tools are refused, which are asked about, and which are made without asking."""

    deny: tuple[str, ...] = key((), "Rules for calls that are never made.")
    ask: tuple[str, ...] = key((), "Rules for calls that the user is asked about.")
    allow: tuple[str, ...] = key((), "Rules for calls that are made without asking.")

    def __post_init__(self) -> None:
        for rule in (*self.deny, *self.ask, *self.allow):
            good = RULE.fullmatch(rule.strip()) is not None
            require(good, f"{rule!r} is no rule; write a kind, a tool or tool(...), like write_file(notes/**)")


@dataclass(frozen=True, config=CONFIG)
class Agent:
    """How `lanbot agent` uses the model."""

    max_steps: Count = key(8, "Tool calls for one task.")
    max_tokens: Count = key(256, "Tokens that the model writes for one task, its calls included.")
    max_seconds: Number = key(0.0, "Seconds for one task; 0: no limit.")
    max_cost: Number = key(0.0, "Dollars for one task, of an endpoint with prices; 0: no limit.")
    max_call_seconds: Number = key(60.0, "Seconds for one call of a tool without limits of its own; 0: no limit.")
    constrained: Bool = key(False, "Calls are well formed: what cannot be a call of a tool is not sampled in one.")
    temperature: Number = key(0.0, "Sampling temperature; 0 takes the most likely token.")
    tools: tuple[str, ...] = key(
        (), "Further tools: python, web_search, fetch, or module:name of a function or a Toolset."
    )
    search: str = key("", "A folder of texts that web_search and fetch read instead of the web.")
    apis: tuple[Api, ...] = key((), "External APIs for http_request: { file = DESCRIPTION, key = VARIABLE }.")
    endpoint: Endpoint | None = key(None, "A model elsewhere: { url = URL, model = NAME, key = VARIABLE }.")
    mcp: tuple[McpServer, ...] = key((), "MCP servers: { name = NAME, command = [...] } or { name = NAME, url = URL }.")
    permissions: Permissions = key(
        Permissions(), "Rules for the tools: { deny = [...], ask = [...], allow = [...] }, looked at in this order."
    )

    def __post_init__(self) -> None:
        require(
            not (self.constrained and self.endpoint), "constrained = true is for a model of one's own, not an endpoint"
        )
