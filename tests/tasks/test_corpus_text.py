"""Raw text in a mixture: whole documents under loss, in the corpus' order, beside conversations."""

from pathlib import Path

import pytest

from lanbot.chat.formats.base import ChatFormat
from lanbot.config.recipe import Identity, MixturePart
from lanbot.core.errors import UserError
from lanbot.data.loader import ChatLoader
from lanbot.tasks.mixture import Mixture
from lanbot.tasks.registry import make_task


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in ("train", "val"):
        (folder / f"{name}.jsonl").write_text("".join(f'{{"text": "{name} text {i}."}}\n' for i in range(50)))
    return folder


def test_all_of_a_document_is_under_loss_but_its_first_token(texts: Path, chat_format: ChatFormat) -> None:
    task = make_task(f"corpus:{texts}", "train")
    ids, mask = task.rendered(3, chat_format)
    assert ids[0] == chat_format.bos and mask == [0] + [1] * (len(ids) - 1)
    assert chat_format.tokenizer.decode(ids[1:]).startswith("train text ")
    assert chat_format.tokenizer.decode(make_task(f"corpus:{texts}", "test").rendered(0, chat_format)[0]).count("val")


def test_rows_are_the_same_in_any_order_and_beyond_the_end(texts: Path) -> None:
    task = make_task(f"corpus:{texts}", "train")
    there = [task.conversation(i)["messages"][0]["content"] for i in range(120)]
    assert len(set(there[:50])) == 50 and set(there[50:100]) == set(there[:50])
    for i in (7, 3, 3, 119, 0):
        assert task.conversation(i)["messages"][0]["content"] == there[i]


def test_a_mixture_takes_the_first_documents_and_resumes_with_the_same(texts: Path, chat_format: ChatFormat) -> None:
    parts = (MixturePart(f"corpus:{texts}", rows=20), MixturePart("identity", rows=20))
    mixture = Mixture(parts, Identity(), chat_format, 0)
    assert sorted(int(row) for row, k in zip(mixture.rows, mixture.which, strict=True) if k == 0) == list(range(20))
    loader = ChatLoader(mixture, chat_format.bos, 2, 64)
    loader.next_batch()
    resumed = ChatLoader(Mixture(parts, Identity(), chat_format, 0), chat_format.bos, 2, 64)
    resumed.load_state(loader.state())
    for _ in range(3):
        one, other = loader.next_batch(), resumed.next_batch()
        assert one is not None and other is not None
        assert (one.ids == other.ids).all() and (one.weights == other.weights).all()


def test_a_corpus_needs_its_data() -> None:
    with pytest.raises(UserError, match="corpus"):
        make_task("corpus", "train")
    with pytest.raises(UserError, match="nowhere"):
        make_task("corpus:nowhere", "train")
