"""What is exported, run by llama.cpp itself: the same ids, prompts and tokens as here and in transformers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import HOSTILE
from llama_cpp import ask, needs_llama_cpp
from torch import Tensor

from lanbot.chat.formats import get_format
from lanbot.chat.messages import Message
from lanbot.config.recipe import RopeScaling
from lanbot.config.run import Run
from lanbot.export import export
from lanbot.export.source import Source
from lanbot.models.config import ModelConfig
from lanbot.models.gguf_read import GGUFFile, load
from lanbot.models.gguf_write import write_gguf
from lanbot.models.weights import load_model, save_model
from lanbot.synthetic import world
from lanbot.tokenizers import load_tokenizer
from lanbot.tokenizers.bpe_training import train

pytestmark = needs_llama_cpp
NEAR = 1e-3
"""Logits nearer than this are a tie between two implementations in fp32."""
CPU = torch.device("cpu")
KINDS = {"f16": (1e-4, 0.98), "bf16": (1e-3, 0.94), "q8_0": (1e-2, 0.94)}
"""Of each type, the largest mean KL divergence from fp32 in nats, and the smallest agreement in the first token."""
Logits = Callable[[list[int]], Tensor]


@pytest.fixture
def bot(run: Run) -> Source:
    return Source.of_run(run, "sft")


@pytest.fixture
def prompts(bot: Source) -> list[list[int]]:
    questions = (world.document("test", i)[:60].strip() for i in range(50))
    return [bot.chat_format.prompt([{"role": "user", "content": question}]) for question in questions]


def gguf_of(source: Source, kind: str) -> Path:
    assert source.run is not None
    return export(source, "gguf", kind, source.run.folder / "export" / "gguf") / f"bot-{kind}.gguf"


def in_lanbot(folder: Path) -> Logits:
    model = load_model(folder, torch.float32, CPU)
    return torch.no_grad()(lambda ids: model.logits(model(torch.tensor([ids])))[0])


def in_transformers(folder: Path) -> Logits:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return torch.no_grad()(lambda ids: model(torch.tensor([ids])).logits[0])


def ties(prompts: list[list[int]], answers: list[list[int]], logits: Logits) -> int:
    """How many of llama.cpp's tokens are the second choice of `logits`, by a hair; any other difference fails. Each
    token is chosen after the same tokens, so without a tie the answers are equal."""
    counted = 0
    for prompt, answer in zip(prompts, answers, strict=True):
        choices = logits([*prompt, *answer])[len(prompt) - 1 : -1]
        behind = choices.amax(-1) - choices.gather(-1, torch.tensor(answer)[:, None])[:, 0]
        assert behind.max() < NEAR
        counted += int((behind > 0).sum())
    return counted


def test_a_demo_made_model_answers_alike_everywhere(bot: Source, prompts: list[list[int]], tmp_path: Path) -> None:
    answers = [answer["ids"] for answer in ask(gguf_of(bot, "f32"), greedy=prompts)["greedy"]]
    assert len({token for answer in answers for token in answer}) > 100
    folder = export(bot, "hf", "f32", tmp_path / "hf")
    assert ties(prompts, answers, in_lanbot(folder)) <= 3
    assert ties(prompts, answers, in_transformers(folder)) <= 3


def test_real_stories_are_alike_everywhere(stories: Path, tmp_path: Path) -> None:
    write_gguf(stories, tmp_path / "stories.gguf", "f32", "stories")
    tokenizer = load_tokenizer(stories)
    names = ("Tim", "Lily", "Ben", "Sue", "a cat", "the dog", "a red ball", "Mom", "the sun", "one day")
    openings = [f"{start} {name}" for name in names for start in ("Once", "When", "Today", "Oh no,", "Then")]
    prompts = [[1, *tokenizer.encode(opening)] for opening in openings]
    answers = [answer["ids"] for answer in ask(tmp_path / "stories.gguf", greedy=prompts)["greedy"]]
    assert ties(prompts, answers, in_lanbot(stories)) <= 3
    assert ties(prompts, answers, in_transformers(stories)) <= 3


def divergence(found: Tensor, expected: Tensor) -> float:
    """The mean KL divergence in nats."""
    kl = torch.nn.functional.kl_div(found.log_softmax(-1), expected.log_softmax(-1), log_target=True, reduction="none")
    return float(kl.sum(-1).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_smaller_types_answer_nearly_alike(bot: Source, prompts: list[list[int]], kind: str) -> None:
    most, agreement = KINDS[kind]
    exact = in_lanbot(bot.folder)
    expected = torch.stack([exact(prompt)[-1] for prompt in prompts])
    found = torch.tensor(ask(gguf_of(bot, kind), logits=prompts)["logits"])
    assert 0 < divergence(found, expected) < most
    assert (found.argmax(-1) == expected.argmax(-1)).float().mean() >= agreement


def test_a_demo_built_tokenizer_makes_the_same_ids_of_hostile_text(bot: Source) -> None:
    tokenizer, texts = load_tokenizer(bot.folder), [*HOSTILE.values(), *(world.document("test", i) for i in range(50))]
    assert ask(gguf_of(bot, "q8_0"), tokenize=texts)["tokenize"] == [tokenizer.encode(text) for text in texts]


def test_a_sentencepiece_tokenizer_makes_the_same_ids_of_hostile_text(stories: Path, tmp_path: Path) -> None:
    write_gguf(stories, tmp_path / "stories.gguf", "q8_0", "stories")
    tokenizer, texts = load_tokenizer(stories), [text for text in HOSTILE.values() if text]
    assert ask(tmp_path / "stories.gguf", tokenize=texts)["tokenize"] == [tokenizer.encode(text) for text in texts]


CHATS: list[list[Message]] = [
    [{"role": "user", "content": "Hello,  you!\n"}],
    [
        {"role": "system", "content": "You are {{ Robi }}.\n\n"},
        {"role": "user", "content": "2+2? 🐈"},
        {"role": "assistant", "content": " 4.\r\n"},
        {"role": "user", "content": ""},
    ],
]


@pytest.mark.parametrize("name", ["lanbot", "chatml", "qwen2.5", "qwen3", "smollm2", "llama3"])
@pytest.mark.parametrize("default", [None, "You are Robi, made by Ada."])
def test_the_chat_template_renders_the_same_prompt(  # type: ignore[no-untyped-def]
    name: str, default: str | None, make_model, tmp_path: Path
) -> None:
    kind = get_format(name)
    chat = kind(train((world.document("train", i) for i in range(50)), 400, kind.special_tokens))
    chat = chat if default is None else chat.with_default(default)
    save_model(make_model(vocab_size=400), tmp_path)
    chat.save(tmp_path)
    write_gguf(tmp_path, tmp_path / "m.gguf", "f16", name)
    rendered = ask(tmp_path / "m.gguf", render=CHATS)["render"]
    assert rendered == [chat.tokenizer.decode(chat.prompt(messages)) for messages in CHATS]
    assert ask(tmp_path / "m.gguf", parse=rendered)["parse"] == [chat.prompt(messages) for messages in CHATS]


QUESTIONS = (
    "What is the capital of France?",
    "Write a haiku about rain.",
    "2 + 2 * 3 = ?",
    "Name three birds.",
    "¿Qué es un gato?",
)


@pytest.mark.slow
def test_smollm2_answers_alike_in_full_and_nearly_in_8_bits(smollm2: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    file, folder = GGUFFile(smollm2), tmp_path / "model"
    (tmp_path / "config.json").write_text(json.dumps(file.config))
    save_model(load(file, ModelConfig.from_hf(tmp_path / "config.json")), folder)
    text, config = file.tokenizer()
    (folder / "tokenizer.json").write_text(text)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
    prompts = [tokenizer.apply_chat_template(c, add_generation_prompt=True, return_dict=False) for c in chats]
    write_gguf(folder, tmp_path / "f32.gguf", "f32", "smollm2")
    answers = [answer["ids"] for answer in ask(tmp_path / "f32.gguf", greedy=prompts)["greedy"]]
    exact = in_lanbot(folder)
    assert ties(prompts, answers, exact) <= 1
    assert ties(prompts, answers, in_transformers(folder)) <= 1
    write_gguf(folder, tmp_path / "q8_0.gguf", "q8_0", "smollm2")
    found = torch.tensor(ask(tmp_path / "q8_0.gguf", logits=prompts)["logits"])
    expected = torch.stack([exact(prompt)[-1] for prompt in prompts])
    assert divergence(found, expected) < 5e-2
    assert (found.argmax(-1) == expected.argmax(-1)).sum() >= len(QUESTIONS) - 1


SCALED = RopeScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=64)


@pytest.mark.parametrize(
    "changes",
    [
        {"family": "qwen2"},
        {"family": "qwen3", "tie_embeddings": True},
        {"family": "llama", "tie_embeddings": True},
        {"family": "llama", "rope_scaling": SCALED},
    ],
    ids=["qwen2", "tied qwen3", "tied llama", "scaled llama"],
)
def test_each_family_reads_a_long_prompt_alike(
    make_model, demo_format, changes: dict[str, Any], tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    sizes = {"dim": 64, "n_heads": 4, "head_dim": 16, "mlp_dim": 96, "context": 512, "vocab_size": 1_024}
    save_model(make_model(**sizes, **changes), tmp_path)
    demo_format.save(tmp_path)
    write_gguf(tmp_path, tmp_path / "m.gguf", "f32", "m")
    prompt = demo_format.tokenizer.encode(" ".join(world.document("test", i) for i in range(9)))[:400]
    expected = in_lanbot(tmp_path)(prompt)[-1]
    found = torch.tensor(ask(tmp_path / "m.gguf", logits=[prompt])["logits"][0])
    assert len(prompt) == 400
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
