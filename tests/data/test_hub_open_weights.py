"""Runs that begin from open weights: on disk and on the hub, what the recipe keeps of them, what is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hub_server import Hub, answer

from lanbot.chat.formats import load_format
from lanbot.chat.formats.base import ChatFormat
from lanbot.config import recipe_file
from lanbot.config.recipe import ModelSettings, Recipe, RopeScaling
from lanbot.config.run import Run
from lanbot.core.errors import UserError
from lanbot.core.options import Options
from lanbot.distributed.runtime import Runtime
from lanbot.models.config import ModelConfig
from lanbot.models.transformer import Transformer
from lanbot.models.weights import load_model, save_model
from lanbot.phases import imported
from lanbot.phases.chat import start_from

MakeModel = Callable[..., Transformer]
NAME = "maker/Open-1B"
SCALING = RopeScaling(32.0, 1.0, 4.0, 32)
LLAMA = {"family": "llama", "context": 131_072, "rope_theta": 77_000.0, "norm_eps": 1e-5, "rope_scaling": SCALING}


def published(folder: Path, model: Transformer, chat_format: ChatFormat, shard_size: str = "30KB") -> Path:
    """A folder as a maker publishes it, written by transformers, in bf16 and in several files."""
    from transformers import AutoModelForCausalLM

    save_model(model, folder / "ours")
    theirs = AutoModelForCausalLM.from_pretrained(folder / "ours").to(torch.bfloat16)
    theirs.save_pretrained(folder / "published", max_shard_size=shard_size)
    chat_format.save(folder / "published")
    return folder / "published"


@pytest.fixture
def model(make_model: MakeModel, chat_format: ChatFormat) -> Transformer:
    return make_model(vocab_size=chat_format.tokenizer.vocab_size + 64, **LLAMA)


@pytest.fixture
def folder(model: Transformer, chat_format: ChatFormat, tmp_path: Path) -> Path:
    return published(tmp_path, model, chat_format)


@pytest.fixture
def options(tmp_path: Path) -> Options:
    return replace(Options.from_environment(), runs=tmp_path / "runs", mirror=None)


def begin(source: object, options: Options, name: str = "mine", **settings: Any) -> Run:
    recipe = replace(Recipe(name=name), model=ModelSettings(init_from=str(source), **settings))
    recipe = imported.adopted(recipe, options).resolve()
    return Run(imported.make(recipe, options), recipe, options)


def refused(call: Callable[[], object], options: Options, *words: str) -> UserError:
    with pytest.raises(UserError) as caught:
        call()
    assert str(caught.value).count("\n") == 1, "a problem and a remedy"
    assert all(word in caught.value.problem for word in words), caught.value.problem
    assert not options.runs.exists() or not list(options.runs.iterdir()), "nothing is half-written"
    return caught.value


def rounded(model: Transformer) -> dict[str, torch.Tensor]:
    return {name: value.bfloat16().float() for name, value in model.state_dict().items()}


def test_the_run_has_the_published_weights_and_opens_in_transformers(
    folder: Path, model: Transformer, options: Options
) -> None:
    from transformers import AutoModelForCausalLM

    run = begin(f"{folder}#sft", options)
    step = run.phase("sft") / "step_000000"
    ours = load_model(step, torch.float32, torch.device("cpu"))
    assert ours.config == model.config
    assert all(torch.equal(value, rounded(model)[name]) for name, value in ours.state_dict().items())
    theirs, again = (AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for path in (folder, step))
    assert theirs.config.rope_parameters == again.config.rope_parameters
    ids = torch.randint(400, (2, 60), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(theirs(ids).logits, again(ids).logits)


def test_the_recipe_records_the_shape(folder: Path, model: Transformer, options: Options) -> None:
    run = begin(folder, options, context=64)
    stored = recipe_file.load(run.folder / "recipe.toml")
    assert stored == run.recipe
    assert ModelConfig.of_recipe(stored) == replace(model.config, context=64)
    assert (stored.model.rope_scaling, stored.model.norm_eps, stored.model.family) == (SCALING, 1e-5, "llama")


def test_the_recipes_context_wins_and_the_model_keeps_its_own(folder: Path, options: Options) -> None:
    """131,072 tokens a row would fit no machine."""
    own, left_out = begin(folder, options, "own", context=64), begin(folder, options, "left_out")
    assert (own.recipe.model.context, own.recipe.sft.sequence, own.recipe.rl.max_tokens > 0) == (64, 64, True)
    assert (left_out.recipe.model.context, left_out.recipe.sft.sequence) == (2_048, 2_048)
    for run in (own, left_out):
        config = json.loads((run.phase("base") / "step_000000" / "config.json").read_text())
        assert config["max_position_embeddings"] == 131_072
        trainer = start_from(run, "mid", Runtime.single(torch.device("cpu")))
        assert trainer.sequence == run.recipe.model.context
    again = imported.adopted(replace(Recipe(name="own"), model=ModelSettings(context=128)), options)
    assert again.model == replace(own.recipe.model, context=128), "a later phase may read longer conversations"
    longer = imported.adopted(replace(Recipe(name="own"), model=ModelSettings(context=500_000)), options)
    assert longer.model.context == 131_072, "but no longer ones than the model can"


def test_a_hub_repository_is_fetched_with_its_tokenizer_and_no_more(
    hub: Hub, folder: Path, model: Transformer, options: Options
) -> None:
    hub.models[NAME] = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.models[NAME] |= {"pytorch_model.bin": b"pickle", "original/consolidated.00.pth": b"pickle", "README.md": b"#"}
    hub.models[NAME] |= {"chat_template.jinja": b"{{ 1 }}", "model.gguf": b"GGUF"}
    run = begin(f"hf:{NAME}", options)
    again = load_model(run.phase("base") / "step_000000", torch.float32, torch.device("cpu"))
    assert all(torch.equal(value, rounded(model)[name]) for name, value in again.state_dict().items())
    assert load_format(run.phase("tokenizer")).tokenizer.vocab_size == model.config.vocab_size - 64
    assert run.read("base", "imported.json")["revision"] == hub.commit(NAME)
    parts = [name for name in hub.models[NAME] if name.endswith(".safetensors")]
    assert len(parts) > 2
    for name in (*parts, "model.safetensors.index.json", "chat_template.jinja", "tokenizer_config.json"):
        assert len(hub.contents(name)) == 1, name
    for name in ("pytorch_model.bin", "consolidated.00.pth", "model.gguf"):
        assert not hub.contents(name), name


def test_one_that_cannot_run_is_refused_before_its_weights_are_fetched(
    hub: Hub, folder: Path, options: Options
) -> None:
    hub.models[NAME] = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.models[NAME]["config.json"] = b'{"model_type": "mllama"}'
    refused(lambda: begin(f"hf:{NAME}", options), options, "mllama", "pictures")
    assert not any(hub.contents(name) for name in hub.models[NAME] if name.endswith(".safetensors"))


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_one_says_to_accept_the_licence_and_to_set_a_token(
    status: int, hub: Hub, folder: Path, options: Options
) -> None:
    """The hub lists a gated repository's files for everyone and refuses their contents."""
    hub.models[NAME] = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.faults["resolve"] = [answer(status, X_Error_Code="GatedRepo", X_Error_Message="Access is restricted")] * 9
    error = refused(lambda: begin(f"hf:{NAME}", options), options, "gated", "licence must be accepted")
    assert f"{hub.url}/{NAME}" in error.remedy and "HF_TOKEN" in error.remedy


def test_a_file_that_the_index_names_and_the_hub_lacks(hub: Hub, folder: Path, options: Options) -> None:
    hub.models[NAME] = {path.name: path.read_bytes() for path in folder.iterdir()}
    part = next(name for name in hub.models[NAME] if "-00002-of-" in name)
    del hub.models[NAME][part]
    refused(lambda: begin(f"hf:{NAME}", options), options, part)


def test_pickles_on_the_hub_are_not_fetched(hub: Hub, folder: Path, options: Options) -> None:
    hub.models[NAME] = {path.name: path.read_bytes() for path in folder.iterdir() if "safetensors" not in path.name}
    hub.models[NAME]["pytorch_model.bin"] = b"pickle"
    refused(lambda: begin(f"hf:{NAME}", options), options, f"hf:{NAME}", "pytorch_model.bin", "pickle")
    assert not hub.contents("pytorch_model.bin")


def test_a_tokenizer_with_more_ids_than_the_model_has_rows(
    make_model: MakeModel, chat_format: ChatFormat, tmp_path: Path, options: Options
) -> None:
    known = chat_format.tokenizer.vocab_size
    folder = published(tmp_path, make_model(vocab_size=known - 1), chat_format)
    refused(lambda: begin(folder, options), options, f"{known - 1} tokens, its tokenizer {known}")


def test_a_tokenizer_with_far_fewer_ids(
    make_model: MakeModel, chat_format: ChatFormat, tmp_path: Path, options: Options
) -> None:
    folder = published(tmp_path, make_model(vocab_size=3 * chat_format.tokenizer.vocab_size), chat_format)
    refused(lambda: begin(folder, options), options, "tokens, its tokenizer")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "a missing file": (lambda folder: sorted(folder.glob("model-*"))[1].unlink(), "model-00002-of-"),
    "a cut file": (lambda folder: cut(sorted(folder.glob("model-*"))[1]), "damaged"),
    "no index": (lambda folder: (folder / "model.safetensors.index.json").unlink(), "not there"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json"),
    "a cut tokenizer": (lambda folder: cut(folder / "tokenizer.json"), "tokenizer.json"),
    "a cut config": (lambda folder: cut(folder / "config.json"), "config.json"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_broken_folder_leaves_nothing_behind(case: str, folder: Path, options: Options) -> None:
    spoil, word = SPOILT[case]
    spoil(folder)
    refused(lambda: begin(folder, options), options, word)


def test_a_full_disk_in_the_cache(hub: Hub, folder: Path, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.models[NAME] = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100))
    refused(lambda: begin(f"hf:{NAME}", options), options, "no room")


def gguf_of(folder: Path, tmp_path: Path, kind: str) -> bytes:
    from lanbot.models.gguf_write import write_gguf

    write_gguf(folder, tmp_path / f"{kind}.gguf", kind, "m")
    return (tmp_path / f"{kind}.gguf").read_bytes()


def test_one_gguf_file_of_a_repository_is_chosen_by_its_name(
    hub: Hub, make_model: MakeModel, chat_format: ChatFormat, tmp_path: Path, options: Options
) -> None:
    model = make_model(vocab_size=chat_format.tokenizer.vocab_size)
    save_model(model, tmp_path / "m")
    chat_format.save(tmp_path / "m")
    files = {f"quantised/{kind}.gguf": gguf_of(tmp_path / "m", tmp_path, kind) for kind in ("f32", "f16")}
    hub.models[NAME] = {**files, "README.md": b"---\nlicense: mit\n---\n"}
    error = refused(lambda: begin(f"hf:{NAME}", options), options, "several GGUF files", "quantised/f16.gguf")
    assert "hf:OWNER/NAME/FILE.gguf" in str(error.remedy)
    error = refused(lambda: begin(f"hf:{NAME}/other.gguf", options), options, "the hub has no other.gguf")
    run = begin(f"hf:{NAME}/quantised/f32.gguf", options)
    again = load_model(run.phase("base") / "step_000000", torch.float32, torch.device("cpu"))
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())
    assert run.read("base", "imported.json")["revision"] == hub.commit(NAME)
    assert not [one for one in hub.asked if "resolve" in one.path and "f16" in one.path], "the other stays there"


def test_a_hub_that_does_not_answer_is_asked_once(
    make_model: MakeModel, chat_format: ChatFormat, tmp_path: Path, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lanbot.phases import origins

    save_model(make_model(vocab_size=chat_format.tokenizer.vocab_size), tmp_path / "m")
    chat_format.save(tmp_path / "m")
    gguf_of(tmp_path / "m", tmp_path, "f32")
    asked = []

    def no_answer(name: str, _: Options) -> None:
        asked.append(name)
        raise UserError(f"{name}: no connection to the hub", "Check the network.")

    monkeypatch.setattr(origins, "HubFiles", no_answer)
    monkeypatch.setattr(origins.smollm2, "smollm2", lambda _: tmp_path / "f32.gguf")
    run = begin(f"hf:{origins.smollm2.MODEL}", options)
    assert asked == [origins.smollm2.MODEL] and run.checkpoint("base")
