"""lanbot serve."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from lanbot.cli.shared import KEY, api_keys, open_run
from lanbot.core.errors import UsageError

if TYPE_CHECKING:
    from lanbot.web.agent_host import AgentHost
    from lanbot.web.served import Models


def serve(
    run: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key_env: str = KEY,
    api_key_file: Path | None = None,
    cors: Annotated[list[str] | None, Parameter(negative="")] = None,
    timeout: float = 600.0,
    queue: int = 256,
    quiet: bool = False,
    agent: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Serve a model: a chat page, and OpenAI's and Anthropic's APIs for other programs.

    Only this machine reaches it by default; another --host needs a key, from the environment or a file.

    Args:
        run: A run's name or folder, whose phases are all served, or a model's folder.
        host: The address to listen at.
        port: 0 takes any that is free.
        api_key_env: The variable that holds the key.
        api_key_file: A file of keys, one a line; each is a client of its own to the queue.
        cors: The origin of a page that may ask from a browser, https://chat.example; may be given several times.
        timeout: Seconds that a request may take.
        queue: Requests that may wait; more are refused with 429.
        quiet: Write no line for each request.
        agent: Let the chat page give tasks to the run's agent, with its files, memory and permissions.
    """
    keys = api_keys(api_key_env, api_key_file)
    from lanbot.web.security import Access, public_without_key

    if public_without_key(host, keys):
        remedy = f"Put a key into {api_key_env} or name an --api-key-file, or leave --host out."
        raise UsageError(f"--host {host}: others reach this address, and there is no key", remedy)
    if timeout <= 0 or queue < 1:
        raise UsageError("--timeout and --queue must be above 0", "Leave them out for the defaults.")
    from lanbot.core.console import say
    from lanbot.web.app import make_app
    from lanbot.web.server import listen, make_server

    models = _models(run)
    loaded = next(iter(models.models.values()))
    _ = loaded.engine  # the first question does not wait for it, and what is wrong with it is said now
    acting = _agent(run) if agent else None
    app = make_app(models, Access(keys, tuple(cors or ())), log=not quiet, seconds=timeout, queue=queue, agent=acting)
    listener = listen(host, port)
    address = f"[{host}]" if ":" in host else host
    say(f"{next(iter(models))} at http://{address}:{listener.getsockname()[1]} ({'with' if keys else 'no'} key)")
    make_server(app).run([listener])


def _agent(name: str) -> "AgentHost":
    from lanbot.agent.session import Options, open_session
    from lanbot.web.agent_host import AgentHost, Remembered

    if (Path(name) / "config.json").is_file():
        raise UsageError("--agent: a model's folder has no agent", "Name a run.")
    run = open_run(name)
    return AgentHost(lambda asks: open_session(run, Options(asks=asks)), Remembered(run.folder / "agent" / "memory.db"))


def _models(name: str) -> "Models":
    from lanbot.web import served

    if (Path(name) / "config.json").is_file():
        return served.of_folder(Path(name))
    return served.of_run(open_run(name))
