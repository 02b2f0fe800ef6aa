"""lanbot cloud: rent GPUs for a run, watch it, give them back."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from lanbot.cli import cloud_fetch
from lanbot.cli.cloud_launch import (
    check_nodes,
    check_phases,
    check_source,
    check_start,
    check_store,
    choose_offer,
    find_data,
    find_prepared,
    make_job,
    make_record,
    ranked_offers,
)
from lanbot.cli.shared import load_recipe, make_options
from lanbot.core.errors import UsageError, UserError

if TYPE_CHECKING:
    from lanbot.cloud.launch import Cloud, Said
    from lanbot.cloud.offers import Wanted
    from lanbot.cloud.providers.base import Provider
    from lanbot.cloud.records import Record
    from lanbot.cloud.secrets import Secrets

app = App(
    name="cloud",
    help="Rent GPUs for a run, watch it, give them back.",
    default_parameter=Parameter(negative=""),
)

app.command(cloud_fetch.fetch)

Unknown = Annotated[str, Parameter(allow_leading_hyphen=True, show=False)]


@Parameter(name="*")
@dataclass(frozen=True)
class Choice:
    """Which offers are wanted."""

    gpu: str = ""
    """The kind of GPU; if left out, the cheapest for the phases among H100, H200 and B200."""
    num_gpus: int = 8
    all_configs: bool = False
    """Any number of GPUs, not only --num-gpus."""
    cloud: str = ""
    region: str = ""
    instance_type: str = ""
    spot: bool = False
    """Spot machines instead of those on demand: they may be reclaimed; `lanbot cloud watch --recover` replaces one."""

    def wanted(self) -> "Wanted":
        from lanbot.cloud.offers import Wanted

        count = None if self.all_configs else self.num_gpus
        return Wanted(self.gpu, count, self.cloud, self.region, self.instance_type, self.spot)


ANY = Choice()


@app.command
def offers(*, recipe: str = "d20", phase: str = "sft", choice: Choice = ANY) -> None:
    """List what can be rented now, with what the phases will cost on it, the cheapest run first.

    Args:
        recipe: A recipe's file, or the name of a shipped one.
        phase: all, or phases joined by +.
    """
    from lanbot.core.console import table

    loaded = load_recipe(recipe)
    check_phases(phase, loaded)
    ranked = ranked_offers(_provider("shadeform", _secrets()), choice.wanted(), loaded, phase)
    rows = [
        (f"{o.count}x{o.gpu}", o.cloud, o.region, o.type, f"{o.dollars_per_hour:.2f}", f"{dollars:.2f}", "yes" * o.spot)
        for o, dollars in ranked
    ]
    print(table(rows, ("gpus", "cloud", "region", "type", "$/h", f"planned $, {phase}", "spot"), left=4))


@app.command
def launch(
    *unknown: Unknown,
    provider: str = "shadeform",
    recipe: str = "d20",
    phase: str = "sft",
    run_name: str = "",
    choice: Choice = ANY,
    spend_limit: float | None = None,
    host: tuple[str, ...] = (),
    num_nodes: int = 1,
    store: str = "",
    source: str = "",
    package: str = "",
    price: float | None = None,
    ssh_key: str = "",
    dry_run: bool = False,
    yes: bool = False,
) -> None:
    """Rent a machine and run phases on it. Shows plan, price and cap, and asks once.

    Keys come from the environment or a .env file: SHADEFORM_API_KEY, HF_TOKEN, WANDB_API_KEY.

    Args:
        provider: shadeform, ssh (--host) or sky (SkyPilot).
        recipe: A recipe's file, or the name of a shipped one.
        phase: tokenizer, base, mid, sft, rl, agent_rl, joined by +, or all.
        run_name: The run's name; the recipe's if left out.
        spend_limit: Dollars over all machines of this launch; if left out, twice what is planned and an hour.
        host: For ssh: user@host; several times for several machines.
        num_nodes: For sky: machines of --num-gpus each that train together, in one shared folder.
        store: Where results go and inputs come from: hf:OWNER/NAME, s3://BUCKET, a folder (or LANBOT_STORE).
        source: The model to begin from, unless the store has the run (or LANBOT_SOURCE).
        package: What pip installs on the machine (or LANBOT_PACKAGE).
        price: Dollars an hour for all machines together, where the provider does not say.
        ssh_key: For Shadeform: the id of an SSH key.
        dry_run: Rent nothing: show the plan and the request. Needs neither keys nor a store.
        yes: Do not ask for confirmation.
    """
    if unknown:
        raise UsageError(f"{unknown[0]}: no such flag", f"Flags: {' '.join(_flags())}.")
    if (provider == "ssh") != bool(host):
        raise UsageError("--host and --provider ssh go together", "Add --host user@host, once for each machine.")
    check_nodes(num_nodes, provider)
    loaded = load_recipe(recipe, ("--name", run_name) if run_name else ())
    check_phases(phase, loaded)
    secrets = _secrets()
    job = make_job(loaded, phase, secrets, store, source, package, dry_run)
    if provider != "ssh":
        check_store(job["store"], secrets, dry_run)
    ready = find_prepared(loaded, job, dry_run)
    if provider != "ssh":
        check_source(loaded, job, ready, secrets, dry_run)
        job["data"] = find_data(loaded, job, dry_run)
    check_start(loaded, job, ready, dry_run)
    cloud = _cloud_of(provider, secrets, host)
    example = dry_run and not secrets.get("SHADEFORM_API_KEY")
    offer = choose_offer(cloud.provider, choice.wanted(), loaded, phase, price, example)
    record = make_record(loaded, job, choice.wanted(), offer, spend_limit, len(host) or num_nodes)
    record.hosts, record.ssh_key_id, record.num_nodes = list(host), ssh_key, num_nodes
    if dry_run:
        print(secrets.redact(cloud.preview(record, offer)))
    elif _agreed(yes):
        run, node = loaded.name, cloud.launch(record, offer, ready.send)
        print(f"Launched {node.name}. Watch it: lanbot cloud watch {run}. End it: lanbot cloud down {run}.")


@app.command
def status(
    run: str = "",
    *,
    watch: Annotated[list[float] | None, Parameter(consume_multiple=True, negative="")] = None,
) -> None:
    """Show the launched runs: state, phase, step, time, and what was spent.

    Args:
        run: One run; all that have a machine if left out.
        watch: Show it again every 30 seconds, or as many as are given.
    """
    from time import sleep

    while True:
        print(_status(run))
        if watch is None:
            return
        sleep(max(1.0, watch[0] if watch else 30.0))
        print()


@app.command
def watch(run: str, *, recover: bool = False) -> None:
    """Wait for the end of a run, then delete its machine. Exit code 1 if the run failed or its machine is lost.

    Args:
        run: The run's name.
        recover: Replace a lost machine; it goes on from the newest checkpoint, within the launch's spend limit.
    """
    from lanbot.cloud.watch import Watch

    with _Line(run) as line:
        record = Watch(_cloud(run), run, recover, line.show).wait()
    print(f"{run}: ended, ${record.spent:.2f} of ${record.budget:.2f} spent; results in {record.job['store']}")


@app.command
def down(run: str = "", *, id: str = "") -> None:
    """Delete the machine of a run, wait until it is gone, and show what it cost.

    Args:
        run: The run's name.
        id: Instead of a run: the id of a machine that `lanbot cloud ls --orphans` shows.
    """
    if bool(run) == bool(id):
        raise UsageError("a run or an --id is needed", "lanbot cloud down RUN, or lanbot cloud down --id ID.")
    if id:
        from lanbot.cloud.launch import delete_orphan

        spent = delete_orphan(_provider("shadeform", _secrets()), id)
        print(f"{id}: gone" + (f", ${spent:.2f} spent" if spent else ""))
        return
    with _Line(run) as line:
        record = _cloud(run).down(run, line.show)
    print(f"{run}: no machine left, ${record.spent:.2f} spent")


@app.command(name="ls")
def list_machines(*, orphans: bool = False, provider: str = "shadeform") -> None:
    """List the launches of this runs folder, and the machines of the account that LanBot rented.

    Args:
        orphans: Only machines that no launch of this runs folder knows: they cost money. Exit code 1 if there are any.
    """
    from lanbot.cloud import records
    from lanbot.core.console import table

    cloud = _cloud("", provider)
    found = cloud.orphans()
    rows = [
        (i.name, i.id, i.detail or i.status, f"{i.dollars_per_hour:.2f}", f"{i.spent:.2f}") for i in found
    ]  # fmt: skip
    if not orphans:
        for record in records.load_all(cloud.folder):
            node = record.nodes[-1] if record.nodes else None
            if node:
                price = f"{node.offer.dollars_per_hour:.2f}"
                rows.append((node.name, node.id, node.state, price, f"{record.spent:.2f}"))
    none = "No machine without a launch." if orphans else "No launches, and no machines."
    print(table(rows, ("machine", "id", "state", "$/h", "spent $"), left=3) if rows else none)
    if orphans and found:
        raise UserError(f"{len(found)} machines that no launch here knows", "Delete each: lanbot cloud down --id ID.")


@app.command
def logs(run: str, *, follow: bool = False) -> None:
    """Show the log of a run's machine.

    Args:
        run: The run's name.
        follow: Show what comes, until Ctrl-C.
    """
    _call(run, lambda provider, instance: provider.logs(instance, follow))


@app.command
def ssh(run: str) -> None:
    """Open a shell on a run's machine.

    Args:
        run: The run's name.
    """
    _call(run, lambda provider, instance: provider.ssh(instance))


def _call(run: str, command: Any) -> None:
    cloud = _cloud(run)
    from lanbot.cloud import records

    with records.updating(cloud.folder, run) as record:
        there = cloud.refresh(record)
    if not there:
        raise UserError(f"{run}: it has no machine now", f"Its logs are in the store: {record.job.get('store')}.")
    sys.stdout.flush()
    code = subprocess.call(command(cloud.provider, there[0]))
    if code:
        raise UserError(f"{there[0].name}: the command ended with {code}", "See its message above.")


def _secrets() -> "Secrets":
    """Also makes the tokens of a .env file known to the clients of the stores."""
    from lanbot.cloud.secrets import Secrets

    secrets = Secrets.read()
    for name, value in secrets.for_node("hf:", "s3:").items():
        os.environ.setdefault(name, value)
    return secrets


def _provider(name: str, secrets: "Secrets", hosts: Sequence[str] = ()) -> "Provider":
    from lanbot.cloud.providers import open_provider

    return open_provider(name, secrets.get("SHADEFORM_API_KEY"), hosts, _folder())


def _cloud(run: str, provider: str = "shadeform") -> "Cloud":
    """At the provider of the run's launch. Raises UserError if there was none."""
    from lanbot.cloud import records

    hosts: list[str] = []
    if run:
        record = records.load(_folder(), run)
        if record is None:
            raise UserError(f"{run}: never launched from here", f"Launches are kept in {_folder()}: lanbot cloud ls.")
        provider, hosts = record.provider, record.hosts
    return _cloud_of(provider, _secrets(), hosts)


def _cloud_of(provider: str, secrets: "Secrets", hosts: Sequence[str]) -> "Cloud":
    from lanbot.cloud.launch import Cloud

    return Cloud(_folder(), _provider(provider, secrets, hosts), secrets)


def _folder() -> Path:
    return make_options().runs / ".cloud"


def _flags() -> list[str]:
    """The flags of `launch`."""
    names = [name for argument in app["launch"].assemble_argument_collection() for name in argument.names]
    return [name for name in names if name.startswith("--")]


def _agreed(yes: bool) -> bool:
    if yes:
        return True
    if not sys.stdin.isatty():
        raise UserError("nothing rented without confirmation", "Add --yes.")
    return input("Rent it? [y/N] ").strip().lower() == "y"


def _status(run: str) -> str:
    from lanbot.cloud import records, storage
    from lanbot.core.console import table

    folder = _folder()
    chosen = [run] if run else [record.run for record in records.load_all(folder) if record.live]
    rows, warnings = [], []
    for name in chosen:
        cloud = _cloud(name)
        with records.updating(folder, name) as record:
            there = cloud.refresh(record)
        if there[1:]:
            warnings.append(
                f"{name}: {len(there)} machines instead of one: lanbot cloud watch {name} deletes the other."
            )
        try:
            said = cloud.said(record)
            warnings.append(storage.warning(record, said))
        except UserError as error:
            said = {"status.json": {"phase": error.problem[:40]}}
        rows.append(_row(record, said))
    none = "No run has a machine. Launches: lanbot cloud ls."
    if not rows:
        return none
    shown = table(rows, ("run", "state", "phase", "step", "time", "spent of cap"), left=3)
    return "\n".join([shown, *filter(None, warnings)])


def _row(record: "Record", said: "Said") -> tuple[str, ...]:
    from datetime import datetime

    from lanbot.cloud import records
    from lanbot.core.console import duration

    node = record.node
    state = next((file.removesuffix(".json") for file in ("done.json", "failed.json") if file in said), "")
    state = f"{state}, {node.state}" if state and not node.gone else state or node.state
    if node.detail and node.detail != node.state:
        state += f" ({node.detail})"
    at = said.get("status.json", {})
    step = f"{at['step']:,}" if at.get("step") else ""
    step += f" ({at['progress']:.0%})" if at.get("progress") else ""
    taken = (records.now() - datetime.fromisoformat(record.started)).total_seconds() if record.started else 0
    spent = f"${record.spent:.2f} of ${record.budget:.2f}"
    return (record.run, state, str(at.get("phase") or record.phases), step, duration(taken), spent)


class _Line:
    """One line that is rewritten while a run is watched."""

    def __init__(self, run: str) -> None:
        from lanbot.core.console import Progress

        self.progress = Progress(run)

    def __enter__(self) -> "_Line":
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.close()

    def show(self, record: "Record", said: "Said") -> None:
        self.progress.text(" | ".join(filter(None, _row(record, said))))
