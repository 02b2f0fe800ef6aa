"""The licences of open weights: by their card, unless their shape is that of a model under a stricter one."""

from pathlib import Path

import pytest

from lanbot.models.config import ModelConfig
from lanbot.models.licences import LICENCES, licence_of, stated_in

ROW = {"n_heads": 16, "n_kv_heads": 2, "head_dim": 128, "context": 32_768}


def config(family: str, dim: int, n_layers: int, vocab_size: int) -> ModelConfig:
    return ModelConfig(family=family, dim=dim, n_layers=n_layers, vocab_size=vocab_size, mlp_dim=4 * dim, **ROW)


@pytest.mark.parametrize(
    ("family", "dim", "layers", "vocab", "stated", "expected"),
    [
        ("qwen2", 896, 24, 151_936, "apache-2.0", "apache-2.0"),
        ("qwen2", 2_048, 36, 151_936, "apache-2.0", "qwen-research"),
        ("qwen2", 2_048, 36, 151_936, "qwen-research", "qwen-research"),
        ("qwen2", 8_192, 80, 152_064, "", "qwen"),
        ("qwen3", 2_560, 36, 151_936, "apache-2.0", "apache-2.0"),
        ("llama", 2_048, 16, 128_256, "", "llama3.2"),
        ("llama", 2_048, 16, 128_267, "mit", "llama3.2"),
        ("llama", 4_096, 32, 128_256, "llama3", "llama3"),
        ("llama", 576, 30, 49_152, "apache-2.0", "apache-2.0"),
    ],
)
def test_the_stricter_of_card_and_shape(
    family: str, dim: int, layers: int, vocab: int, stated: str, expected: str
) -> None:
    found = licence_of(stated, config(family, dim, layers, vocab))
    assert found == LICENCES[expected]


def test_an_unknown_licence_keeps_its_name_and_none_is_none() -> None:
    small = config("llama", 64, 2, 512)
    assert licence_of("gemma", small).id == "gemma"  # type: ignore[union-attr]
    assert licence_of("", small) is None


def test_llama_asks_for_its_name_a_notice_and_a_line() -> None:
    licence = LICENCES["llama3.2"]
    assert (licence.prefix, licence.built_with) == ("Llama", "Built with Llama")
    assert licence.notice.startswith("Llama 3.2 is licensed under the Llama 3.2 Community License, Copyright © Meta")


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlicense: apache-2.0\nlanguage:\n- en\n---\n# Model\n", "apache-2.0"),
        ('---\nlibrary_name: x\nlicense: other\nlicense_name: "qwen-research"\n---\n', "qwen-research"),
        ("---\nlanguage: en\n---\nlicense: mit\n", ""),
        ("# Model\nlicense: mit\n", ""),
    ],
)
def test_a_card_states_its_licence_in_its_first_lines(card: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(card)
    assert stated_in(tmp_path / "README.md") == expected
    assert stated_in(tmp_path / "missing.md") == ""
