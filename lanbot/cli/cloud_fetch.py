"""lanbot cloud fetch: a run of the store into the runs folder."""

import os

from lanbot.cli.shared import make_options
from lanbot.core.errors import UsageError


def fetch(run: str, *, store: str = "") -> None:
    """Download a run from its store: the newest complete checkpoint of each phase, metrics, evaluations, reports.

    The same command resumes a fetch that was stopped. A newer or different run of that name here is left as it is.

    Args:
        run: The run's name.
        store: Where it is; if left out, where it was launched to, or LANBOT_STORE.
    """
    from lanbot.cloud import records
    from lanbot.cloud.fetch import fetch
    from lanbot.cloud.secrets import Secrets
    from lanbot.config.recipe import Recipe

    options, secrets = make_options(), Secrets.read()
    try:
        Recipe(name=run)
    except ValueError:
        raise UsageError(f"{run!r:.100}: not the name of a run", "Runs are named as in the store: runs/NAME.") from None
    for name, value in secrets.for_node("hf:", "s3:").items():
        os.environ.setdefault(name, value)
    record = records.load(options.runs / ".cloud", run)
    url = store or (str(record.job.get("store", "")) if record else "") or secrets.get("LANBOT_STORE")
    if not url:
        raise UsageError(f"{run}: in which store?", "Add --store hf:OWNER/NAME, or LANBOT_STORE to .env.")
    made = fetch(url, run, options)
    print(f"{made.folder} is complete. Talk to it: lanbot chat {run}. What it learned: lanbot report {run}.")
