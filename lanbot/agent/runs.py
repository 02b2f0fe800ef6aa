"""Which run an agent is of: one that was trained, or one that only names an endpoint's model."""

import os
import re
from dataclasses import replace
from urllib.parse import urlsplit

from lanbot.config import recipe_file
from lanbot.config.agent import ADDRESS, Agent, Endpoint
from lanbot.config.recipe import Identity, Recipe
from lanbot.config.run import Run
from lanbot.core.console import say
from lanbot.core.errors import UsageError, UserError
from lanbot.core.files import unwritable, write_atomic
from lanbot.core.options import Options

KEY = "LANBOT_API_KEY"
"""The variable of an endpoint's key, unless another is named; without it no key is sent."""
MAX_STEPS, MAX_TOKENS = 50, 16_384
"""Of a turn, in the recipe that is made for an endpoint's model: it can do more at once than a model of our own."""


def agent_run(name: str, key: str = "", options: Options | None = None) -> Run:
    """The run of this name or folder, or the one of an endpoint's model, http(s)://HOST/v1#MODEL.

    Of an endpoint a run is made where there is none, with a recipe of defaults that has the endpoint. key: the
    environment variable of the endpoint's key; without it, the recipe's. Raises UserError.
    """
    options = options or Options.from_environment()
    if not re.match("https?://", name):
        run = Run.open(name, options=options)
        return _with_key(run, key) if key else run
    url, _, model = name.partition("#")
    if not model:
        remedy = "Add its name of the model: http://localhost:11434/v1#qwen3:8b, in quotes."
        raise UsageError(f"{_shown(url)}: an endpoint without a model", remedy)
    for folder in _names(url, model):
        if not (options.runs / folder / "recipe.toml").is_file():
            return _made(folder, url.rstrip("/"), model, key, options)
        run = Run.open(folder, options=options, paths=False)
        endpoint = run.recipe.agent.endpoint
        if endpoint and (endpoint.url.rstrip("/"), endpoint.model) == (url.rstrip("/"), model):
            return _with_key(run, key) if key else run
    raise UserError(f"{_shown(name)}: the runs of its names are others", f"Rename one of them in {options.runs}.")


def _made(folder: str, url: str, model: str, key: str, options: Options) -> Run:
    if not ADDRESS.fullmatch(url):
        raise UsageError(f"{_shown(url)}: not an address", "It looks like http://localhost:11434/v1#qwen3:8b.")
    endpoint = Endpoint(url=url, model=model, key=key or (KEY if os.environ.get(KEY) else ""))
    settings = Agent(endpoint=endpoint, max_steps=MAX_STEPS, max_tokens=MAX_TOKENS)
    recipe = Recipe(name=folder, identity=Identity(name=model), agent=settings)
    run = Run(options.runs / folder, recipe, options)
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(run.folder, error) from None
    write_atomic(run.folder / "recipe.toml", recipe_file.dump(recipe))
    say(f"(made the run {folder} for this endpoint; its settings: {run.folder / 'recipe.toml'})")
    return run


def _shown(url: str) -> str:
    """Without the name and password that may be in it."""
    return re.sub("//[^/]*@", "//***@", url)


def _with_key(run: Run, key: str) -> Run:
    endpoint = run.recipe.agent.endpoint
    if endpoint is None:
        raise UsageError(f"--key-env {key}: the run has no endpoint", "Leave it out.")
    settings = replace(run.recipe.agent, endpoint=replace(endpoint, key=key))
    return replace(run, recipe=replace(run.recipe, agent=settings))


def _names(url: str, model: str) -> list[str]:
    """The folders of an endpoint's run: the model's name, with the host if the run of that name is another."""
    plain = re.sub(r"[^A-Za-z0-9._]+", "-", model).strip("-._")[:60] or "model"
    host = re.sub(r"[^A-Za-z0-9]+", "-", urlsplit(url).netloc.rpartition("@")[2]).strip("-")[:30]
    return [plain, f"{plain}-{host}"]
