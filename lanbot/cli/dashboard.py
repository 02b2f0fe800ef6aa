"""lanbot dashboard."""

from pathlib import Path

from lanbot.cli.shared import KEY, api_keys, make_options
from lanbot.core.errors import UsageError


def dashboard(
    *runs: str,
    host: str = "127.0.0.1",
    port: int = 8001,
    api_key_env: str = KEY,
    api_key_file: Path | None = None,
) -> None:
    """Show runs in the browser while they train: curves, figures, samples, time left and money.

    Only this machine reaches it by default; another --host needs a key, from the environment or a file.

    Args:
        runs: Runs by name or folder; default: all in the runs folder, new ones as they appear.
        host: The address to listen at.
        port: 0 takes any that is free.
        api_key_env: The variable that holds the key.
        api_key_file: A file of keys, one a line.
    """
    keys = api_keys(api_key_env, api_key_file)
    from lanbot.web.security import Access, public_without_key

    if public_without_key(host, keys):
        remedy = f"Put a key into {api_key_env} or name an --api-key-file, or leave --host out."
        raise UsageError(f"--host {host}: others reach this address, and there is no key", remedy)
    from lanbot.core.console import say
    from lanbot.dashboard.app import make_app
    from lanbot.dashboard.watched import Runs
    from lanbot.web.server import listen, make_server

    watched = Runs(runs, make_options())
    app = make_app(watched, Access(keys))
    listener = listen(host, port)
    address = f"[{host}]" if ":" in host else host
    what = ", ".join(runs) or f"the runs of {watched.options.runs}/"
    say(f"{what} at http://{address}:{listener.getsockname()[1]} ({'with' if keys else 'no'} key)")
    make_server(app).run([listener])
