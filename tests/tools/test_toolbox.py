"""What a recipe's [agent] section gives the agent, and what is closed after it."""

import json
import sys
from pathlib import Path

import mcp_stand_in
import pytest

from lanbot.config.agent import Agent, Api, McpServer
from lanbot.config.recipe_file import load
from lanbot.config.run import Run
from lanbot.core.errors import UserError
from lanbot.tools.memory import Memory
from lanbot.tools.python_call import PythonCalls
from lanbot.tools.tool import Limited, ToolError
from lanbot.tools.toolbox import Toolbox
from lanbot.tools.workspace import Workspace

ALWAYS = ["list_files", "read_file", "write_file", "edit_file", "search_files", "remember", "recall", "forget"]


def opened(settings: Agent) -> Toolbox:
    return Toolbox(settings, Workspace({"a.txt": "tea"}), Memory())


def test_a_recipe_that_says_nothing_gives_files_and_memory() -> None:
    with opened(Agent()) as box:
        assert list(box.toolset) == ALWAYS


def test_everything_that_a_recipe_can_name(tmp_path: Path) -> None:
    pytest.importorskip("mcp", reason="the extra `agent` is not installed")
    (tmp_path / "tea.txt").write_text("Tea\nIt is hot.")
    (tmp_path / "api.json").write_text(
        json.dumps({"openapi": "3.1.0", "servers": [{"url": "https://a.example"}], "paths": {"/items": {"get": {}}}})
    )
    server = json.dumps([sys.executable, "-I", "-S", mcp_stand_in.__file__])
    (tmp_path / "all.toml").write_text(
        f"""name = "all"
[agent]
tools = ["python", "web_search", "fetch"]
search = "{tmp_path}"
apis = [{{ file = "{tmp_path}/api.json" }}]
mcp = [{{ name = "test", command = {server} }}]
"""
    )
    settings = Run.create(load(str(tmp_path / "all.toml")), root=tmp_path).recipe.agent
    assert settings.apis == (Api(file=f"{tmp_path}/api.json"),)
    try:
        box = opened(settings)
    except UserError as error:
        if "sandbox" in str(error):
            pytest.skip(str(error))
        raise
    with box:
        kinds = {name: tool.kind for name, tool in box.toolset.items() if name not in ALWAYS}
        assert kinds["python"] == "execute" and kinds["test_add"] == "execute"
        assert (kinds["web_search"], kinds["fetch"], kinds["http_request"]) == ("read", "network", "network")
        calls = PythonCalls(box.toolset)
        assert calls('web_search("tea")') == "Tea (tea.txt)\nIt is hot."
        code = 'x = [fetch("tea.txt"), test_add(1, 2), read_file("a.txt")]\nx'
        assert calls(code) == "['Tea\\nIt is hot.', '3', 'tea']"
        box.wrap(lambda inner: Limited(inner, 2))
        calls = PythonCalls(box.toolset)
        assert calls("read_file('a.txt')\nread_file('a.txt')").endswith("no more than 2 calls of tools")
    with pytest.raises(ToolError, match="is closed"):
        box.toolset["test_add"].run(a=1, b=2)
    assert Run.open("all", tmp_path).recipe.agent == settings  # written and read again


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (Agent(tools=("websearch",)), "websearch is no tool"),
        (Agent(tools=("nowhere:x",)), "nowhere:x cannot be imported"),
        (Agent(tools=("web_search",), search="/nowhere/at/all"), "no such folder"),
        (Agent(apis=(Api(file="nowhere.json"),)), "nowhere.json"),
        (Agent(mcp=(McpServer(name="a", command=("no-such-command",)),)), "no command no-such-command|the package mcp"),
    ],
)
def test_what_cannot_be_is_two_lines(settings: Agent, why: str) -> None:
    with pytest.raises(UserError, match=why) as raised:
        opened(settings)
    assert raised.value.remedy


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('mcp = [{ name = "a" }]', "command or a url"),
        ('mcp = [{ name = "a", url = "https://a.example", command = ["b"] }]', "command or a url"),
        ('mcp = [{ name = "a", url = "ftp://a.example" }]', "url"),
        ('mcp = [{ name = "a b", command = ["b"] }]', "name"),
        ('apis = [{ key = "KEY" }]', "no file"),
        ('mcp = [{ url = "https://a.example" }]', "no name"),
        ('apis = [{ file = "a.json", token = "KEY" }]', "token"),
    ],
)
def test_a_recipe_is_checked_when_it_is_read(line: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(f'name = "a"\n[agent]\n{line}\n')
    with pytest.raises(UserError, match=why):
        load(str(tmp_path / "a.toml"))
