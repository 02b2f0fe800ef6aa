"""Adapters: merged they are what they were beside the frozen weights, and PEFT reads their files."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lanbot.core.errors import UserError
from lanbot.distributed import fsdp
from lanbot.distributed.runtime import Runtime
from lanbot.inference.runner import Runner
from lanbot.inference.slots import Slots
from lanbot.models.lora import LoRA, attach, initial, load_adapter, save_adapter
from lanbot.models.loss import weighted_nll
from lanbot.models.transformer import Transformer
from lanbot.models.weights import save_model

MakeModel = Callable[..., Transformer]
CPU = torch.device("cpu")
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SOME = ("q_proj", "v_proj")


def adapted(model: Transformer, lora: LoRA) -> Transformer:
    """With adapters that do something."""
    attach(model, lora)
    fsdp.put(model, initial(model, seed=5))
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_B") or (parameter.requires_grad and ".lora_" not in name):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def some_ids(seed: int = 0) -> Tensor:
    return torch.randint(0, 448, (3, 20), generator=torch.Generator().manual_seed(seed))


def gradients(model: Transformer, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    ids = some_ids()
    documents = (torch.arange(19) // 7).expand(3, 19)
    hidden = model(ids[:, :-1], documents)
    loss, _ = weighted_nll(hidden, model.lm_head.weight, ids[:, 1:], torch.full((3, 19), 1 / 57))
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", ["qwen3", "qwen2", "llama", "nanochat"])
@pytest.mark.parametrize("targets", [ALL, SOME])
def test_merged_equals_adapted(make_model: MakeModel, family: str, targets: tuple[str, ...]) -> None:
    model = adapted(make_model(family=family), LoRA(4, 16.0, targets, embeddings=family == "llama"))
    merged = fsdp.gathered_on_main(model, True)
    assert merged is not None and merged.lora is None
    with torch.no_grad():
        expected = model.logits(model(some_ids()))
        assert_close(merged.logits(merged(some_ids())), expected, atol=1e-5, rtol=1e-5)
        plain = make_model(family=family)
        assert (plain.logits(plain(some_ids())) - expected).abs().max() > 0.1, "the adapters do nothing"
    assert_close(model.logits(model(some_ids())), expected, atol=1e-5, rtol=1e-5)  # as it trains


def test_generation_uses_the_adapters(make_model: MakeModel) -> None:
    model = adapted(make_model(), LoRA(4, 16.0, ALL))
    runner, slots = Runner(model), Slots(model.config, model.dtype, CPU, 1 << 24)
    slots.reserve(3, 20, 0)
    ids, positions = some_ids(), torch.arange(20).expand(3, 20)
    with torch.no_grad():
        found = runner.logits(runner.forward(slots, ids, positions, None, 20))
        assert_close(found, model.logits(model(ids)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("targets", [ALL, SOME])
@pytest.mark.parametrize("embeddings", [False, True])
def test_the_cpus_gradients_are_those_of_the_plain_formula(
    make_model: MakeModel, targets: tuple[str, ...], embeddings: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora = LoRA(4, 16.0, targets, embeddings)
    ours = gradients(adapted(make_model(tie_embeddings=embeddings), lora))
    with monkeypatch.context() as patch:
        for module in ("lora", "transformer"):
            patch.setattr(f"lanbot.models.{module}.use_cpu_kernels", lambda x: False)
        expected = gradients(adapted(make_model(tie_embeddings=embeddings), lora))
    assert ours.keys() == expected.keys() and len(ours) == 2 * 2 * len(targets) + embeddings
    for name, gradient in expected.items():
        assert gradient.abs().max() > 0
        assert_close(ours[name], gradient, atol=1e-6, rtol=1e-4)


def test_frozen_weights_are_kept_in_the_compute_dtype(make_model: MakeModel, tmp_path: Path) -> None:
    save_model(make_model(), tmp_path)
    runtime = replace(Runtime.single(CPU), dtype=torch.bfloat16)
    lora = LoRA(4, 16.0, ALL)
    model = fsdp.load_model(tmp_path, runtime, lambda model: attach(model.to(torch.bfloat16), lora), lora)
    fsdp.put(model, initial(model, 0))
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if ".lora_" in name else torch.bfloat16)
        assert parameter.requires_grad == (".lora_" in name)
    assert {g.dtype for g in gradients(model).values()} == {torch.float32}


@pytest.mark.parametrize("lora", [None, LoRA(4, 16.0, ALL)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activation_checkpointing_changes_no_gradient(
    make_model: MakeModel, lora: LoRA | None, dtype: torch.dtype
) -> None:
    def made() -> Transformer:
        model = make_model(dtype=dtype)
        return adapted(model, lora) if lora else model

    plain, less = made(), made()
    less.checkpointing = True
    kept = {}
    for model in (plain, less):
        count: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, c=count: c.append(t.numel()) or t, lambda t: t):
            model(some_ids())
        kept[model] = sum(count)
    assert kept[less] < kept[plain] / 3
    ours, expected = gradients(less), gradients(plain)
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


def test_a_family_without_the_targets_is_an_error(make_model: MakeModel) -> None:
    with pytest.raises(UserError, match="nanochat has no such layer"):
        attach(make_model(family="nanochat"), LoRA(4, 16.0, ("gate_proj",)))


# -- files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "embeddings", "tied"),
    [("qwen3", False, False), ("qwen2", True, False), ("llama", True, True), ("nanochat", False, False)],
)
def test_peft_loads_an_adapter_and_computes_the_same(
    make_model: MakeModel, family: str, embeddings: bool, tied: bool, tmp_path: Path
) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    save_model(make_model(family=family, tie_embeddings=tied), tmp_path / "base")
    model = adapted(make_model(family=family, tie_embeddings=tied), LoRA(4, 16.0, ALL, embeddings))
    save_adapter(model, fsdp.on_main(model, True, trained_alone=True), tmp_path / "adapter")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", attn_implementation="eager")
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter")
    with torch.no_grad():
        ours = model.logits(model(some_ids()))
        assert_close(theirs(some_ids()).logits, ours, atol=1e-4, rtol=1e-4)


def test_an_adapter_is_read_back(make_model: MakeModel, tmp_path: Path) -> None:
    lora = LoRA(4, 16.0, ALL, embeddings=True)
    model, other = adapted(make_model(), lora), make_model(seed=1)
    save_adapter(model, fsdp.on_main(model, True, trained_alone=True), tmp_path)
    attach(other, lora)
    fsdp.put(other, load_adapter(other, tmp_path))
    ours, theirs = (dict(one.named_parameters()) for one in (model, other))
    assert all(torch.equal(theirs[name], ours[name]) for name, p in ours.items() if p.requires_grad)


def test_an_adapter_of_another_rank_or_a_damaged_one_is_an_error(make_model: MakeModel, tmp_path: Path) -> None:
    model, other = adapted(make_model(), LoRA(4, 16.0, ALL)), adapted(make_model(), LoRA(2, 16.0, ALL))
    save_adapter(model, fsdp.on_main(model, True, trained_alone=True), tmp_path)
    with pytest.raises(UserError, match="of another shape"):
        load_adapter(other, tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="damaged"):
        load_adapter(model, tmp_path)


def test_only_the_last_layers_are_adapted_and_passed_back_through(make_model: MakeModel, tmp_path: Path) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    save_model(make_model(), tmp_path / "base")
    model = adapted(make_model(), LoRA(4, 16.0, ALL, layers=1))
    assert {name.split(".")[1] for name in gradients(model)} == {"1"}
    inputs: list[bool] = []
    model.layers[1].register_forward_pre_hook(lambda _, given: inputs.append(given[0].requires_grad))
    expected = model.logits(model(some_ids())).detach()
    assert inputs == [False]
    save_adapter(model, fsdp.on_main(model, True, trained_alone=True), tmp_path / "adapter")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", attn_implementation="eager")
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter")
    with torch.no_grad():
        assert_close(theirs(some_ids()).logits, expected, atol=1e-4, rtol=1e-4)


def test_the_count_of_its_parameters_is_right(make_model: MakeModel) -> None:
    for family in ("qwen3", "nanochat"):
        for lora in (LoRA(4, 16.0, ALL), LoRA(2, 16.0, SOME, embeddings=True, layers=1)):
            model = make_model(family=family)
            attach(model, lora)
            assert lora.trained(model.config) == sum(p.numel() for p in model.parameters() if p.requires_grad)
