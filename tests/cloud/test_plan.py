"""What a plan says of recipes, GPUs and prices."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lanbot.chat.formats import DEFAULT, get_format
from lanbot.cli import main
from lanbot.cloud import averages
from lanbot.cloud.gpus import KINDS, REFERENCE, GPUs, kind_of
from lanbot.cloud.plan import PhasePlan, Plan, cost, plan
from lanbot.cloud.show import advice
from lanbot.config.recipe import MixturePart, Recipe
from lanbot.config.recipe_file import load
from lanbot.core.console import dollars, hours
from lanbot.core.errors import UsageError
from lanbot.core.options import Options
from lanbot.models.config import ModelConfig
from lanbot.tasks.registry import make_task
from lanbot.tokenizers.bpe import BPETokenizer

EIGHT = GPUs("H100", 8)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LANBOT_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("LANBOT_MIRROR", raising=False)
    return tmp_path


def planned(recipe: Recipe | str = "d20", phases: str = "all", gpus: GPUs = EIGHT, price: float = 24.0) -> Plan:
    return plan(load(recipe) if isinstance(recipe, str) else recipe, Options.from_environment(), phases, gpus, price)


def phase(made: Plan, name: str) -> PhasePlan:
    return next(one for one in made.phases if one.name == name)


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    return int(stopped.value.code or 0)


# -- the reference -----------------------------------------------------------------------------------------


def test_base_of_d20_comes_out_as_the_reference_at_its_utilisation() -> None:
    """4 hours and $100 on eight H100s at $24 an hour."""
    base = phase(planned(phases="base"), "base")
    assert 0.75 * 4 < base.reference_seconds / 3_600 < 1.25 * 4
    assert 75 < base.json()["reference"]["dollars"] < 125


def test_the_utilisation_of_the_reference_follows_from_its_steps_and_hours() -> None:
    tokens_per_second = 21_400 * 524_288 / (4 * 3_600)
    assert REFERENCE.utilisation == pytest.approx(tokens_per_second * 3.18e9 / (8 * 989e12), rel=0.01)


def test_only_matrix_products_differ_between_the_two_columns() -> None:
    made = planned()
    rl, tokenizer, base = (phase(made, name) for name in ("rl", "tokenizer", "base"))
    assert tokenizer.reference_seconds == tokenizer.seconds.expected
    assert rl.reference_seconds == pytest.approx(rl.seconds.expected, rel=0.02)
    assert base.reference_seconds > 1.2 * base.seconds.expected


# -- time and cost -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_figure_is_within_its_range_on_every_kind_of_gpu(kind: str) -> None:
    made = planned(gpus=GPUs(kind, 8), price=10)
    for one in [made, *made.phases]:
        for low, expected, high in (one.seconds.values, one.dollars.values):
            assert 0 < low < expected < high
        assert one.dollars.expected == pytest.approx(one.seconds.expected * 10 / 3_600)
    assert cost(made) == pytest.approx(sum(one.dollars.expected for one in made.phases))


def test_faster_gpus_shorten_base_and_twice_as_many_halve_its_products() -> None:
    h100, b200, sixteen = (
        phase(planned(phases="base", gpus=gpus), "base") for gpus in (EIGHT, GPUs("B200", 8), GPUs("H100", 16))
    )
    assert b200.seconds.expected < 0.7 * h100.seconds.expected
    ratio = sixteen.parts["matrix products"].expected / h100.parts["matrix products"].expected
    assert 0.5 <= ratio < 0.55


def test_what_sets_the_time() -> None:
    causes = {one.name: one.set_by for one in planned().phases}
    assert (causes["tokenizer"], causes["base"], causes["rl"]) == ("one core", "matrix products", "rollouts")
    mid = phase(planned(phases="mid", gpus=GPUs("B200", 8)), "mid")
    assert mid.set_by == "data" and "each rank runs its own" in "".join(advice(planned(gpus=GPUs("B200", 8))))
    long = load("d20", {"evals.max_tokens": "2_000", "evals.limit": "100_000"})
    sft = phase(planned(long, "sft"), "sft")
    assert sft.set_by == "evaluation"


def test_the_search_for_contamination_is_counted_once_and_not_after_prepare(place: Path) -> None:
    first, second = planned(phases="mid+sft").phases
    assert first.parts["one core"].expected > 60 and not second.parts["one core"]
    (place / "runs" / "d20").mkdir(parents=True)
    (place / "runs" / "d20" / "contamination.json").write_text("{}")
    assert not planned(phases="mid+sft").phases[0].parts["one core"]


def test_rollouts_that_cost_less_on_fewer_gpus_are_pointed_out(place: Path) -> None:
    (place / "runs" / "d20").mkdir(parents=True)
    (place / "runs" / "d20" / "contamination.json").write_text("{}")
    rl = phase(planned(phases="rl"), "rl")
    assert rl.cheaper is not None
    count, seconds, dollars = rl.cheaper
    alone = planned(phases="rl", gpus=GPUs("H100", count), price=3.0 * count).phases[0]
    assert seconds == alone.seconds.expected and dollars == alone.dollars.expected < rl.dollars.expected / 2
    assert any(f"On {count}xH100" in line for line in advice(planned(phases="rl")))


def test_more_rollouts_take_longer_as_do_longer_answers() -> None:
    usual, larger, longer = (
        phase(planned(load("d20", change), "rl"), "rl").parts["rollouts"].expected
        for change in ({}, {"rl.steps": "934"}, {"rl.max_tokens": "512"})
    )
    assert larger == pytest.approx(2 * usual) and longer > 1.9 * usual


def test_what_settings_of_rl_add() -> None:
    """Refilled groups, measurements on the way, programs that are run, the reference of the KL term."""
    changes: list[dict[str, str]] = [{}, {"rl.refill": "2"}, {"rl.pass_every": "100"}, {"rl.kl": "0.1"}]
    recipes = [load("d20", change) for change in changes]
    recipes.append(replace(recipes[0], rl=replace(recipes[0].rl, mixture=(MixturePart("programs"),))))
    usual, refilled, measured, kl, programs = (phase(planned(recipe, "rl"), "rl") for recipe in recipes)
    rounds = refilled.parts["rollouts"].expected / usual.parts["rollouts"].expected
    assert 2 < rounds <= 3 and refilled.parts["matrix products"] == usual.parts["matrix products"]
    assert refilled.memory == usual.memory and refilled.micro_batch == usual.micro_batch
    more = [one.parts["evaluation"].expected for one in (usual, measured)]  # at 100, 200, 300, 400
    assert more[1] > 1.5 * more[0] and measured.parts["rollouts"] == usual.parts["rollouts"]
    assert kl.memory - usual.memory == 2 * ModelConfig.of_recipe(load("d20")).params()
    assert not usual.parts["grading"] and programs.parts["grading"].expected > 60
    agent = phase(planned(phases="agent_rl"), "agent_rl")
    assert agent.parts["grading"].expected == pytest.approx(0.3 * programs.parts["grading"].expected)


# -- memory and shapes -------------------------------------------------------------------------------------


def test_memory_and_micro_batch_are_those_of_the_chosen_gpu() -> None:
    large, small = (phase(planned(phases="base", gpus=GPUs(kind, 8)), "base") for kind in ("H100", "RTX4090"))
    assert large.micro_batch == 16 and large.memory < 0.9 * 80e9
    assert 1 <= small.micro_batch < 16 and small.memory < 0.9 * 24e9 and small.fits
    given = load("d20", {"base.micro_batch": "2"})
    assert phase(planned(given, "base"), "base").micro_batch == 2


def test_a_model_that_does_not_fit_is_pointed_out() -> None:
    made = planned(load("d20", {"model.depth": "40"}), "base", GPUs("RTX4090", 1))
    assert not phase(made, "base").fits
    assert any("larger GPUs" in line for line in advice(made)) and "does not fit" in made.table()


def test_a_batch_that_the_gpus_cannot_share_is_pointed_out() -> None:
    assert any(
        "32 rows a batch cannot be shared by 6 GPUs" in line for line in advice(planned("d20", "sft", GPUs("H100", 6)))
    )


# -- data --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["smoke", "demo", "laptop", "d20"])
def test_every_shipped_recipe_can_be_planned_without_its_data(name: str) -> None:
    made = planned(name)
    assert not any("not known" in note for note in made.notes)
    assert all(one.work.tokens > 0 for one in made.phases if one.name != "tokenizer")


@pytest.mark.parametrize("spec", ["simple_spelling:builtin", "spelling_bee:builtin", "identity", "word_problems"])
def test_the_table_of_averages_has_the_rows_that_tasks_have(spec: str) -> None:
    assert averages.TASKS[spec].rows == len(make_task(spec, "train"))
    assert averages.TASKS[spec].test_rows == len(make_task(spec, "test"))


def test_mixtures_are_counted_where_tokenizer_and_data_are_at_hand(place: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "hi" * 100}, {"role": "assistant", "content": "ho"}]}] * 50
    (place / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "r.toml").write_text(
        "name = 'r'\nphases = ['sft']\n[sft]\nmixture = [{ task = 'jsonl:chats.jsonl' }]\nbatch_tokens = 512\n"
    )
    recipe, options = load("r.toml"), Options.from_environment(mirror=place)
    blind = plan(recipe, options, "all", EIGHT, 24.0)
    assert any("jsonl:chats.jsonl: its size is not known" in note for note in blind.notes)
    kind = get_format(DEFAULT)
    kind(BPETokenizer.of_bytes(kind.special_tokens)).save(place / "runs" / "r" / "tokenizer")
    counted = plan(recipe, options, "all", EIGHT, 24.0)
    assert counted.phases[0].work.chats == 50 * (200 + 2 + 5) and not counted.notes


# -- the command -------------------------------------------------------------------------------------------


def test_the_tables_fit_80_columns_and_120() -> None:
    for columns in (80, 120):
        lines = planned().table(columns).splitlines()
        assert 70 < max(map(len, lines)) <= columns
        assert all(line == line.rstrip() for line in lines)
    assert "2 h 31 min to 4 h" in planned().table() and "4 h 11 min" in planned().table()


def test_the_docs_show_what_is_printed() -> None:
    docs = (Path(__file__).parents[2] / "docs/cloud.md").read_text(encoding="utf-8")
    made = planned()
    tables = made.table().partition("\n31%:")[0].rstrip()
    assert f"```\n{tables}\n```" in docs
    assert f"about ${made.dollars.expected:.0f}, see below" in docs
    for one in made.phases:
        assert f"{hours(one.reference_seconds)}, {dollars(one.json()['reference']['dollars'])} |" in docs, one.name


def test_plan_without_gpus_is_for_a_rented_node(capsys: pytest.CaptureFixture[str]) -> None:
    for given in ((), ("--gpus", "cpu")):
        assert call("plan", "d20", "--phase", "mid+sft", *given) == 0
        out, err = capsys.readouterr()
        assert "d20 on 8xH100 (H100 SXM) at $24.00 an hour" in out and "planned for 8xH100" in err


def test_plan_of_agent_rl(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("plan", "d20", "--phase", "agent_rl", "--gpus", "8xH100", "--json") == 0
    once = json.loads(capsys.readouterr().out)["phases"]
    assert [(one["name"], one["steps"], one["set_by"]) for one in once] == [("agent_rl", 467, "one core")]
    more = ("--agent_rl.ppo_epochs", "3", "--agent_rl.kl", "0.1")
    assert call("plan", "d20", "--phase", "agent_rl", "--gpus", "8xH100", "--json", *more) == 0
    flops = json.loads(capsys.readouterr().out)["phases"][0]["flops"]
    assert flops == pytest.approx(13 / 3 * once[0]["flops"]), "three updates and four forward passes"


def test_plan_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("plan", "d20", "--gpus", "8xB200", "--price", "33.6", "--json", "--rl.steps", "10") == 0
    out = json.loads(capsys.readouterr().out)
    assert (out["gpus"], out["price"], out["utilisation"]["source"][:7]) == ("8xB200", 33.6, "assumed")
    assert [one["name"] for one in out["phases"]] == ["tokenizer", "base", "mid", "sft", "rl", "agent_rl"]
    for one in out["phases"]:
        assert one["seconds"]["low"] < one["seconds"]["expected"] < one["seconds"]["high"]
    assert out["dollars"]["expected"] == pytest.approx(out["seconds"]["expected"] * 33.6 / 3_600, abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--gpus", "8xH1000"), "--gpus 8xH1000: no such GPUs. Did you mean H100?"),
        (("--gpus", "0xH100"), "no such GPUs"),
        (("--gpus", ""), "no such GPUs"),
        (("--gpus", "L40S"), "1xL40S: no price is known"),
        (("--price", "-1"), "out of range"),
        (("--price", "nan"), "out of range"),
        (("--phase", "agent"), "no phase 'agent'"),
    ],
)
def test_wrong_usage_is_two_lines(capsys: pytest.CaptureFixture[str], arguments: tuple[str, str], problem: str) -> None:
    assert call("plan", "d20", *arguments) == 2
    assert problem in capsys.readouterr().err


def test_clouds_and_drivers_names_of_gpus() -> None:
    names = {
        "H100": "H100", "H100_sxm5": "H100", "NVIDIA H100 80GB HBM3": "H100", "H100_PCIe": "H100-PCIE",
        "NVIDIA H100 PCIe": "H100-PCIE", "H200_sxm": "H200", "NVIDIA H200": "H200", "B200": "B200", "A100_80G": "A100",
        "NVIDIA A100-SXM4-80GB": "A100", "L40S": "L40S", "NVIDIA GeForce RTX 4090": "RTX4090", "RTX4090": "RTX4090",
        "T4": None, "A100_40G": None, "MI300X": None,
    }  # fmt: skip
    assert {name: kind_of(name) for name in names} == names
    assert str(GPUs.parse("2 x h100")) == "2xH100" and GPUs.parse("B200") == GPUs("B200", 1)
    with pytest.raises(UsageError):
        GPUs.parse("many")


def test_a_saved_plan_leaves_a_run_that_can_be_trained(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("plan", "smoke", "--save", "--phase", "sft", "--price", "24") == 0
    saved = json.loads((place / "runs" / "smoke" / "plan.json").read_text())
    assert [one["name"] for one in saved["phases"]] == ["sft"]
    assert load(place / "runs" / "smoke" / "recipe.toml") == load("smoke")
    assert call("plan", "smoke", "--save") == 0
    assert len(json.loads((place / "runs" / "smoke" / "plan.json").read_text())["phases"]) == 5
    capsys.readouterr()
    assert call("report", "smoke") == 0
    assert "Planned by lanbot plan for 8xH100 at $24.00 an hour." in capsys.readouterr().out
