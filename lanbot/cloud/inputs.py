"""What a machine fetches before it trains: the run as far as it is, or the model that it begins from, and the data."""

from pathlib import Path

from lanbot.cloud.script import Job
from lanbot.cloud.source import BEFORE, wanted
from lanbot.cloud.stores import Store, open_store, safe
from lanbot.cloud.sync import NODE, RunSync
from lanbot.core.console import say
from lanbot.core.errors import UserError


def fetch_inputs(job: Job, root: Path, store: Store, sync: RunSync) -> list[str]:
    """Fetches them into the job's folder. Returns further arguments for `lanbot run`. Raises UserError for what will
    not be there later either."""
    root.mkdir(parents=True, exist_ok=True)
    where, _, step = job.source.partition("#")
    # another launch may have ended here
    store.delete([f"{sync.prefix}{NODE}{name}" for name in ("done.json", "failed.json")])
    there = sync.pull()
    source = open_store(where) if where else store
    missing = sorted(set(job.data.values()) - store.names().keys()) if job.data else []
    if missing:
        raise UserError(f"{store.url}: it has no {missing[0]}", "Put it there, and launch the job again.")
    for local, name in job.data.items():
        _fetch(store, name, root / local)
    if not job.source:
        return []
    names = sorted(filter(safe, source.names()))
    for name in names:
        if "/" not in name and name.endswith(".jsonl"):
            _fetch(source, name, root / name)
    if there:  # its recipe.toml says what it began from
        return []
    step = step or BEFORE.get(job.phases.partition("+")[0], "")
    if not step:
        raise UserError(f"source = {job.source!r}: which of its models?", f"Write it after a #: {job.source}#mid")
    if where.startswith("hf:"):
        return [f"--model.init_from={where}#{step}"]  # LanBot fetches what it needs of it
    for name in wanted(names, step):
        _fetch(source, name, root / "source" / name)
    return [f"--model.init_from={root / 'source'}#{step}"]


def _fetch(store: Store, name: str, local: Path) -> None:
    if not local.is_file():
        say(f"fetching {name} from {store.url}")
        store.pull(name, local)
