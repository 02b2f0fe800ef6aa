"""A corpus that lies on the hub: the same as its files in a folder, downloaded as it is read."""

import io
import itertools
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import Hub, answer, slow

from lanbot.chat.formats import load_format
from lanbot.chat.formats.base import ChatFormat
from lanbot.core.errors import UserError
from lanbot.core.options import Options
from lanbot.data import download
from lanbot.data.corpus import Corpus, Position, open_corpus
from lanbot.data.loader import TextLoader
from lanbot.data.prefetch import PrefetchLoader

options = Options.from_environment

SHARDS = 14


def parquet(documents: list[str]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"text": documents}), out, row_group_size=4)
    return out.getvalue()


def jsonl(documents: list[str]) -> bytes:
    return "".join(json.dumps({"text": document}) + "\n" for document in documents).encode()


def shard(i: int) -> str:
    return f"shard_{i:05}.parquet"


def texts(i: int) -> list[str]:
    return [f"shard {i}, document {j}" for j in range(10)]


@pytest.fixture
def server(hub: Hub) -> Hub:
    hub.sets["karpathy/fineweb-edu-100b-shuffle"] = {shard(i): parquet(texts(i)) for i in range(SHARDS)} | {
        "README.md": b"# About",
        "sample.jsonl": jsonl(["not of it"]),
    }
    return hub


EDU = "hf:HuggingFaceFW/fineweb-edu"


def downloaded() -> set[int]:
    """The numbers of the shards that are in the cache."""
    return {int(path.stem[6:]) for path in options().cache.rglob("shard_*.parquet")}


def settle() -> set[int]:
    while download._jobs:
        time.sleep(0.01)
    return downloaded()


def take(corpus: Corpus, count: int, position: Position | None = None) -> list[str]:
    return list(itertools.islice(corpus.documents(position or Position()), count))


def local(server: Hub, folder: Path) -> tuple[Corpus, Corpus]:
    """The same files in a folder."""
    folder.mkdir()
    for name, data in server.sets["karpathy/fineweb-edu-100b-shuffle"].items():
        if name.startswith("shard"):
            (folder / name).write_bytes(data)
    return open_corpus(str(folder), 7)


def test_it_gives_the_documents_of_the_same_files_in_a_folder_in_the_same_order(server: Hub, tmp_path: Path) -> None:
    count = 2 * 10 * (SHARDS - 1) + 25
    (train, held_out), (same, same_held_out) = open_corpus(EDU, 7), local(server, tmp_path / "local")
    documents = take(train, count)
    assert documents == take(same, count)
    assert list(held_out.once()) == list(same_held_out.once()) == texts(SHARDS - 1)
    assert len(server.contents(".parquet")) == SHARDS
    position = Position()
    list(itertools.islice(train.documents(position), 0, 137))
    assert take(train, 50, replace(position)) == documents[137:187]


def test_only_what_is_reached_is_downloaded_and_a_little_ahead(server: Hub) -> None:
    train, held_out = open_corpus(EDU, 7)
    assert not server.contents(".parquet")
    assert list(held_out.once()) and settle() == {SHARDS - 1}
    order = list(range(SHARDS - 1))
    train._shuffle(order, "0")
    reached = []
    for opened in range(1, 6):
        take(train, 10 * opened - 5)
        assert settle() - {SHARDS - 1} >= set(order[: opened + 1])
        reached.append(len(downloaded()) - 1)
    assert reached == [2, 4, 7, 12, 13]


def test_reading_begins_before_later_shards_are_there(server: Hub) -> None:
    train, _ = open_corpus(EDU, 7)
    order = list(range(SHARDS - 1))
    train._shuffle(order, "0")
    server.faults[shard(order[1])] = [slow(30)]
    stream = train.documents(Position())
    first = list(itertools.islice(stream, 10))
    assert sorted(first) == texts(order[0]) and order[1] not in downloaded()
    server.let_go.set()
    assert next(stream) in texts(order[1])


def test_a_missing_shard_is_reported_when_it_is_needed(server: Hub) -> None:
    train, _ = open_corpus(EDU, 7)
    order = list(range(SHARDS - 1))
    train._shuffle(order, "0")
    server.faults[shard(order[1])] = [answer(404)] * 2
    stream = train.documents(Position())
    assert sorted(itertools.islice(stream, 10)) == texts(order[0])
    with pytest.raises(UserError, match=f"karpathy/fineweb-edu-100b-shuffle: {shard(order[1])}: "):
        next(stream)


def test_offline_it_reads_what_is_there_and_names_what_is_missing(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    before = take(open_corpus(EDU, 7)[0], 15)
    settle()
    asked = len(server.asked)
    monkeypatch.setenv("LANBOT_OFFLINE", "1")
    train, _ = open_corpus(EDU, 7)
    assert take(train, 15) == before
    with pytest.raises(UserError, match=r"shard_.*parquet: not in the cache"):
        take(train, 1_000)
    assert len(server.asked) == asked


@pytest.mark.parametrize(
    ("files", "source", "train", "validation"),
    [
        (
            {"data/train-0.parquet": "a", "data/train-1.parquet": "b", "data/test-0.parquet": "c", "r.txt": "d"},
            "hf:some/one",
            "ab",
            "c",
        ),
        ({"train.jsonl": "a", "train2.jsonl": "b", "extra.jsonl": "c", "LICENSE.txt": "d"}, "hf:some/one", "a", ""),
        ({"x/1.jsonl": "a", "x/2.jsonl": "b", "y/3.jsonl": "c", "notes.md": "d"}, "hf:some/one", "ab", "c"),
        ({"x/1.jsonl": "a", "x/2.jsonl": "b", "y/3.jsonl": "c", "xx/4.jsonl": "d"}, "hf:some/one/x", "a", "b"),
        ({"a/b.jsonl": "a", "a.jsonl": "b", "c.jsonl": "c"}, "hf:some/one@main", "ab", "c"),
        ({"1.txt": "a", "2.txt": "b", "3.txt": "c"}, "hf:some/one/", "ab", "c"),
        ({"1.jsonl": "a", "2.jsonl": "b", "val.jsonl": "c", "._1.jsonl": "d"}, "hf:some/one", "ab", "c"),
        ({"1.parquet": "a", "2.jsonl": "b", "3.parquet": "c"}, "hf:some/one/2.jsonl", "b", ""),
    ],
)
def test_which_files_of_a_data_set_are_read(
    files: dict[str, str], source: str, train: str, validation: str, hub: Hub
) -> None:
    """Of each file every document begins with its letter."""
    hub.sets["some/one"] = {
        path: parquet([f"{letter}{i}" for i in range(3)])
        if path.endswith(".parquet")
        else jsonl([f"{letter}{i}" for i in range(3)])
        if path.endswith(".jsonl")
        else letter.encode()
        for path, letter in files.items()
    }
    read = [{document[0] for document in corpus.once()} for corpus in open_corpus(source, 0)]
    assert read == [set(train), set(validation or train)]


def test_a_data_set_without_text_says_what_it_has(hub: Hub) -> None:
    hub.sets["some/pictures"] = {"cats/1.png": b"x", "README.md": b"x"}
    for source in ("hf:some/pictures", "hf:some/pictures/dogs"):
        with pytest.raises(UserError, match=source) as caught:
            open_corpus(source, 0)
        assert "README.md, cats/" in caught.value.remedy


def test_a_file_on_the_hub_that_is_no_text_is_named(hub: Hub) -> None:
    hub.sets["some/one"] = {"a.parquet": b"torn", "b.parquet": parquet(["x"])}
    with pytest.raises(UserError, match=r"a\.parquet: cannot be read as parquet"):
        take(open_corpus("hf:some/one", 0)[0], 1)


def make_loader(source: str, tokenizer: Path) -> TextLoader:
    return TextLoader(open_corpus(source, 7)[0], load_format(tokenizer), rows=2, T=32, steps=40)


def test_the_loaders_process_downloads_and_passes_errors_on(
    server: Hub, tmp_path: Path, chat_format: ChatFormat
) -> None:
    chat_format.save(tmp_path / "tokenizer")
    loader = PrefetchLoader(partial(make_loader, EDU, tmp_path / "tokenizer"))
    try:
        there = [loader.next_batch() for _ in range(12)]
    finally:
        loader.close()
    here = make_loader(EDU, tmp_path / "tokenizer")
    for batch in there:
        mine = here.next_batch()
        assert batch is not None and mine is not None and (batch.ids == mine.ids).all()
    loader = PrefetchLoader(partial(make_loader, "hf:some/none", tmp_path / "tokenizer"))
    try:
        with pytest.raises(UserError, match="no such data set"):
            loader.next_batch()
    finally:
        loader.close()


def test_ranks_that_begin_together_download_each_shard_once(server: Hub) -> None:
    for i in range(SHARDS):
        server.faults[shard(i)] = [slow(0.05)]
    code = f"""if True:
        import itertools
        from lanbot.data.corpus import Position, open_corpus
        train, held_out = open_corpus({EDU!r}, 7)
        print(*itertools.islice(train.documents(Position()), 45), *held_out.once(), sep="\\n")
    """
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=os.environ | {"RANK": str(rank)}
        )
        for rank in range(3)
    ]
    said = [rank.communicate(timeout=60)[0].split("\n") for rank in ranks]
    assert said[0] == said[1] == said[2] and len(said[0]) == 45 + 10 + 1
    assert max(len(server.contents(shard(i))) for i in range(SHARDS)) == 1
    assert sum("/tree/" in asked.path and "cursor" not in asked.path for asked in server.asked) == 1
