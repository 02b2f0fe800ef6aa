"""A chat format is one class: found by name, saved with a model, and named nowhere else."""

import pickle
import re
import sys
from pathlib import Path

import pytest
import torch

import lanbot
from lanbot.chat.formats import get_format, load_format, special_names
from lanbot.chat.formats.base import ChatFormat
from lanbot.chat.formats.lanbot import LanBotFormat
from lanbot.chat.messages import chat, output, python, text
from lanbot.core.errors import UserError
from lanbot.inference.engine import Engine
from lanbot.inference.sampling import Sampling
from lanbot.models.weights import load_model, save_model
from lanbot.tokenizers.bpe import BPETokenizer
from lanbot.tokenizers.bpe_training import train

OTHER = '''
"""ChatML, with calls between <tool> and </tool>, answered between <result> and </result>."""

from lanbot.chat.formats.base import ChatFormat, Rendered, StreamParser
from lanbot.chat.messages import parts

TAGS = {"python": ("<tool>", "</tool>"), "output": ("<result>", "</result>")}


class Small(ChatFormat):
    name = "small:Small"
    special_tokens = ("<|im_start|>", "<|im_end|>", "<|end|>", "<tool>", "</tool>", "<result>", "</result>")
    bos_token, end_token, pad_token, stop_names = "<|end|>", "<|im_end|>", "<result>", ("<|im_end|>", "<|end|>")
    template = "{% for m in messages %}<|im_start|>{{ m.role }}\\n{{ m.content }}<|im_end|>{% endfor %}"

    def render_message(self, message, encode):
        ids = [self.tokenizer.special["<|im_start|>"], *encode(message["role"] + "\\n")]
        mask, own = [0] * len(ids), int(message["role"] == "assistant")
        for part in parts(message):
            tags = [self.tokenizer.special[tag] for tag in TAGS.get(part["type"], ())]
            body = [*tags[:1], *encode(part["text"]), *tags[1:]]
            ids, mask = ids + body, mask + [own and part["type"] != "output"] * len(body)
        return Rendered([*ids, self.end_of_turn], [*mask, own])

    def start_of_answer(self):
        return [self.tokenizer.special["<|im_start|>"], *self.tokenizer.encode("assistant\\n")]

    def stream(self):
        special = self.tokenizer.special
        return StreamParser(self.tokenizer, *({special[TAGS[kind][i]]: kind for kind in TAGS} for i in (0, 1)))

    def forced_output(self, results, room, kind="python"):
        first, last = (self.tokenizer.special[tag] for tag in TAGS["output"])
        return [first, *self.tokenizer.encode(results[0])[: room - 2], last]
'''


def test_a_format_from_outside_works_end_to_end(make_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    assert len(OTHER.strip().splitlines()) < 40
    (tmp_path / "small.py").write_text(OTHER, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    kind = get_format("small:Small")
    conversation = chat("What is 2+3?", [text("It is "), python("2+3"), output("5"), text("5.")])
    chat_format = kind(train(["What is 2+3? It is 5. assistant user"] * 3, 270, kind.special_tokens))
    ids, mask = chat_format.render(conversation)
    model = make_model(vocab_size=chat_format.tokenizer.vocab_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    tokens, counted = torch.tensor([ids]), torch.tensor(mask[1:], dtype=torch.bool)
    for _ in range(80):
        loss = torch.nn.functional.cross_entropy(
            model.logits(model(tokens[:, :-1]))[0][counted], tokens[0, 1:][counted]
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_model(model, tmp_path / "model")
    chat_format.save(tmp_path / "model")

    loaded = load_format(tmp_path / "model")
    assert isinstance(loaded, kind) and loaded.render(conversation) == (ids, mask)
    engine = Engine(load_model(tmp_path / "model", torch.float32, torch.device("cpu")), loaded)
    completion = engine.generate([loaded.prompt_of(conversation)], Sampling(max_tokens=30))[0]
    assert (completion.finished, completion.calls) == ("stop", 1)
    assert loaded.parse(completion.ids, completion.sampled) == conversation["messages"][-1]
    sys.modules.pop("small")


@pytest.mark.parametrize("name", ["lanbit", "no_such_module:Format", "lanbot.core.errors:UserError"])
def test_a_format_that_is_not_there_is_an_error(name: str) -> None:
    with pytest.raises(UserError, match=re.escape(name)):
        get_format(name)


def test_a_tokenizer_without_the_formats_tokens_is_refused() -> None:
    with pytest.raises(UserError, match=r"chat format lanbot: .*<\|output_end\|>"):
        LanBotFormat(BPETokenizer.of_bytes(LanBotFormat.special_tokens[:-1]))


def test_a_saved_format_is_the_same(chat_format: ChatFormat, tmp_path: Path) -> None:
    chat_format.save(tmp_path / "new" / "folder")
    loaded = load_format(tmp_path / "new" / "folder")
    assert type(loaded) is LanBotFormat and loaded.tokenizer.special == chat_format.tokenizer.special
    (tmp_path / "new" / "folder" / "tokenizer_config.json").unlink()
    assert type(load_format(tmp_path / "new" / "folder")) is LanBotFormat


def test_a_format_that_has_rendered_can_be_sent_to_another_process() -> None:
    chat_format = LanBotFormat(BPETokenizer.of_bytes(LanBotFormat.special_tokens))
    messages = chat("2+2?", [python("2+2"), output("4"), text("4.")])["messages"]
    first = chat_format.prompt(messages)
    assert chat_format.prompt(messages) == first
    assert pickle.loads(pickle.dumps(chat_format)).prompt(messages) == first


def test_files_are_utf8_whatever_the_locale(chat_format: ChatFormat, tmp_path: Path) -> None:
    chat_format.save(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes().decode("utf-8")


def test_outside_of_chat_nothing_names_a_special_token_or_a_format() -> None:
    package = Path(lanbot.__file__).parent
    concrete = re.compile(r"chat\.formats\.(?!base\b)\w+|chat\.formats import [^\n]*\blanbot\b")
    found = [
        f"{path.relative_to(package)}: {match}"
        for path in package.rglob("*.py")
        if path.relative_to(package).parts[0] != "chat"
        for source in [path.read_text(encoding="utf-8")]
        for match in [*concrete.findall(source), *(name for name in special_names() if name in source)]
    ]
    assert found == []
