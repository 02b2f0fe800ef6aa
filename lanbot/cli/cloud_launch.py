"""What `lanbot cloud launch` prepares before it rents: phases, job and store, offer, plan and cap."""

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lanbot import __version__
from lanbot.cli.shared import make_options
from lanbot.core.errors import UsageError, UserError

if TYPE_CHECKING:
    from lanbot.cloud.offers import Wanted
    from lanbot.cloud.prepared import Prepared
    from lanbot.cloud.providers.base import Offer, Provider
    from lanbot.cloud.records import Record
    from lanbot.cloud.secrets import Secrets
    from lanbot.config.recipe import Recipe
    from lanbot.phases.phase import Phase

REACHED = ("hf", "hf-bucket", "s3")
"""Kinds of stores and sources that a rented machine can use."""
PHASES = ("tokenizer", "base", "mid", "sft", "rl", "agent_rl")


def check_nodes(number: int, provider: str) -> None:
    if number < 1:
        raise UsageError(f"--num-nodes {number}: at least one machine is needed", "Leave it out for one.")
    if number > 1 and provider != "sky":
        remedy = "Leave it out: a launch at Shadeform is one machine, and for ssh each machine is named by a --host."
        raise UsageError(f"--num-nodes {number}: only --provider sky has it", remedy)


def check_phases(phase: str, recipe: "Recipe") -> None:
    names = recipe.phase_names
    for name in [] if phase == "all" else phase.split("+"):
        if name not in PHASES and name not in names:
            problem = f"--phase {phase}: no phase {name!r}"
            raise UsageError(problem, f"Phases: {', '.join(PHASES)}, all; join them by + (sft+rl).")
        if name not in names:
            raise UsageError(f"--phase {phase}: {recipe.name} has no {name}", f"Its phases: {', '.join(names)}.")


def ranked_offers(provider: "Provider", wanted: "Wanted", recipe: "Recipe", phase: str) -> "list[tuple[Offer, float]]":
    from lanbot.cloud.offers import KINDS, planned_hours, rank

    options = make_options()
    found = rank(provider.offers(), wanted, lambda offer: planned_hours(recipe, options, phase, offer))
    if not found:
        what = f"{wanted.count or 'any number of'} {wanted.gpu or ', '.join(KINDS)}"
        how = "spot" if wanted.spot else "on demand"
        remedy = "Try --all-configs, another --gpu or --region, or --spot; or wait."
        raise UserError(f"no offer of {what} {how} that fits", remedy)
    return found


def choose_offer(
    provider: "Provider", wanted: "Wanted", recipe: "Recipe", phase: str, price: float | None, example: bool
) -> "Offer":
    """The best offer. Where there is none to ask for (ssh, sky, a dry run without a key), one made from the flags."""
    from lanbot.cloud.providers.base import Offer

    if provider.market and not example:
        return ranked_offers(provider, wanted, recipe, phase)[0][0]
    if provider.name == "sky" and price is None:
        remedy = "SkyPilot has no spend limit: with --price (dollars an hour) the run is ended by time."
        raise UsageError("--provider sky: no price", remedy)
    count = wanted.count or 8
    dollars = price if price is not None else 3.0 * count if provider.market else 0.0
    cloud, region, type = wanted.cloud, wanted.region, wanted.type
    if provider.market:
        cloud, region, type = cloud or "CLOUD", region or "REGION", type or "INSTANCE_TYPE"
        print("Without SHADEFORM_API_KEY there are no offers to choose from: an example, at about $3 a GPU and hour.")
    gpu = wanted.gpu.upper() or "H100"
    return Offer(provider.name, cloud, region, type, gpu, count, dollars, spot=wanted.spot)


def make_job(
    recipe: "Recipe", phase: str, secrets: "Secrets", store: str, source: str, package: str, dry_run: bool
) -> dict[str, Any]:
    from lanbot.config.recipe_file import dump

    store = store or secrets.get("LANBOT_STORE")
    if not store:
        remedy = "Add --store hf:OWNER/NAME, or LANBOT_STORE to .env: checkpoints are pushed there as they are made."
        if not dry_run:
            raise UsageError("no store for the results", remedy)
        print(f"A launch needs a store for its results, here hf:OWNER/NAME as an example. {remedy}")
        store = "hf:OWNER/NAME"
    source = source or secrets.get("LANBOT_SOURCE")
    package = package or secrets.get("LANBOT_PACKAGE") or ("lanbot" if dry_run else installed_package())
    job = {"run": recipe.name, "recipe": dump(recipe), "phases": phase, "store": store, "source": source}
    return job | {"package": package}


def find_prepared(recipe: "Recipe", job: dict[str, Any], dry_run: bool) -> "Prepared":
    """What the run has ready on this machine; a dry run says what would be sent. Raises UserError."""
    from lanbot.cloud import prepared

    found = prepared.find(recipe, job, make_options())
    if dry_run and found.names:
        print(f"A launch sends what {job['store']} lacks of {found.run.folder}: {', '.join(found.names)}.")
    return found


def check_start(recipe: "Recipe", job: dict[str, Any], ready: "Prepared", dry_run: bool) -> None:
    """Raises UsageError if a phase would find no model to start from. A dry run says so without asking the store."""
    from lanbot.cloud import storage
    from lanbot.phases import pipeline

    if job["source"] or recipe.model.init_from:
        return
    phases = pipeline.choose(recipe, job["phases"])
    made = {phase.name for phase in phases} | set(ready.names)
    starts = {phase.name: _starts(recipe, phase) for phase in phases if "model" in phase.needs}
    missing = {name: befores for name, befores in starts.items() if not made & set(befores)}
    there = storage.phases_done(job["store"], recipe.name) if missing and not dry_run else set()
    for name, befores in missing.items():
        if there & set(befores):
            continue
        what = f"{name} starts from {' or '.join(befores)}, which must be done in {job['store']} (runs/{recipe.name})"
        if dry_run:
            print(f"{what}, or come from --source: a launch makes sure of it.")
            continue
        remedy = "Name a model to start from, --source hf:OWNER/NAME#PHASE, or add the phases before it: --phase all."
        raise UsageError(f"--phase {job['phases']}: {what} and is not", remedy)


def _starts(recipe: "Recipe", phase: "Phase") -> list[str]:
    """The phases of whose models a phase takes the first that is done."""
    from lanbot.phases.phase import model_before

    before = model_before(recipe, phase.name)
    return [before, model_before(recipe, before)] if before in phase.may_skip else [before]


def check_store(store: str, secrets: "Secrets", dry_run: bool) -> None:
    """Raises UsageError for a store that a rented machine cannot write."""
    kind = store.partition(":")[0]
    if kind not in REACHED:
        remedy = "Add --store hf:OWNER/NAME, hf-bucket:OWNER/NAME or s3://BUCKET."
        raise UsageError(f"--store {store}: a rented machine cannot reach it, and what it has is deleted", remedy)
    needed = "AWS_ACCESS_KEY_ID" if kind == "s3" else "HF_TOKEN"
    if not (dry_run or secrets.get(needed)):
        raise UsageError(f"--store {store}: the machine could not write there", f"Set {needed} in .env.")


def check_source(recipe: "Recipe", job: dict[str, Any], ready: "Prepared", secrets: "Secrets", dry_run: bool) -> None:
    """Raises UsageError for a model to begin from that is not there, or that a rented machine cannot read. What is
    ready here is sent."""
    begins = "" if ready.names else recipe.model.init_from
    what, source = ("--source", job["source"]) if job["source"] else ("model.init_from", begins)
    where, _, step = source.partition("#")
    kind = where.partition(":")[0]
    if where and kind not in REACHED:
        remedy = f"Upload it (hf upload OWNER/NAME {where}), and launch with --source hf:OWNER/NAME#{step or 'PHASE'}."
        raise UsageError(f"{what} {source}: a rented machine cannot read what is on this one", remedy)
    if kind == "s3" and not (dry_run or secrets.get("AWS_ACCESS_KEY_ID")):
        raise UsageError(f"{what} {source}: the machine could not read it", "Set AWS_ACCESS_KEY_ID in .env.")
    if job["source"] and not dry_run:
        _check_model(job, where, step)


def _check_model(job: dict[str, Any], where: str, step: str) -> None:
    """Raises UsageError if --source lacks the model: the machine would find out at its price an hour."""
    from lanbot.cloud import source, storage

    given = f"--source {job['source']}"
    names = storage.listed(where or job["store"])
    if f"runs/{job['run']}/recipe.toml" in (names if not where else storage.listed(job["store"])):
        return  # a machine goes on with the run
    step = step or source.BEFORE.get(job["phases"].partition("+")[0], "")
    if not step:
        raise UsageError(f"{given}: which of its models?", f"Write it after a #: {job['source']}#mid")
    if not names:
        raise UsageError(f"{given}: nothing can be read there", "Check its name, and that the token may read it.")
    models = [name for name in source.wanted(names, step) if re.search(r"/model(_\d+\.pt|\.safetensors)$", name)]
    if (found := source.models(names)) and not models:
        raise UsageError(f"{given}: no model of {step} there", f"It has {', '.join(found)}.")


def find_data(recipe: "Recipe", job: dict[str, Any], dry_run: bool) -> dict[str, str]:
    """The files of this machine that a rented one needs: their names in the store. Raises UsageError for one that is
    neither here nor there."""
    from lanbot.cloud import data, storage
    from lanbot.phases import pipeline

    paths = data.named(recipe, [phase.name for phase in pipeline.choose(recipe, job["phases"])])
    here = data.stored(paths, job["run"])
    if dry_run and here:
        print(f"A launch sends {', '.join(here)} to {job['store']}.")
    missing = [path for path in paths if path not in here]
    if dry_run or not missing:
        return here
    kept = {path: f"data/{job['run']}/{path}" for path in missing}
    there = storage.listed(job["store"])
    where = job["source"].partition("#")[0]
    beside = (storage.listed(where) if where else there) if job["source"] else []
    for path in missing:
        if kept[path] in there:
            here[path] = kept[path]
        elif "/" in path or path not in beside:
            remedy = "Start in the folder that has it, or put it beside the checkpoints of --source."
            raise UsageError(f"jsonl:{path}: no such file here, and none at --source", remedy)
    return here


def installed_package() -> str:
    """What pip installs on the machine: this checkout's commit from its origin, or the installed version.

    Raises UsageError for a checkout without one: the machine could not install what is only here.
    """
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return f"lanbot=={__version__}"

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True).stdout.strip()

    url, commit = git("remote", "get-url", "origin"), git("rev-parse", "HEAD")
    if not url.startswith(("https://", "ssh://", "git@")) or not git("branch", "-r", "--contains", commit):
        remedy = "Push it, or add --package with what pip is to install (or LANBOT_PACKAGE to .env)."
        raise UsageError(f"{root}: this version of LanBot is on no server from which a machine can install it", remedy)
    # by https and without a user: the machine has no key, and a token in the address would be stored with the job
    place = url.partition("://")[2] if "://" in url else url.replace(":", "/", 1)
    host, _, path = place.partition("/")
    return f"lanbot @ git+https://{host.rpartition('@')[2]}/{path}@{commit}"


def make_record(
    recipe: "Recipe", job: dict[str, Any], wanted: "Wanted", offer: "Offer", limit: float | None, machines: int
) -> "Record":
    """Shows plan, price and cap. Raises UserError if the plan exceeds the cap."""
    from lanbot.cloud.offers import default_budget, describe, same_kind
    from lanbot.cloud.records import Record

    phases = job["phases"]
    plan = _plan(recipe, phases, offer, machines)
    dollars = plan["dollars"]["expected"] if plan else 0.0
    budget = default_budget(dollars, offer.dollars_per_hour) if limit is None else limit
    if budget < dollars:
        remedy = "Raise --spend-limit, or ask for fewer phases."
        raise UserError(f"--spend-limit {budget:g}: the plan expects ${dollars:.2f}", remedy)
    many = f"{machines} machines of " if machines > 1 else ""
    print(f"{recipe.name}: {phases} on {many}{describe(offer)}, capped at ${budget:.2f}")
    return Record(recipe.name, offer.provider, phases, job, budget, same_kind(wanted, offer), plan)


def _plan(recipe: "Recipe", phase: str, offer: "Offer", machines: int) -> dict[str, Any]:
    """Shows the plan, and returns it as JSON; {} for GPUs that it does not know."""
    from lanbot.cloud.gpus import GPUs
    from lanbot.cloud.plan import plan

    try:
        gpus = GPUs.parse(f"{offer.count * machines}x{offer.gpu}")
    except UserError as error:
        print(f"No plan: {error.problem}")
        return {}
    made = plan(recipe, make_options(), phase, gpus, offer.dollars_per_hour)
    print(made.table())
    return made.json()
