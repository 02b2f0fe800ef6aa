"""What runs compiled on a GPU is what runs as written: the compiler's front half works on a CPU too, and the whole of
it in a slow test."""

import copy
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch.testing import assert_close

from lanbot.distributed import fsdp
from lanbot.distributed.runtime import Runtime
from lanbot.models import attention, compile, fp8, loss
from lanbot.models.config import ModelConfig
from lanbot.models.init import init_weights
from lanbot.models.transformer import Transformer
from lanbot.training.optim import MuonAdamW, Rates

RUNTIME = Runtime.start()

MakeModel = Callable[..., Transformer]
DOCUMENTS = torch.arange(36).view(2, 18) // 5


@pytest.fixture
def forced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The CPU compiles as a GPU would."""
    torch._dynamo.reset()
    counters.clear()
    loss._fused.cache_clear()
    monkeypatch.setattr(compile, "enabled", lambda _: True)
    monkeypatch.setattr(compile, "BACKEND", "aot_eager")
    monkeypatch.setattr(loss, "FUSED_TOKENS", 1)
    yield
    loss._fused.cache_clear()


def gradients(model: Transformer, rows: int = 2) -> tuple[Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(448, (2, 19), generator=generator)[:rows]
    weights = torch.randn(2, 18, generator=generator)[:rows]
    model.zero_grad()
    hidden = model(ids[:, :-1], DOCUMENTS[:rows])
    total, nll = loss.weighted_nll(hidden, model.lm_head.weight, ids[:, 1:], weights)
    total.backward()
    return nll, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def alike(ours: tuple[Tensor, dict[str, Tensor]], theirs: tuple[Tensor, dict[str, Tensor]]) -> None:
    assert_close(ours[0], theirs[0], atol=1e-5, rtol=1e-5)
    assert ours[1].keys() == theirs[1].keys() and len(ours[1]) > 20
    for name, gradient in theirs[1].items():
        assert gradient.abs().max() > 0
        assert (ours[1][name] - gradient).norm() < 1e-5 * gradient.norm(), name


def compiled_model(make_model: MakeModel) -> Transformer:
    model = make_model(dtype=torch.bfloat16)  # fp32 is not compiled; the sums are to be compared in fp32 all the same
    compile.compile_blocks(model)
    model.dtype = torch.float32
    return model


@pytest.mark.usefixtures("forced")
def test_compiled_blocks_and_loss_give_the_same_gradients_from_one_program(make_model: MakeModel) -> None:
    written = make_model()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compile, "enabled", lambda _: False)
        expected = gradients(written), gradients(written, rows=1)
    model = compiled_model(make_model)
    alike(gradients(model), expected[0])
    assert counters["stats"]["unique_graphs"] == 2, "one program for all blocks, one for the loss"
    assert not counters["graph_break"]
    alike(gradients(model), expected[0])
    assert counters["stats"]["unique_graphs"] == 2, "compiled anew for the same shapes"
    alike(gradients(model, rows=1), expected[1])


@pytest.mark.usefixtures("forced")
@pytest.mark.parametrize("eight_bits", [False, True])
def test_flash_attention_and_fp8_are_within_the_program(eight_bits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device: what a GPU would compile, of the real operators."""
    monkeypatch.setattr(attention, "has_flash", lambda *_: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    with torch.device("meta"):
        model = Transformer(ModelConfig(512, 64, 2, 4, 2, 16, 96, 32), torch.bfloat16)
        ids = torch.zeros(2, 16, dtype=torch.long)
    if eight_bits:
        fp8.enable(model, torch.device("cuda"), "base.fp8")
    compile.compile_blocks(model)
    for documents in (DOCUMENTS[:, :16], torch.flip(DOCUMENTS[:, :16], (0,)) + 3):
        model(ids, documents).float().sum().backward()
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]
    assert model.layers[0].self_attn.q_proj.weight.grad is not None


@pytest.mark.usefixtures("forced")
def test_copies_and_names_of_a_compiled_model_are_as_before(make_model: MakeModel) -> None:
    model, plain = compiled_model(make_model), make_model()
    gradients(model)
    before = counters["stats"]["unique_graphs"]
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.layers[0].mlp.down_proj.weight.zero_()
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert not torch.equal(gradients(twin)[0], gradients(model)[0]), "the copy ran the weights of the original"
    assert counters["stats"]["unique_graphs"] == before


def test_cpus_and_fp32_run_as_written_and_a_variable_turns_it_off(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = torch.device("cuda", 0)
    monkeypatch.delenv("LANBOT_COMPILE", raising=False)
    assert compile.enabled(cuda) and not compile.enabled(torch.device("cpu"))
    monkeypatch.setenv("LANBOT_COMPILE", "0")
    assert not compile.enabled(cuda)
    monkeypatch.setattr(compile, "enabled", lambda _: True)
    model = make_model()
    compile.compile_blocks(model)
    assert all(block._compiled_call_impl is None for block in model.layers)


@pytest.mark.slow
@pytest.mark.usefixtures("forced")
def test_inductors_code_gives_the_same_gradients(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compile, "enabled", lambda _: False)
        expected = gradients(make_model())
    monkeypatch.setattr(compile, "BACKEND", "inductor")
    alike(gradients(compiled_model(make_model)), expected)


def two_ranks() -> None:
    """A job for torchrun: gradients dealt out while they come, and FSDP2's, of compiled blocks and of written ones."""
    ranks = RUNTIME.mesh
    assert ranks is not None
    compile.enabled, compile.BACKEND = lambda _: True, "aot_eager"
    for sharded in (False, True):
        norms = []
        for compiled in (False, True):
            config = ModelConfig(448, 32, 3, 4, 2, 8, 48, 64)
            model = Transformer(config, torch.bfloat16)
            init_weights(model, torch.Generator().manual_seed(0))
            if compiled:
                counters.clear()
                compile.compile_blocks(model)
            model.dtype = torch.float32
            if sharded:
                fsdp.shard(model, ranks)
            optimizer = MuonAdamW(model, Rates(0.02, 0.05, 0.01, 0.005), torch.float32, ranks)
            for step in range(3):
                ids = torch.randint(448, (2, 19), generator=torch.Generator().manual_seed(step + 10 * ranks.get_rank()))
                hidden = model(ids[:, :-1], DOCUMENTS)
                total, _ = loss.weighted_nll(hidden, model.lm_head.weight, ids[:, 1:], torch.ones(2, 18) / 72)
                optimizer.prepare_for_backward()
                total.backward()
                norms.append(optimizer.clip_gradients(1.0))
                optimizer.step(1.0, torch.tensor(True))
                optimizer.zero_grad()
        assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"], counters
        assert_close(norms[3:], norms[:3], atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_two_ranks_train_compiled_as_they_do_written() -> None:
    job = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__]
    result = subprocess.run(job, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr


if __name__ == "__main__":
    two_ranks()
    RUNTIME.close()
