import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanbot.config.recipe import ChatTraining, Evals, Identity, MixturePart, Recipe
from lanbot.config.recipe_file import SHIPPED, dump, load
from lanbot.config.scaling import MOST_PAIRS, scale
from lanbot.core.errors import UserError
from lanbot.tasks.registry import all_tasks

SHIPPED_NAMES = sorted(path.stem for path in SHIPPED.glob("*.toml"))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


def write(folder: Path, text: str) -> Path:
    path = folder / "r.toml"
    path.write_text(text)
    return path


def refused(source: object, *names: str, overrides: dict[str, str] | None = None) -> UserError:
    """The UserError that loading raises: two lines, the first of which holds `names`."""
    with pytest.raises(UserError) as caught:
        load(str(source), overrides)
    lines = str(caught.value).split("\n")
    assert len(lines) == 2 and all(line.strip() for line in lines), lines
    assert all(name in lines[0] for name in names), (names, lines[0])
    return caught.value


@pytest.mark.parametrize("name", SHIPPED_NAMES)
def test_a_shipped_recipe_loads_resolved_and_survives_being_written(name: str, tmp_path: Path) -> None:
    recipe = load(name)
    for section in ("dim", "head_dim", "n_heads", "n_kv_heads", "mlp_dim"):
        assert getattr(recipe.model, section) is not None
    for phase in ("base", "mid", "sft", "rl"):
        settings = getattr(recipe, phase)
        for key in ("muon_lr", "embedding_lr", "head_lr", "norm_lr"):
            assert getattr(settings, key) is not None, (phase, key)
    for settings in (recipe.base, recipe.mid, recipe.sft):
        assert settings.batch_tokens and settings.sequence
    assert recipe.resolve() == recipe
    assert load(write(tmp_path, dump(recipe))) == recipe


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("[base]\ntokens = 1_000", 5_000),
        ("[base]\ntokens = 1_000\npair_tokens = 0", 0),
        ("[base]\ntokens = 1_000\n[tokenizer]\nvocab_size = 65_536", 0),
        ("[base]\ntokens = 1_000\n[model]\ntie_embeddings = true", 0),
        ("[base]\ntokens = 1_000_000_000", MOST_PAIRS),
    ],
)
def test_embedding_and_head_begin_with_pairs_where_a_table_of_them_is_small(
    text: str, pairs: int, tmp_path: Path
) -> None:
    assert load(write(tmp_path, text)).base.pair_tokens == pairs


def test_what_pairs_taught_takes_a_smaller_rate_in_base_alone(tmp_path: Path) -> None:
    with_pairs, without = (load(write(tmp_path, f"[base]\ntokens = 1_000{more}")) for more in ("", "\npair_tokens = 0"))
    assert with_pairs.base.embedding_lr == pytest.approx((without.base.embedding_lr or 0) / 16, rel=1e-3)
    assert with_pairs.base.head_lr == pytest.approx((without.base.head_lr or 0) / 16, rel=1e-2)
    assert with_pairs.base.muon_lr == without.base.muon_lr
    assert with_pairs.mid == without.mid
    explicit = load(write(tmp_path, "[base]\ntokens = 1_000\nembedding_lr = 0.5"))
    assert explicit.base.embedding_lr == 0.5
    long = load(write(tmp_path, "[base]\ntokens = 1_000\npair_tokens = 500"))
    assert long.base.embedding_lr == pytest.approx((without.base.embedding_lr or 0) / 8, rel=1e-3)


@pytest.mark.parametrize(
    ("text", "frequent"),
    [
        ("[tokenizer]\nvocab_size = 8_192", 1_024),
        ("[tokenizer]\nvocab_size = 8_192\n[base]\nsoftmax_tokens = 0", 0),
        ("[tokenizer]\nvocab_size = 8_192\n[base]\npair_tokens = 0", 0),
        ("[tokenizer]\nvocab_size = 8_192\n[base]\nbatch_tokens = 65_536", 0),
        ("[tokenizer]\nvocab_size = 1_024", 0),
        ("[tokenizer]\nvocab_size = 65_536", 0),
    ],
)
def test_rare_tokens_are_sampled_where_a_batch_is_small_beside_the_vocabulary(
    text: str, frequent: int, tmp_path: Path
) -> None:
    assert load(write(tmp_path, text)).base.softmax_tokens == frequent


def test_shipped_recipes_are_named_after_their_files() -> None:
    assert {"smoke", "demo", "laptop"} <= set(SHIPPED_NAMES)
    assert [load(name).name for name in SHIPPED_NAMES] == SHIPPED_NAMES


def test_an_empty_file_is_the_default_recipe(tmp_path: Path) -> None:
    assert load(write(tmp_path, "")) == Recipe().resolve()


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        ("[base]\ntokns = 3", "base.tokns", "tokens"),
        ("[modle]\ndepth = 3", "modle", "model"),
        ("nmae = 'x'", "nmae", "name"),
        ("[mid]\nmixture = [{ task = 'identity', row = 3 }]", "mid.mixture[0].row", "rows"),
        ("[identity]\ncreatr = 'x'", "identity.creatr", "creator"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_right_one(text: str, key: str, nearest: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    refused(path, str(path), key, f"Did you mean {nearest}?")


@pytest.mark.parametrize(
    ("text", "key", "wanted"),
    [
        ("[base]\ntokens = '3'", "base.tokens", "a whole number"),
        ("[base]\ntokens = 3.5", "base.tokens", "a whole number"),
        ("[base]\ntokens = true", "base.tokens", "a whole number"),
        ("[base]\nclip = 'tight'", "base.clip", "a number"),
        ("[base]\nclip = false", "base.clip", "a number"),
        ("[identity]\nname = 3", "identity.name", "text"),
        ("[model]\ntie_embeddings = 1", "model.tie_embeddings", "true or false"),
        ("[tokenizer]\nbare_words = 1", "tokenizer.bare_words", "true or false"),
        ("[evals]\ntasks = 'gsm8k'", "evals.tasks", "a list"),
        ("[evals]\ntasks = ['gsm8k', 3]", "evals.tasks[1]", "text"),
        ("[mid]\nmixture = [{ task = 3 }]", "mid.mixture[0].task", "text"),
        ("[mid]\nmixture = ['identity']", "mid.mixture[0]", "a section"),
        ("base = 3", "base", "a section"),
    ],
)
def test_a_wrong_type_is_named(text: str, key: str, wanted: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    refused(path, str(path), key, wanted)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[model]\ndepth = 0", "model.depth"),
        ("[model]\nhead_dim = 33", "model.head_dim"),
        ("[model]\ncontext = 8", "model.context"),
        ("[model]\nn_heads = 3\nn_kv_heads = 2", "model.n_heads"),
        ("[tokenizer]\nvocab_size = 100", "tokenizer.vocab_size"),
        ("[base]\ntokens = 0", "base.tokens"),
        ("[base]\npair_tokens = -1", "base.pair_tokens"),
        ("[base]\npair_tokens = 9\n[tokenizer]\nvocab_size = 32_768", "base.pair_tokens"),
        ("[base]\npair_tokens = 9\n[model]\ntie_embeddings = true", "base.pair_tokens"),
        ("[base]\nmuon_lr = -1.0", "base.muon_lr"),
        ("[base]\nembedding_lr = nan", "base.embedding_lr"),
        ("[base]\nhead_lr = inf", "base.head_lr"),
        ("[base]\nwarmup = 1.5", "base.warmup"),
        ("[base]\ndata = ''", "base.data"),
        ("[base]\nclip = 0.0", "base.clip"),
        ("[mid]\nmixture = []", "mid.mixture"),
        ("[mid]\nmixture = [{ rows = 3 }]", "mid.mixture[0].task"),
        (
            "[sft]\nmixture = [{ task = 'identity' }, { task = 'identity', epochs = 0 }]",
            "sft.mixture[1].epochs",
        ),
        ("[sft]\nlr_scale = 0", "sft.lr_scale"),
        ("[rl]\ngroup_size = 1", "rl.group_size"),
        ("[rl]\nsteps = 0", "rl.steps"),
        ("[base]\nsequence = 0", "base.sequence"),
        ("[evals]\ntasks = ['identity', 'identity']", "evals.tasks"),
        ("[evals]\nlimit = 0", "evals.limit"),
        ("[evals]\nbase_limit = 0", "evals.base_limit"),
        ("[agent]\nmax_steps = 0", "agent.max_steps"),
        ("[identity]\nname = ' '", "identity.name"),
        ("name = '../elsewhere'", "name"),
        ("name = '.hidden'", "name"),
        ("name = ''", "name"),
        ("seed = -1", "seed"),
        ("[base]\nsequence = 1024", "base.sequence"),
        ("[rl]\nbatch_tokens = 1000", "rl.batch_tokens"),
    ],
)
def test_a_bad_value_is_named(text: str, key: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    refused(path, str(path), key)


def test_a_file_that_is_no_toml_is_named_with_the_line(tmp_path: Path) -> None:
    path = write(tmp_path, "name = 'x'\n[base\n")
    refused(path, str(path), "line 2")


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(b"\xff\xfe\x00")
    refused(path, str(path))


def test_a_recipe_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_bytes(b"\xef\xbb\xbfname = 'caf\xc3\xa9'\n")
    assert load(tmp_path / "r.toml").name == "caf\u00e9"


class Distill:
    """A phase from outside, as far as a recipe knows it."""

    name = "distill"
    Settings = ChatTraining


def test_a_phase_from_outside_has_its_own_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lanbot.config.recipe.load_object", lambda name, key: Distill)
    path = write(tmp_path, "phases = ['tokenizer', 'base', 'mine:Distill']\n[distill]\nlr_scale = 0.5")
    recipe: Any = load(path, {"distill.clip": "3"})
    assert recipe.phase_names == ("tokenizer", "base", "distill")
    assert (recipe.distill.lr_scale, recipe.distill.clip) == (0.5, 3.0)
    assert recipe.distill.muon_lr == recipe.base.muon_lr * 0.5 and recipe.distill.sequence == recipe.model.context
    assert load(write(tmp_path, dump(recipe))) == recipe == pickle.loads(pickle.dumps(recipe))
    refused(
        write(tmp_path, "phases = ['mine:Distill']\n[distill]\nlr_scal = 1"),
        "distill.lr_scal",
        "Did you mean lr_scale?",
    )


@pytest.mark.parametrize(
    ("phases", "said"), [("['tokenizer', 'bas']", "Did you mean base?"), ("'all'", "a list"), ("[]", "phases is empty")]
)
def test_a_wrong_list_of_phases_is_refused(phases: str, said: str, tmp_path: Path) -> None:
    refused(write(tmp_path, f"phases = {phases}"), "phases", said)


def test_a_missing_file_and_an_unknown_shipped_name_are_named(tmp_path: Path) -> None:
    refused(tmp_path / "none.toml", str(tmp_path / "none.toml"))
    error = refused("smok", "smok")
    assert "Did you mean smoke?" in error.remedy
    assert all(name in error.remedy for name in SHIPPED_NAMES)


def test_a_shipped_name_cannot_leave_its_folder() -> None:
    refused("../recipes/smoke", "../recipes/smoke")


# -- overrides ---------------------------------------------------------------------------------------------


def test_overrides_are_read_by_the_type_of_their_key() -> None:
    recipe = load(
        "smoke",
        {
            "name": "other",
            "seed": "7",
            "base.tokens": "2_048",
            "base.clip": "2",
            "base.norm_lr": "1e-3",
            "model.tie_embeddings": "true",
            "evals.tasks": "identity, word_problems",
            "identity.personality": "quotes \" and 'commas', too",
            "rl.steps": "5",
        },
    )
    assert (recipe.name, recipe.seed, recipe.base.tokens, recipe.rl.steps) == ("other", 7, 2048, 5)
    assert (recipe.base.clip, recipe.base.norm_lr) == (2.0, 0.001)
    assert recipe.model.tie_embeddings is True
    assert recipe.evals.tasks == ("identity", "word_problems")
    assert recipe.identity.personality == "quotes \" and 'commas', too"
    assert recipe.base.batch_tokens == load("smoke").base.batch_tokens


def test_a_bool_can_be_taken_back_on_the_command_line(tmp_path: Path) -> None:
    path = write(tmp_path, "[model]\ntie_embeddings = true")
    assert load(path).model.tie_embeddings is True
    assert load(path, {"model.tie_embeddings": "false"}).model.tie_embeddings is False


def test_words_are_bare_only_if_the_recipe_sets_it(tmp_path: Path) -> None:
    assert load(write(tmp_path, "")).tokenizer.bare_words is False
    assert load(write(tmp_path, "[tokenizer]\nbare_words = true")).tokenizer.bare_words is True
    assert load(write(tmp_path, ""), {"tokenizer.bare_words": "true"}).tokenizer.bare_words is True


def test_base_is_evaluated_on_fewer_items(tmp_path: Path) -> None:
    default = load(write(tmp_path, "")).evals
    assert default.base_limit < default.limit
    assert load(write(tmp_path, "[evals]\nbase_limit = 7")).evals.base_limit == 7


@pytest.mark.parametrize("name", SHIPPED_NAMES)
def test_every_task_of_a_shipped_recipe_is_there(name: str) -> None:
    recipe = load(name)
    mixed = [part.task for phase in (recipe.mid, recipe.sft, recipe.rl) for part in phase.mixture]
    for split, specs in {"train": mixed, "test": recipe.evals.tasks}.items():
        for spec in specs:
            name, _, argument = spec.partition(":")
            assert split in all_tasks()[name].splits
            assert argument in ("", *(all_tasks()[name].arguments or ())), spec
    assert all(all_tasks()[task.partition(":")[0]].kind != "chat" for task in recipe.evals.tasks)


def test_depth_may_be_given_as_bases() -> None:
    assert load("smoke", {"base.depth": "3"}) == load("smoke", {"model.depth": "3"})
    assert load("smoke", {"base.depth": "3"}).model.depth == 3


def test_an_override_in_a_section_that_the_file_has_not(tmp_path: Path) -> None:
    assert load(write(tmp_path, ""), {"agent.max_steps": "2"}).agent.max_steps == 2


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("base.tokns", "3", "Did you mean tokens?"),
        ("bas.tokens", "3", "Did you mean base?"),
        ("base.tokens.more", "3", "base.tokens.more"),
        ("base.tokens", "many", "a whole number, not 'many'"),
        ("base.tokens", "1.5", "a whole number, not '1.5'"),
        ("base.clip", "tight", "a number, not 'tight'"),
        ("model.tie_embeddings", "maybe", "'maybe'"),
        ("mid.mixture", "identity", "--mid.mixture"),
        ("base", "3", "--base"),
    ],
)
def test_a_wrong_override_is_named(key: str, value: str, said: str) -> None:
    refused("smoke", f"--{key}", said, overrides={key: value})


def test_an_override_with_a_bad_value_is_named() -> None:
    refused("smoke", "base.tokens = 0", overrides={"base.tokens": "0"})


def test_an_override_below_what_is_no_section_is_named(tmp_path: Path) -> None:
    refused(write(tmp_path, "base = 3"), "base", overrides={"base.tokens": "3"})


# -- scaling -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 4, 12, 20])
def test_scaling_fills_what_is_left_out(depth: int, tmp_path: Path) -> None:
    recipe = load(write(tmp_path, f"[model]\ndepth = {depth}"))
    shape = scale(depth, recipe.tokenizer.vocab_size)
    assert (recipe.model.dim, recipe.model.head_dim) == (shape.dim, shape.head_dim)
    assert recipe.model.n_heads * recipe.model.head_dim == shape.dim
    assert recipe.model.n_kv_heads == recipe.model.n_heads
    assert (recipe.base.batch_tokens, recipe.base.tokens) == (shape.batch_tokens, shape.tokens)
    assert recipe.base.sequence == recipe.mid.sequence == recipe.model.context
    assert recipe.base.muon_lr == shape.muon_lr
    for rate in ("muon_lr", "embedding_lr", "head_lr", "norm_lr"):
        assert getattr(recipe.rl, rate) == pytest.approx(getattr(shape, rate) * recipe.rl.lr_scale)


def test_scaling_meets_its_anchors() -> None:
    assert (scale(4, 8_192).dim, scale(4, 8_192).batch_tokens) == (256, 4_096)
    assert (scale(20, 65_536).dim, scale(20, 65_536).batch_tokens) == (1_280, 524_288)
    assert (scale(20, 65_536).head_dim, scale(4, 8_192).head_dim) == (128, 64)
    assert scale(4, 8_192).tokens % scale(4, 8_192).batch_tokens == 0


def test_what_is_written_wins_over_scaling(tmp_path: Path) -> None:
    text = """
        [model]
        depth = 4
        dim = 128
        n_kv_heads = 1
        mlp_dim = 100
        [base]
        tokens = 999
        pair_tokens = 0
        batch_tokens = 1024
        muon_lr = 0.5
        [mid]
        lr_scale = 0.1
        muon_lr = 0.25
        batch_tokens = 2048
    """
    recipe = load(write(tmp_path, text))
    model = recipe.model
    assert (model.dim, model.n_heads, model.n_kv_heads, model.mlp_dim) == (128, 2, 1, 100)
    assert (recipe.base.tokens, recipe.base.batch_tokens, recipe.base.muon_lr) == (999, 1024, 0.5)
    assert recipe.base.embedding_lr == scale(4, recipe.tokenizer.vocab_size, 128).embedding_lr
    assert (recipe.mid.batch_tokens, recipe.mid.muon_lr) == (2048, 0.25)
    assert recipe.mid.head_lr == pytest.approx(recipe.base.head_lr * 0.1)
    assert (recipe.sft.batch_tokens, recipe.sft.muon_lr) == (1024, 0.5)


def test_a_rate_of_zero_is_no_rate_left_out(tmp_path: Path) -> None:
    recipe = load(write(tmp_path, "[base]\nmuon_lr = 0\n[mid]\nhead_lr = 0.0"))
    assert (recipe.base.muon_lr, recipe.mid.muon_lr, recipe.mid.head_lr) == (0.0, 0.0, 0.0)
    assert recipe.base.head_lr > 0


# -- writing -----------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(creator=TEXTS, personality=TEXTS, task=TEXTS.filter(bool))
def test_any_text_survives_being_written_and_read(
    creator: str, personality: str, task: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    recipe = Recipe(identity=Identity("Zoë 🤖", creator=creator, personality=personality))
    recipe = replace(recipe, sft=replace(recipe.sft, mixture=(MixturePart(task, 3), MixturePart(task, None, 2, True))))
    recipe = replace(recipe, evals=replace(recipe.evals, tasks=(task,))).resolve()
    assert load(write(tmp_path_factory.mktemp("recipe"), dump(recipe))) == recipe


@pytest.mark.parametrize("text", ['"', "'", '"""', "\\", "\n", "\r\n", "\t", "\0", "\x7f", "😀👩‍👩‍👧", "\u2028", "#"])
def test_hostile_text_survives_being_written_and_read(text: str, tmp_path: Path) -> None:
    recipe = Recipe(identity=Identity(name=f"a{text}b", creator=text)).resolve()
    assert load(write(tmp_path, dump(recipe))) == recipe


@settings(deadline=None)
@given(
    rate=st.floats(min_value=0, allow_nan=False, allow_infinity=False),
    clip=st.floats(min_value=0, exclude_min=True, allow_nan=False),
)
def test_any_number_survives_being_written_and_read(
    rate: float, clip: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    recipe = replace(Recipe(), base=replace(Recipe().base, muon_lr=rate, clip=clip)).resolve()
    assert load(write(tmp_path_factory.mktemp("recipe"), dump(recipe))) == recipe


def test_an_empty_list_survives_being_written(tmp_path: Path) -> None:
    recipe = replace(Recipe(), evals=replace(Recipe().evals, tasks=())).resolve()
    assert load(write(tmp_path, dump(recipe))) == recipe


def test_d20_has_the_mixtures_of_the_design_and_the_tools_of_the_agent() -> None:
    recipe = load("d20")
    mid = {part.task: (part.rows, part.epochs) for part in recipe.mid.mixture}
    assert mid == {
        "smoltalk": (460_000, 1), "mmlu": (100_000, 1), "gsm8k": (8_000, 1), "identity": (2_000, 2),
        "simple_spelling": (200_000, 1), "spelling_bee": (80_000, 1), "tool_use": (8_000, 1),
    }  # fmt: skip
    sft = {part.task: part.rows for part in recipe.sft.mixture}
    assert sft == {
        "arc_easy": None, "arc_challenge": None, "gsm8k": 8_000, "smoltalk": 10_000, "identity": 1_000,
        "simple_spelling": 300, "spelling_bee": 300, "tool_use": 1_000,
    }  # fmt: skip
    assert (recipe.tokenizer.vocab_size, recipe.tokenizer.max_chars) == (65_536, 2_000_000_000)
    assert [part.task for part in recipe.rl.mixture] == ["gsm8k"]


def test_two_tasks_of_one_module_from_outside_have_scores_of_their_own() -> None:
    assert Evals(tasks=("seasons:Next", "seasons:Last:x", "identity", "simple_spelling:builtin")).tasks
    with pytest.raises(ValueError, match="twice"):
        Evals(tasks=("seasons:Next", "seasons:Next:x"))


def test_agent_rl_is_a_phase_of_d20_and_a_section_only_where_phases_name_it() -> None:
    d20 = load("d20", {"agent_rl.steps": "5"})
    settings = d20.agent_rl  # type: ignore[attr-defined]
    assert d20.phase_names[-1] == "agent_rl" and settings.steps == 5 and settings.muon_lr == d20.rl.muon_lr
    assert [(part.task, part.weight) for part in settings.mixture] == [("gsm8k", 0.7), ("programs", 0.3)]
    assert settings.terms == ("tool", "mark", "compiles", "defines", "long") and not d20.rl.terms
    assert not hasattr(load("demo"), "agent_rl")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[sft]\nmixture = [{ task = 'identity', weight = 0.5 }]", "sft.mixture: weight is for rl"),
        (
            "[rl]\nmixture = [{ task = 'a', weight = 0.5 }, { task = 'b' }]",
            "rl.mixture: give every part a weight, or none",
        ),
        ("[rl]\nmixture = [{ task = 'a', weight = 0 }]", "rl.mixture[0].weight = 0; it must be more than 0"),
        ("[rl]\nppo_epochs = 0", "rl.ppo_epochs"),
    ],
)
def test_weights_are_for_all_parts_of_rl_or_for_none(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(UserError) as caught:
        load(tmp_path / "r.toml")
    assert said in caught.value.problem
