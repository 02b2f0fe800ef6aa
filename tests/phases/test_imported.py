"""Runs that begin from a model made elsewhere: what is written, what is refused, what goes on from them."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nanochat_tree
import pytest
import torch
from safetensors import SafetensorError

from lanbot.chat.formats import get_format, load_format
from lanbot.config import recipe_file
from lanbot.config.recipe import (
    PHASES,
    ChatTraining,
    Evals,
    Identity,
    MixturePart,
    ModelSettings,
    Recipe,
    TokenizerSettings,
)
from lanbot.config.run import Run
from lanbot.core.errors import UserError
from lanbot.core.options import Options
from lanbot.distributed.runtime import Runtime
from lanbot.models import saved, weights
from lanbot.models.weights import load_model
from lanbot.phases import evaluation, imported, pipeline
from lanbot.phases.origins import Wanted, open_origin
from lanbot.phases.phase import phases_of, sources
from lanbot.tasks import contamination
from lanbot.tokenizers.bpe import BPETokenizer

Make = Callable[..., Run]


@pytest.fixture
def options(tmp_path: Path) -> Options:
    return replace(Options.from_environment(), runs=tmp_path / "runs", mirror=None)


@pytest.fixture
def make(options: Options) -> Make:
    """make(source, name, as_phase, **fields of the recipe): a run that begins there."""

    def made(source: str | Path, name: str = "mine", as_phase: str = "", **more: Any) -> Run:
        recipe = replace(Recipe(name=name, **more), model=ModelSettings(init_from=str(source)))
        resolved = imported.adopted(recipe, options).resolve()
        return Run(imported.make(resolved, options, as_phase), resolved, options)

    return made


def refused(call: Callable[[], object], *words: str) -> UserError:
    with pytest.raises(UserError) as caught:
        call()
    assert str(caught.value).count("\n") == 1, "a problem and a remedy"
    assert all(word in caught.value.problem for word in words), caught.value.problem
    return caught.value


def nothing_written(options: Options) -> None:
    assert not options.runs.exists() or not list(options.runs.iterdir())


# -- what is written ---------------------------------------------------------------------------------------


def test_a_phase_of_a_tree_counts_as_done_with_those_before_it(tree: Path, make: Make, options: Options) -> None:
    run = make(f"{tree}#mid")
    assert [phase for phase in run.recipe.phase_names if run.done(phase)] == ["tokenizer", "base", "mid"]
    assert {run.note(phase) for phase in ("tokenizer", "base", "mid")} == {f"imported from {tree}, mid/d2/7"}
    assert (run.last_model(), run.checkpoint("mid")) == ("mid", "step_000007")
    assert saved.damage(run.phase("mid") / "step_000007") is None
    facts = run.read("mid", "imported.json")
    assert (facts["source"], facts["step"], facts["scores"]) == (str(tree), 7, {"val_bpb": 0.45})
    stored = recipe_file.load(run.folder / "recipe.toml")
    assert stored.model.init_from == f"{tree}#mid/d2/7"
    assert (stored.model.family, stored.model.depth, stored.model.n_kv_heads) == ("nanochat", 2, 1)
    assert (stored.tokenizer.vocab_size, stored.tokenizer.chat_format) == (446, "nanochat")
    assert [path.name for path in options.runs.iterdir()] == ["mine"]


def test_weights_and_tokenizer_are_the_trees(tree: Path, make: Make, options: Options) -> None:
    origin = open_origin(str(tree), options)
    theirs = origin.model(origin.choose("mid")).state_dict()
    run = make(f"{tree}#mid")
    folder = run.phase("mid") / "step_000007"
    ours = load_model(folder, torch.float32, torch.device("cpu")).state_dict()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items()) and ours.keys() == theirs.keys()
    for place in (folder, run.phase("tokenizer")):
        chat_format = load_format(place)
        assert (chat_format.name, chat_format.tokenizer.vocab_size) == ("nanochat", 446)


def test_the_real_one(existing_checkpoint: Path, make: Make) -> None:
    run = make(f"{existing_checkpoint}#mid/813")
    assert run.read("mid", "imported.json")["scores"] == {"val_bpb": 0.45}
    assert run.recipe.model.context == 512
    assert (run.phase("mid") / "step_000813" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("folder", "phase"),
    [
        *(("base_checkpoints/d2", "base"), ("chatsft_checkpoints/d2", "sft"), ("chatrl_checkpoints/d2", "rl")),
        ("agentrl_checkpoints/d2", "agent_rl"),
    ],
)
def test_any_phase_may_be_the_first(
    folder: str, phase: str, tokenizer: BPETokenizer, tmp_path: Path, make: Make
) -> None:
    """Metadata of rl have nothing but the shape: the step is the file's."""
    tree = nanochat_tree.write(tmp_path / "t", tokenizer, folder, step=89, meta={})
    run = make(f"{tree}#{phase}")
    assert run.last_model() == {"agent_rl": "rl"}.get(phase, phase)
    assert run.checkpoint(str(run.last_model())) == "step_000089"
    assert run.read(str(run.last_model()), "imported.json")["scores"] == {}


def test_a_phase_may_count_as_another(tree: Path, make: Make) -> None:
    assert make(f"{tree}#mid", as_phase="sft").last_model() == "sft"


def test_made_again_as_agent_rl_it_stays(tree: Path, make: Make) -> None:
    assert [make(f"{tree}#mid", as_phase="agent_rl").last_model() for _ in range(2)] == ["rl", "rl"]


def test_the_newest_step_unless_one_is_named(tokenizer: BPETokenizer, tmp_path: Path, make: Make) -> None:
    for step in (90, 813, 1_000_000):
        tree = nanochat_tree.write(tmp_path / "t", tokenizer, step=step, seed=step)
    assert make(f"{tree}#mid", "newest").checkpoint("mid") == "step_1000000"
    assert make(f"{tree}#mid/90", "named").checkpoint("mid") == "step_000090"
    assert make(f"{tree}#mid/d2/1,000,000", "tagged").checkpoint("mid") == "step_1000000"


def test_a_run_begins_from_another(tree: Path, make: Make, options: Options) -> None:
    first = make(f"{tree}#mid", "first")
    second = make("first#mid", "second")
    assert second.note("mid") == "imported from first, mid/7"
    name = "mid/step_000007/model.safetensors"
    assert (second.folder / name).read_bytes() == (first.folder / name).read_bytes()
    third = make(f"{first.folder}#mid/7", "third")
    assert (third.folder / name).read_bytes() == (first.folder / name).read_bytes()


def test_a_run_begins_from_a_models_folder(tree: Path, make: Make) -> None:
    folder = make(f"{tree}#mid", "first").phase("mid") / "step_000007"
    second = make(f"{folder}#sft", "second")
    assert second.last_model() == "sft" and second.checkpoint("sft") == "step_000000"
    assert make(str(folder), "third").last_model() == "base", "a folder says nothing of its phase"


def test_tool_tokens_and_the_bots_name_come_in_with_open_weights(make_model: Any, tmp_path: Path, make: Make) -> None:
    kind = get_format("smollm2")
    more = [f"<unused_{i}>" for i in range(60)]
    theirs = kind(BPETokenizer.of_bytes([*kind.special_tokens, *more]))
    rows = theirs.tokenizer.vocab_size
    model = make_model(seed=1, vocab_size=rows, family="llama", tie_embeddings=True)
    weights.save_model(model, tmp_path / "open")
    theirs.save(tmp_path / "open")
    who, plain = Identity("Robi", "Ada"), make(tmp_path / "open", "plain")
    assert plain.recipe.tokenizer.vocab_size == rows
    run = make(tmp_path / "open", identity=who, tokenizer=TokenizerSettings(tool_tokens=True))
    assert run.recipe.tokenizer.vocab_size == rows + 4 and run.recipe.tokenizer.chat_format == "smollm2"
    folder = saved.latest(run.phase("base"))
    assert folder is not None
    for place in (folder, run.phase("tokenizer")):
        chat_format = load_format(place)
        assert chat_format.default_system == who.system_message and chat_format.tokenizer.vocab_size == rows + 4
    imported_model = load_model(folder, torch.float32, torch.device("cpu"))
    embedding = imported_model.embed_tokens.weight
    assert embedding is imported_model.lm_head.weight and torch.equal(embedding[:rows], model.embed_tokens.weight)
    assert torch.allclose(embedding[rows:], model.embed_tokens.weight.mean(0).expand(4, -1))


@pytest.mark.parametrize("tool_tokens", [False, True])
def test_open_weights_are_fine_tuned_and_evaluated_in_their_own_format(
    make_model: Any, tmp_path: Path, make: Make, tool_tokens: bool
) -> None:
    kind = get_format("smollm2")
    theirs = kind(BPETokenizer.of_bytes([*kind.special_tokens, *(f"<unused_{i}>" for i in range(60))]))
    model = make_model(seed=1, vocab_size=theirs.tokenizer.vocab_size, family="llama", context=1_024)
    weights.save_model(model, tmp_path / "open")
    theirs.save(tmp_path / "open")
    run = make(
        tmp_path / "open",
        phases=("base", "sft"),
        identity=Identity("Robi", "Ada"),
        tokenizer=TokenizerSettings(tool_tokens=tool_tokens),
        sft=ChatTraining(
            mixture=(MixturePart("identity", 20), MixturePart("word_problems", 20)), batch_tokens=4_096, sequence=1_024
        ),
        evals=Evals(tasks=("identity:forms", "word_problems"), limit=10, max_tokens=8),
    )
    (sft,) = [phase for phase in phases_of(run.recipe) if phase.name == "sft"]
    assert pipeline.execute(run, [sft], Runtime.single(torch.device("cpu")))
    scores = run.read("sft", "evals.json")["tasks"]
    assert scores["identity"]["n"] == scores["word_problems"]["n"] == 10
    folder = saved.latest(run.phase("sft"))
    assert folder is not None and load_format(folder).default_system == "You are Robi, made by Ada."


def test_a_real_base_model_without_chat_tokens_gets_lanbots(make: Make) -> None:
    folder = Path(__file__).parents[3] / "shared" / "data" / "open_weights" / "stories260k"
    if not folder.is_dir():
        pytest.skip(f"no real weights at {folder}")
    run = make(folder)
    chat_format = load_format(run.phase("tokenizer"))
    assert chat_format.name == "lanbot" and run.recipe.tokenizer.vocab_size == 523
    model = load_model(run.phase("base") / run.checkpoint("base"), torch.float32, torch.device("cpu"))
    ids = torch.tensor([chat_format.prompt([{"role": "user", "content": "Once upon a time"}])])
    assert model.logits(model(ids)).isfinite().all() and model.config.vocab_size == 523


def test_links_to_folders_are_followed(tree: Path, tmp_path: Path, make: Make) -> None:
    (tmp_path / "links").mkdir()
    for path in tree.iterdir():
        (tmp_path / "links" / path.name).symlink_to(path)
    assert make(f"{tmp_path / 'links'}#mid").last_model() == "mid"


# -- again, and beside others ------------------------------------------------------------------------------


def test_made_again_it_stays_as_it_is_even_if_the_source_is_gone(tree: Path, make: Make) -> None:
    run = make(f"{tree}#mid")
    (run.phase("sft")).mkdir()
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")}
    shutil.rmtree(tree)
    for source in (f"{tree}#mid", f"{tree}#mid/7", f"{tree}#mid/d2", f"{tree}#mid/d2/7"):
        make(source)
    assert {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")} == before


def test_a_later_run_of_the_recipe_keeps_the_model(tree: Path, make: Make, options: Options) -> None:
    run = make(f"{tree}#mid")
    again = imported.adopted(Recipe(name="mine"), options)
    assert (again.model, again.tokenizer) == (run.recipe.model, run.recipe.tokenizer)
    assert imported.adopted(Recipe(name="other"), options) == Recipe(name="other")


def test_a_run_of_another_origin_or_of_none_is_refused(
    tokenizer: BPETokenizer, tree: Path, tmp_path: Path, make: Make, options: Options
) -> None:
    other = nanochat_tree.write(tmp_path / "other", tokenizer, step=8)
    make(f"{tree}#mid")
    error = refused(lambda: make(f"{other}#mid"), "mine", f"begins from {tree}#mid/d2/7")
    assert "lanbot runs delete mine" in error.remedy
    refused(lambda: make(f"{tree}#mid", as_phase="sft"), "mine")
    Run.create(Recipe(name="plain").resolve(), options.runs, options)
    refused(lambda: make(f"{tree}#mid", "plain"), "plain", "begins from nothing")
    (options.runs / "folder").mkdir()
    (options.runs / "folder" / "thesis.txt").write_text("mine")
    refused(lambda: make(f"{tree}#mid", "folder"), "not a run")
    assert (options.runs / "folder" / "thesis.txt").read_text() == "mine"


def test_what_a_kill_left_is_replaced(tree: Path, make: Make, options: Options) -> None:
    left = options.runs / ".mine.importing" / "mid"
    left.mkdir(parents=True)
    assert make(f"{tree}#mid").last_model() == "mid"
    assert not left.exists()


# -- what is refused ---------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-500])


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no metadata": (lambda tree: next(tree.glob("*/*/meta*")).unlink(), "no such file"),
    "cut metadata": (lambda tree: next(tree.glob("*/*/meta*")).write_text('{"step": 7,'), "not the metadata"),
    "a cut model": (lambda tree: cut(next(tree.glob("*/*/model*"))), "damaged"),
    "no tokenizer": (lambda tree: (tree / "tokenizer" / "tokenizer.pkl").unlink(), "no such file"),
    "a cut tokenizer": (lambda tree: cut(tree / "tokenizer" / "tokenizer.pkl"), "not a pickled tokenizer"),
    "no model": (lambda tree: next(tree.glob("*/*/model*")).unlink(), "neither"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_tree_leaves_nothing_behind(case: str, tree: Path, make: Make, options: Options) -> None:
    spoil, word = BROKEN[case]
    spoil(tree)
    refused(lambda: make(f"{tree}#mid"), word)
    nothing_written(options)


@pytest.mark.parametrize("wanted", ["sft", "mid/8", "mid/d3", "mid/d3/7", "pretrain", "mid/7/d2", "mid/x/7"])
def test_a_step_that_is_not_there_is_refused_with_those_that_are(
    wanted: str, tree: Path, make: Make, options: Options
) -> None:
    error = refused(lambda: make(f"{tree}#{wanted}"), f"it has no {wanted}")
    assert "mid/d2/7" in error.remedy
    nothing_written(options)


def test_several_models_must_be_told_apart(tokenizer: BPETokenizer, tree: Path, make: Make, options: Options) -> None:
    nanochat_tree.write(tree, tokenizer, "mid_checkpoints/d3", step=9)
    error = refused(lambda: make(f"{tree}#mid"), "several models")
    assert "#mid/d2 or #mid/d3" in error.remedy
    assert make(f"{tree}#mid/d3").checkpoint("mid") == "step_000009"


def test_a_tokenizer_of_another_training_is_refused(
    tokenizer: BPETokenizer, tree: Path, make: Make, options: Options
) -> None:
    state = nanochat_tree.state_of(tokenizer)
    last = max(state["mergeable_ranks"], key=lambda token: state["mergeable_ranks"][token])
    del state["mergeable_ranks"][last]
    state["special_tokens"] = {name: token - 1 for name, token in state["special_tokens"].items()}
    (tree / "tokenizer" / "tokenizer.pkl").write_bytes(nanochat_tree.pickled(state))
    refused(lambda: make(f"{tree}#mid"), "446 tokens", "445")
    nothing_written(options)


@pytest.mark.parametrize("name", ["", "nowhere", "a/b/c", "file", "empty"])
def test_what_is_no_source_is_refused(name: str, tmp_path: Path, make: Make, options: Options) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    refused(lambda: make(f"{tmp_path / name if name in ('file', 'empty') else name}#mid"))
    nothing_written(options)


def test_a_damaged_step_of_a_run_is_refused(tree: Path, make: Make) -> None:
    run = make(f"{tree}#mid", "first")
    path = run.phase("mid") / "step_000007" / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    refused(lambda: make("first#mid", "second"), "damaged", "model.safetensors")
    assert not run.folder.with_name("second").exists()


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def no_space_in_rust(*_: object, **__: object) -> None:
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(
    ("where", "name", "fault"),
    [
        (weights, "save_file", no_space_in_rust),
        (weights, "save_file", no_space),
        (imported, "write_atomic", no_space),
        (Path, "write_text", no_space),
        (Path, "mkdir", no_space),
        (Path, "rename", no_space),
    ],
)
def test_a_full_disk_leaves_nothing_behind(
    where: Any, name: str, fault: Any, tree: Path, make: Make, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(where, name, fault)
        error = refused(lambda: make(f"{tree}#mid"), str(options.runs / "mine"), "the disk is full")
        assert "checkpoints" not in error.remedy and ".importing" not in error.problem
    nothing_written(options)
    assert make(f"{tree}#mid").last_model() == "mid"


def test_the_memory_of_a_wrong_shape_is_never_taken(tree: Path, make: Make, options: Options) -> None:
    """Its 4 n_embd x n_embd matrices alone would be 4 TB."""
    meta = next(tree.glob("*/*/meta*"))
    content = json.loads(meta.read_text())
    content["model_config"]["n_embd"] = 1_000_000
    meta.write_text(json.dumps(content))
    refused(lambda: make(f"{tree}#mid"), "1000000")
    nothing_written(options)


# -- what the rest of LanBot knows of it -------------------------------------------------------------------


def test_data_of_imported_phases_is_not_searched(
    tree: Path, make: Make, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(f"{tree}#mid")
    assert [source.phase for source in sources(run.recipe)] == ["base", "mid", "sft", "rl"]
    asked = []

    def check(recipe: Recipe, tasks: Any, searched: Any, **_: Any) -> dict[str, Any]:
        asked.append([source.phase for source in searched])
        return {"tasks": {}, "plan": contamination.plan(recipe, tasks, searched), "words": {}}

    monkeypatch.setattr(contamination, "check", check)
    monkeypatch.setattr(contamination, "real", lambda tasks: True)
    for _ in range(2):
        evaluation.contaminated(run, ["identity"], Runtime.single(), write=True)
    assert asked == [["sft", "rl"]], "and what was found is kept"


@pytest.mark.parametrize(
    ("asked", "found", "matches"),
    [
        *(("mid", "mid/d2/7", True), ("mid/7", "mid/d2/7", True), ("mid/d2", "mid/d2/7", True)),
        *(("mid/8", "mid/d2/7", False), ("sft", "mid/d2/7", False), ("mid/d3/7", "mid/d2/7", False)),
        ("mid/1,000", "mid/1000", True),
    ],
)
def test_a_step_is_named_by_what_tells_it_apart(asked: str, found: str, matches: bool) -> None:
    assert Wanted.parse(asked).matches(Wanted.parse(found)) is matches


def test_a_recipe_with_agent_rl_keeps_its_model_apart_from_rl(tree: Path, make: Make) -> None:
    run = make(f"{tree}#mid", as_phase="agent_rl", phases=tuple(PHASES))
    assert run.last_model() == "agent_rl" and run.checkpoint("rl") == ""
