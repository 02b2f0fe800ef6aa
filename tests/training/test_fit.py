"""What fits a device: full training, activation checkpointing, adapters; and what a refusal names."""

from dataclasses import replace

import pytest
import torch

from lanbot.config.recipe import RL, Base, ChatTraining, Training
from lanbot.core import hardware
from lanbot.core.errors import UserError
from lanbot.distributed.runtime import Runtime
from lanbot.models.config import ModelConfig
from lanbot.training import memory
from lanbot.training.fit import check, fit, plan
from lanbot.training.memory import Method, state

GB = 10**9
QWEN_7B = ModelConfig(152_064, 3_584, 28, 28, 4, 128, 18_944, 32_768, family="qwen2")
T = 2_048


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """gpu(gigabytes, ranks): a runtime on such GPUs, all of whose memory is free."""

    def make(gigabytes: float, ranks: int = 1) -> Runtime:
        monkeypatch.setattr(hardware, "total", lambda: int(gigabytes * GB))
        monkeypatch.setattr(hardware, "available", lambda: int(gigabytes * GB))
        monkeypatch.setattr(memory, "has_flash", lambda *_: True)
        return Runtime(0, ranks, torch.device("cuda", 0), torch.bfloat16)

    return make


def way(settings: Training) -> tuple[int, bool]:
    return getattr(settings, "lora_rank", 0), settings.activation_checkpointing


@pytest.mark.parametrize(
    ("gigabytes", "ranks", "expected"),
    [(180, 1, (0, False)), (130, 1, (0, True)), (80, 1, (16, False)), (24, 1, (16, True)), (80, 8, (0, False))],
)
def test_the_first_way_that_fits_is_taken(gpu, gigabytes: float, ranks: int, expected: tuple[int, bool]) -> None:  # type: ignore[no-untyped-def]
    runtime = gpu(gigabytes, ranks)
    chosen = fit(QWEN_7B, T, "sft", ChatTraining(), runtime)
    assert way(chosen) == expected
    made = plan(QWEN_7B, T, chosen, runtime)
    assert made.total <= 0.9 * gigabytes * GB and made.rows >= 1
    assert made.sharded == (ranks > 1)


def test_settings_that_fit_are_kept_and_adapters_are_not_given_up(gpu) -> None:  # type: ignore[no-untyped-def]
    settings = ChatTraining(lora_rank=4, lora_targets=("q_proj",))
    assert fit(QWEN_7B, T, "sft", settings, gpu(180)) == settings
    assert fit(QWEN_7B, T, "sft", ChatTraining(activation_checkpointing=True), gpu(180)).activation_checkpointing


def test_adapters_beside_added_tokens_have_a_trained_embedding(gpu) -> None:  # type: ignore[no-untyped-def]
    chosen = fit(QWEN_7B, T, "sft", ChatTraining(), gpu(80), added=True)
    assert isinstance(chosen, ChatTraining) and chosen.lora_rank and chosen.lora_embeddings
    frozen = ChatTraining(lora_rank=4)  # a later phase may leave them as they are
    assert fit(QWEN_7B, T, "sft", frozen, gpu(180), added=True) == frozen


def test_base_has_no_adapters_to_fall_back_on(gpu) -> None:  # type: ignore[no-untyped-def]
    assert way(fit(QWEN_7B, T, "base", Base(), gpu(130))) == (0, True)
    with pytest.raises(UserError, match="base does not fit: all weights, activation checkpointing"):
        fit(QWEN_7B, T, "base", Base(), gpu(24))


def test_a_refusal_names_what_would_fit(gpu) -> None:  # type: ignore[no-untyped-def]
    check(QWEN_7B, T, "sft", ChatTraining(), gpu(180))
    with pytest.raises(UserError, match="sft needs about") as caught:
        check(QWEN_7B, T, "sft", ChatTraining(), gpu(24))
    assert caught.value.remedy == (
        "Add --fit: LoRA of rank 16 on q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, "
        "activation checkpointing fits."
    )
    with pytest.raises(UserError) as caught:
        check(QWEN_7B, 32_768, "sft", ChatTraining(), gpu(24))
    assert caught.value.remedy.startswith("Lower sft.sequence: ")
    shorter = int(caught.value.remedy.split()[2].replace(",", ""))
    assert way(fit(QWEN_7B, shorter, "sft", ChatTraining(), gpu(24))) == (16, True)
    with pytest.raises(UserError) as caught:
        check(QWEN_7B, T, "sft", ChatTraining(), gpu(12))
    assert caught.value.remedy.startswith("Use 4 such devices: torchrun --nproc-per-node 4")


def test_the_sum_adds_up(gpu) -> None:  # type: ignore[no-untyped-def]
    made = plan(QWEN_7B, T, ChatTraining(lora_rank=16), gpu(80))
    held = made.state
    assert made.total == held.weights + held.gradients + held.optimizer + made.activations
    assert made.sum.count("+") == 3 and "weights 14.3 GiB" in made.sum


def test_frozen_weights_take_half_and_adapters_hardly_anything() -> None:
    full, lora = state(QWEN_7B), state(QWEN_7B, method=Method.of(ChatTraining(lora_rank=16)))
    adapters = Method.of(ChatTraining(lora_rank=16)).lora
    assert adapters is not None and adapters.params(QWEN_7B) == 40_370_176
    assert lora.weights < 0.51 * full.weights
    assert lora.gradients + lora.optimizer == 12 * 40_370_176
    embeddings = state(QWEN_7B, method=Method(replace(adapters, embeddings=True)))
    assert embeddings.optimizer - lora.optimizer == 8 * QWEN_7B.embeddings()


def test_memory_that_others_hold_costs_rows_first(gpu, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    runtime = gpu(180)
    wide = plan(QWEN_7B, 512, ChatTraining(lora_rank=16), runtime)
    free = wide.state.total + wide.activations // 2
    monkeypatch.setattr(hardware, "available", lambda: free)
    chosen = fit(QWEN_7B, 512, "sft", ChatTraining(lora_rank=16), runtime)
    made = plan(QWEN_7B, 512, chosen, runtime)
    assert 1 <= made.rows < wide.rows and made.total <= free
    assert not chosen.activation_checkpointing


def test_the_keys_and_values_of_rl_are_counted(gpu) -> None:  # type: ignore[no-untyped-def]
    runtime = gpu(180)
    made = plan(QWEN_7B, T, RL(lora_rank=16, prompts=4, group_size=8), runtime)
    assert made.cache == 32 * T * 2 * 28 * 4 * 128 * 2  # answers x tokens x keys and values of 28 layers in bf16
    assert "keys and values 3.5 GiB" in made.sum
    assert plan(QWEN_7B, T, RL(lora_rank=16, prompts=4_000), runtime).cache == 45 * GB, "the engine's share"
    assert plan(QWEN_7B, T, ChatTraining(lora_rank=16), runtime).cache == 0


def test_generation_in_rl_is_counted() -> None:
    assert Method.of(RL()).copies == 1
    assert (Method.of(RL(kl=0.1)).copies, Method.of(RL(kl=0.1, lora_rank=4)).copies) == (2, 1)
    assert state(QWEN_7B, method=Method.of(RL())).copies == 2 * QWEN_7B.params()
