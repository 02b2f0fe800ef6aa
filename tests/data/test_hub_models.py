"""Importing a model from the hub: what is downloaded, and what the hub refuses."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hub_server import Hub, answer

from lanbot.config.recipe import ModelSettings, Recipe
from lanbot.config.run import Run
from lanbot.core.errors import UserError
from lanbot.core.options import Options
from lanbot.data import hub as hub_data
from lanbot.phases import imported
from lanbot.phases.origins import open_origin

NAME = "some/bot"


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def server(hub: Hub, tree: Path) -> Hub:
    optimizer = {f"mid_checkpoints/d2/optim_000007_rank{rank}.pt": b"large" for rank in range(8)}
    hub.models[NAME] = files_of(tree) | optimizer | {"logs/log.txt": b"x", "README.md": b"# A bot"}
    return hub


@pytest.fixture
def options(server: Hub, tmp_path: Path) -> Options:
    return replace(Options.from_environment(), runs=tmp_path / "runs")


def begin(source: str, options: Options, name: str = "mine") -> Run:
    recipe = imported.adopted(replace(Recipe(name=name), model=ModelSettings(init_from=source)), options).resolve()
    return Run(imported.make(recipe, options), recipe, options)


def refused(call: Callable[[], object], *words: str) -> UserError:
    with pytest.raises(UserError) as caught:
        call()
    assert str(caught.value).count("\n") == 1, "a problem and a remedy"
    assert "data set" not in str(caught.value) and "datasets" not in str(caught.value)
    assert all(word in caught.value.problem for word in words), caught.value.problem
    return caught.value


def test_only_what_is_needed_is_downloaded(server: Hub, options: Options, tree: Path) -> None:
    run = begin(f"hf:{NAME}#mid", options)
    assert run.last_model() == "mid"
    commit = server.commit(NAME)
    assert run.note("base") == f"imported from hf:{NAME}@{commit[:12]}, mid/d2/7"
    assert run.read("mid", "imported.json")["revision"] == commit
    assert len(server.contents("model_000007.pt")) == len(server.contents("tokenizer.pkl")) == 1
    assert not server.contents("log.txt") and not server.contents("optim_000007_rank0.pt")
    local = begin(f"{tree}#mid", options, "local")
    name = "mid/step_000007/model.safetensors"
    assert (run.folder / name).read_bytes() == (local.folder / name).read_bytes()


def test_a_revision_may_be_named(server: Hub, options: Options) -> None:
    commit = server.commit(NAME)
    run = begin(f"hf:{NAME}@{commit}#mid/7", options)
    assert run.note("mid") == f"imported from hf:{NAME}@{commit}, mid/d2/7"
    refused(lambda: begin(f"hf:{NAME}@v9#mid", options, "other"), "no such revision")


def test_what_it_holds_is_said_without_the_weights(server: Hub, options: Options) -> None:
    origin = open_origin(f"hf:{NAME}", options)
    (step,) = origin.steps
    assert (str(step), origin.config(step).n_layers, origin.details(step)) == ("mid/d2/7", 2, {"val_bpb": 0.45})
    assert not server.contents("model_000007.pt")


def test_a_run_on_the_hub(server: Hub, options: Options) -> None:
    first = begin(f"hf:{NAME}#mid", options)
    server.models["some/run"] = files_of(first.folder)
    second = begin("hf:some/run#mid", options, "second")
    name = "mid/step_000007/model.safetensors"
    assert (second.folder / name).read_bytes() == (first.folder / name).read_bytes()


def test_a_models_folder_on_the_hub(server: Hub, options: Options) -> None:
    first = begin(f"hf:{NAME}#mid", options)
    server.models["some/model"] = files_of(first.phase("mid") / "step_000007")
    assert begin("hf:some/model#sft", options, "second").last_model() == "sft"


def test_a_data_set_of_the_same_name_is_another_repository(server: Hub, options: Options) -> None:
    server.sets["some/set"] = {"README.md": b"# A set"}
    refused(lambda: begin("hf:some/set#mid", options), "no such model")
    hub_data.listing("some/set", options)
    assert hub_data.folder_of("some/set", options) != hub_data.folder_of("some/set", options, "models")


def test_a_private_one_without_a_token(server: Hub, options: Options) -> None:
    error = refused(lambda: begin("hf:some/secret#mid", options), "some/secret: no such model on the hub", "private")
    assert "hf auth login, or HF_TOKEN" in error.remedy
    assert not options.runs.exists()


def test_a_token_is_sent(server: Hub, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_some_token")
    begin(f"hf:{NAME}#mid", options)
    tokens = {asked.token for asked in server.asked if asked.server == "hub"}
    assert tokens == {"Bearer hf_some_token"}
    assert not any(asked.token for asked in server.asked if asked.server == "storage")


def test_a_token_that_is_not_accepted(server: Hub, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_old_token")
    server.faults["api"] = [answer(401, X_Error_Message="Invalid credentials in Authorization header")]
    error = refused(lambda: begin(f"hf:{NAME}#mid", options), "does not accept your token")
    assert "hf_old_token" not in str(error)


def test_a_gated_one_says_where_to_accept_its_terms(server: Hub, options: Options) -> None:
    gated = answer(403, X_Error_Code="GatedRepo", X_Error_Message="Access is restricted")
    server.faults["resolve"] = [gated] * 9
    error = refused(lambda: begin(f"hf:{NAME}#mid", options), "gated")
    assert f"{server.url}/{NAME}," in error.remedy and "hf auth login" in error.remedy
    server.faults["api"] = [gated]
    error = refused(lambda: begin(f"hf:{NAME}@main#mid", options), "gated")
    assert f"{server.url}/{NAME}," in error.remedy
    assert not options.runs.exists()


@pytest.mark.parametrize("name", ["bot", "some/bot/more", "../bot", ""])
def test_what_is_no_name_on_the_hub(name: str, server: Hub, options: Options) -> None:
    error = refused(lambda: begin(f"hf:{name}#mid", options), "not the name of a hub model")
    assert "OWNER/NAME" in error.remedy


def test_a_file_that_is_missing_there(server: Hub, options: Options) -> None:
    del server.models[NAME]["tokenizer/tokenizer.pkl"]
    error = refused(lambda: begin(f"hf:{NAME}#mid", options), "tokenizer/tokenizer.pkl")
    assert "mid_checkpoints/" in error.remedy
    assert not options.runs.exists()


def test_one_that_is_no_model(server: Hub, options: Options) -> None:
    server.models["some/text"] = {"README.md": b"# Text"}
    refused(lambda: begin("hf:some/text#mid", options), "neither")


def test_offline_it_is_in_the_cache_or_refused(server: Hub, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    offline = replace(options, offline=True)
    refused(lambda: begin(f"hf:{NAME}#mid", offline), "not in the cache")
    begin(f"hf:{NAME}#mid", options, "first")
    asked = len(server.asked)
    assert begin(f"hf:{NAME}#mid", offline, "second").last_model() == "mid"
    assert len(server.asked) == asked


def test_a_mirror_answers_for_the_hub(server: Hub, options: Options, tree: Path, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    (mirror / "some").mkdir(parents=True)
    (mirror / NAME).symlink_to(tree)
    mirrored = replace(options, mirror=mirror)
    assert begin(f"hf:{NAME}#mid", mirrored).last_model() == "mid"
    refused(lambda: begin("hf:some/other#mid", mirrored, "second"), "the mirror has no")
    assert not server.asked
