"""lanbot export: what it writes, what transformers makes of it, and what it refuses."""

import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_stand_in import serve

from lanbot.chat.formats import get_format
from lanbot.cli import main
from lanbot.cloud.hub_stores import HubStore
from lanbot.config.recipe import ModelSettings, Recipe
from lanbot.config.run import Run
from lanbot.core.options import Options
from lanbot.export import folder
from lanbot.export.ollama import around, template
from lanbot.export.source import Source
from lanbot.models.gguf_write import write_gguf
from lanbot.models.licences import LICENCES
from lanbot.models.weights import load_model, to_hf_names
from lanbot.phases import imported
from lanbot.phases.origins import open_origin
from lanbot.tokenizers.bpe import BPETokenizer

pytest.importorskip("gguf")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """As they were, afterwards."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def lanbot(*arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["export", *arguments])
    assert not ended.value.code


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code, and what was said in two lines at most."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["export", *arguments])
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) <= 2
    return int(stopped.value.code or 0), said


def names(path: Path) -> list[str]:
    return sorted(one.name for one in path.iterdir())


# -- A Hugging Face folder ---------------------------------------------------------------------------------


def test_transformers_opens_the_folder_and_answers_alike(run: Run) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    lanbot("bot", "--type", "f32")
    out = run.folder / "export" / "hf"
    tokenizer, model = AutoTokenizer.from_pretrained(out), AutoModelForCausalLM.from_pretrained(out)
    source = Source.of_run(run, "sft")
    messages: list[Any] = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Who are  you?\n"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ids == source.chat_format.prompt(messages)
    ours = load_model(source.folder, torch.float32, CPU)
    with torch.no_grad():
        expected = ours.logits(ours(torch.tensor([ids])))
        assert torch.allclose(model(torch.tensor([ids])).logits, expected, atol=1e-4)
    settings = GenerationConfig.from_pretrained(out)
    assert set(settings.eos_token_id) == source.chat_format.stop_tokens
    assert settings.eos_token_id[0] == source.chat_format.end_of_turn
    assert not settings.do_sample


@pytest.mark.parametrize(("kind", "dtype"), [("f16", torch.float16), ("bf16", torch.bfloat16)])
def test_the_weights_are_of_the_type_asked_for(run: Run, kind: str, dtype: torch.dtype) -> None:
    from transformers import AutoModelForCausalLM

    lanbot("bot", "--type", kind)
    model = AutoModelForCausalLM.from_pretrained(run.folder / "export" / "hf", dtype="auto")
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}


def test_large_weights_are_written_in_shards(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr(folder, "SHARD", 200_000)
    lanbot("bot", "--type", "f32")
    out = run.folder / "export" / "hf"
    shards = [name for name in names(out) if name.endswith(".safetensors")]
    assert len(shards) > 3
    assert all(f"-of-{len(shards):05d}" in name for name in shards)
    model = AutoModelForCausalLM.from_pretrained(out)
    ours = load_model(Source.of_run(run, "sft").folder, torch.float32, CPU)
    assert torch.equal(model.lm_head.weight, ours.lm_head.weight)
    assert torch.equal(model.model.layers[1].mlp.up_proj.weight, ours.layers[1].mlp.up_proj.weight)  # type: ignore[union-attr]


def test_the_card_says_what_it_was_trained_on_and_how_good_it_is(run: Run) -> None:
    lanbot("bot")
    card = (run.folder / "export" / "hf" / "README.md").read_text()
    assert card.startswith("---\n")
    assert "Robi, a chat model by Ada" in card
    assert "| builtin:world " in card
    assert "identity (1,000 rows)" in card
    assert "0.750 ± 0.100 (20)" in card
    assert "from scratch" in card


def test_the_card_stops_at_the_phase_that_is_exported(run: Run) -> None:
    lanbot("bot", "--phase", "base")
    card = (run.folder / "export" / "hf" / "README.md").read_text()
    assert "after its phase base" in card
    assert "| sft" not in card


def test_an_export_replaces_the_one_before(run: Run) -> None:
    lanbot("bot", "--to", "gguf", "--type", "f16")
    lanbot("bot", "--to", "gguf", "--type", "q8_0")
    assert names(run.folder / "export" / "gguf") == ["README.md", "bot-q8_0.gguf"]
    assert names(run.folder / "export") == ["gguf"]


# -- Ollama ------------------------------------------------------------------------------------------------


def test_the_modelfile_has_template_stops_and_settings(run: Run) -> None:
    lanbot("bot", "--to", "ollama")
    out = run.folder / "export" / "ollama"
    assert names(out) == ["Modelfile", "README.md", "bot-bf16.gguf"]
    lines = (out / "Modelfile").read_text().splitlines()
    assert "FROM ./bot-bf16.gguf" in lines
    assert [line for line in lines if line.startswith("PARAMETER stop")] == [
        f'PARAMETER stop "{name}"' for name in ("<|assistant_end|>", "<|bos|>", "<|user_start|>", "<|python_end|>")
    ]
    assert {"PARAMETER temperature 0", "PARAMETER repeat_penalty 1", "PARAMETER num_ctx 256"} <= set(lines)


def in_go(written: str, messages: list[dict[str, str]]) -> str:
    """What Go's text/template makes of the one form that templates have here."""
    has_system = messages[0]["role"] == "system"
    unless = re.compile(r"\{\{ if not .System \}\}(.*?)\{\{ end \}\}", re.DOTALL)
    written = unless.sub(lambda found: "" if has_system else found[1], written)
    before, _, rest = written.partition("{{ range .Messages }}{{ ")
    cases, _, after = rest.partition("{{ end }}{{ end }}")
    texts = dict(case.split('" }}', 1) for case in cases.removeprefix('if eq .Role "').split('{{ else if eq .Role "'))
    said = [texts[message["role"]].replace("{{ .Content }}", message["content"]) for message in messages]
    return before + "".join(said) + after


@pytest.mark.parametrize("name", ["lanbot", "chatml", "qwen2.5", "qwen3", "smollm2", "llama3"])
@pytest.mark.parametrize("default", [None, "You are Robi, made by Ada."])
def test_the_template_writes_the_prompt_of_each_format(name: str, default: str | None) -> None:
    kind = get_format(name)
    chat = kind(BPETokenizer.of_bytes(kind.special_tokens))
    chat = chat if default is None else chat.with_default(default)
    messages: list[Any] = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "Sure?"},
    ]
    written, prompt = template(chat, begins=False), chat.tokenizer.decode(chat.prompt(messages))
    assert in_go(written, messages) == prompt
    assert in_go(template(chat, begins=True), messages) == prompt.removeprefix(chat.bos_token)
    alone, system = messages[-1:], around(chat).system
    set_by_ollama = [{"role": "system", "content": system}, *alone] if system else alone
    assert in_go(written, set_by_ollama) == chat.tokenizer.decode(chat.prompt(alone))
    assert default is None or not kind.family_system or system == default


# -- Licences ----------------------------------------------------------------------------------------------


def of_open_weights(run: Run, **facts: str) -> None:
    """Makes the run one that began from somebody's weights."""
    (run.phase("base") / "evals.json").unlink()
    note = {"note": "imported", "checkpoint": "step_000300", "open_weights": {"revision": "", **facts}}
    (run.phase("base") / "imported.json").write_text(json.dumps(note))
    (run.folder / "origin").mkdir()
    (run.folder / "origin" / "LICENSE.txt").write_text("The whole agreement.\n")


def test_a_llama_is_named_and_noted_as_its_licence_asks(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    of_open_weights(run, source="hf:meta-llama/Llama-3.2-1B", licence="llama3.2")
    lanbot("bot", "--to", "ollama")
    out = run.folder / "export" / "ollama"
    assert names(out) == ["LICENSE.txt", "Llama-bot-bf16.gguf", "Modelfile", "NOTICE", "README.md"]
    assert "Llama 3.2 Community License" in (out / "NOTICE").read_text()
    card, modelfile = (out / "README.md").read_text(), (out / "Modelfile").read_text()
    assert "base_model: meta-llama/Llama-3.2-1B\n" in card and "license: llama3.2\n" in card
    assert "# Llama-bot" in card
    assert "**Built with Llama**" in card
    assert "Built with Llama" in modelfile
    assert "Llama 3.2 Community License" in modelfile
    code, said = refused(capsys, "bot", "--push", "hf:me/bot")
    assert code == 1
    assert "hf:me/Llama-bot" in said
    assert not (run.folder / "export" / "hf").exists()


def test_another_licence_is_passed_on_as_it_was_stated(run: Run) -> None:
    of_open_weights(run, source="hf:Qwen/Qwen2.5-3B", licence="qwen-research")
    lanbot("bot")
    card = (run.folder / "export" / "hf" / "README.md").read_text()
    assert "license: other\nlicense_name: qwen-research\nlicense_link: https://" in card
    assert "**Built with Qwen**" in card
    assert "Qwen RESEARCH LICENSE AGREEMENT" in (run.folder / "export" / "hf" / "NOTICE").read_text()


def test_a_licence_that_nobody_stated_is_not_made_up(run: Run) -> None:
    of_open_weights(run, source="/models/found", licence="")
    lanbot("bot")
    card = (run.folder / "export" / "hf" / "README.md").read_text()
    assert "license:" not in card
    assert "whose licence is not stated" in card


# -- What is refused ---------------------------------------------------------------------------------------


def test_a_models_folder_needs_a_place(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(Source.of_run(run, "sft").folder)
    assert refused(capsys, model)[0] == 2
    lanbot(model, "--to", "gguf", "--out", str(tmp_path / "out"))
    assert names(tmp_path / "out") == ["README.md", "step_000020-bf16.gguf"]
    code, said = refused(capsys, model, "--out", str(tmp_path / "out"))
    assert code == 1
    assert "something is there already" in said


def test_a_damaged_checkpoint_is_not_exported(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    weights = Source.of_run(run, "sft").folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    code, said = refused(capsys, "bot", "--to", "gguf")
    assert code == 1
    assert "is damaged: model.safetensors has" in said
    assert not (run.folder / "export").exists()


def test_a_folder_has_no_blocks_of_8_bits(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = refused(capsys, "bot", "--type", "q8_0")
    assert code == 1
    assert "--to gguf" in said


def test_a_nanochat_model_is_exported_as_a_folder_only(  # type: ignore[no-untyped-def]
    run: Run, make_model, demo_format, capsys: pytest.CaptureFixture[str]
) -> None:
    from lanbot.distributed.runtime import Runtime
    from lanbot.training import checkpoint

    model = make_model(family="nanochat", vocab_size=1_024)
    shutil.rmtree(run.phase("sft") / "step_000020")
    checkpoint.save_model_alone(run.phase("sft"), 20, model, demo_format, Runtime.single(CPU))
    code, said = refused(capsys, "bot", "--to", "ollama")
    assert code == 1
    assert "does not run the family nanochat" in said
    assert "--to hf" in said
    assert names(run.folder / "export") == []
    lanbot("bot")


def test_a_full_disk_leaves_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "save_file", full)
    code, said = refused(capsys, "bot")
    assert code == 1
    assert "the disk is full" in said
    assert os.listdir(run.folder / "export") == []


# -- The hub -----------------------------------------------------------------------------------------------


@pytest.fixture
def hub(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The files of hf:me/bot."""
    return serve(request, monkeypatch)


@pytest.mark.parametrize("to", ["hf", "gguf"])
def test_what_is_pushed_is_there_and_can_be_pulled(
    run: Run, hub: dict[str, bytes], to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    lanbot("bot", "--to", to, "--type", "f32", "--push", "hf:me/bot")
    out = run.folder / "export" / to
    assert hub == {path.name: path.read_bytes() for path in out.iterdir()}
    monkeypatch.setenv("HF_ENDPOINT", constants.ENDPOINT)
    options = replace(Options.from_environment(), mirror=None, offline=False, cache=tmp_path / "cache")
    origin = open_origin("hf:me/bot", options)
    step = origin.choose("sft")
    assert origin.config(step) == Source.of_run(run, "sft").config
    pulled = to_hf_names(origin.model(step))
    ours = to_hf_names(load_model(Source.of_run(run, "sft").folder, torch.float32, CPU))
    assert all(torch.equal(pulled[name], weight) for name, weight in ours.items())


def test_a_push_that_arrives_changed_is_no_success(
    run: Run, hub: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = HubStore._put

    def changed(store: HubStore, files: Any) -> None:
        stored(store, files)
        hub["model.safetensors"] = hub["model.safetensors"][::-1]

    monkeypatch.setattr(HubStore, "_put", changed)
    code, said = last_said(capsys, "bot", "--push", "hf:me/bot")
    assert code == 1
    assert "model.safetensors has another digest" in said


def test_a_token_that_may_not_write_is_explained(
    run: Run, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(request, monkeypatch, read_only=True)
    code, said = last_said(capsys, "bot", "--push", "hf:me/bot")
    assert code == 1
    assert "hf auth login" in said


def last_said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code, and the last two lines."""
    with pytest.raises(SystemExit) as stopped:
        main(["export", *arguments])
    return int(stopped.value.code or 0), "\n".join(capsys.readouterr().err.strip().splitlines()[-2:])


# -- Where a run began -------------------------------------------------------------------------------------


def begun(name: str, source: str, options: Options) -> Run:
    recipe = imported.adopted(replace(Recipe(name=name), model=ModelSettings(init_from=source)), options).resolve()
    return Run(imported.make(recipe, options), recipe, options)


def test_a_licence_goes_with_the_weights_from_run_to_run(run: Run, tmp_path: Path) -> None:
    model = tmp_path / "qwen"
    shutil.copytree(Source.of_run(run, "sft").folder, model)
    (model / "README.md").write_text("---\nlicense: other\nlicense_name: qwen-research\n---\n# Qwen\n")
    (model / "LICENSE").write_text("The whole agreement.\n")
    first = begun("first", f"{model}#sft", run.options)
    shutil.rmtree(model)
    second = begun("second", "first#sft", run.options)
    for made in (first, second):
        source = Source.of_run(made, "sft")
        assert source.open_weights == {"source": str(model), "revision": "", "licence": "qwen-research"}
        assert source.licence is not None and source.licence.built_with == "Built with Qwen"
        assert [path.read_text() for path in source.papers] == ["The whole agreement.\n"]


def test_a_card_tells_no_paths_of_the_machine(run: Run, tmp_path: Path) -> None:
    write_gguf(Source.of_run(run, "sft").folder, tmp_path / "tiny.gguf", "q8_0", "bot")
    begun("mine", f"{tmp_path / 'tiny.gguf'}#sft", run.options)
    lanbot("mine")
    card = (run.options.runs / "mine" / "export" / "hf" / "README.md").read_text()
    assert str(tmp_path) not in card
    assert "| up to sft | begun from tiny.gguf |" in card


def test_a_gguf_file_brings_its_licence(run: Run, tmp_path: Path) -> None:
    notes = {"general.license": "apache-2.0"}
    write_gguf(Source.of_run(run, "sft").folder, tmp_path / "bot.gguf", "q8_0", "bot", notes)
    made = begun("mine", f"{tmp_path / 'bot.gguf'}#sft", run.options)
    assert Source.of_run(made, "sft").licence == LICENCES["apache-2.0"]
    assert made.note("sft") == f"imported from {tmp_path / 'bot.gguf'}, sft/0"


def test_what_was_trained_from_nothing_has_nobodys_licence(run: Run) -> None:
    made = begun("second", "bot#sft", run.options)
    assert Source.of_run(made, "sft").open_weights == {}
