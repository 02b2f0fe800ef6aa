"""What the hub has: listings, files of data sets and of plain addresses, mirrors, refusals."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hub_server import Hub, answer, sha256

from lanbot.core.errors import UserError
from lanbot.core.options import Options
from lanbot.data import hub

options = Options.from_environment

FILES = {
    "README.md": b"# A set",
    "main/train-00000-of-00002.parquet": random.Random(0).randbytes(5_000),
    "main/train-00001-of-00002.parquet": random.Random(1).randbytes(6_000),
    "main/test-00000-of-00001.parquet": random.Random(2).randbytes(700),
    "notes of mine/ä+b.jsonl": b'{"a": 1}\n',
    "empty.txt": b"",
}
TRAIN = hub.Source("some/one", "main/train-*.parquet", "one/train")


@pytest.fixture
def server(hub: Hub) -> Hub:
    hub.sets["some/one"] = dict(FILES)
    return hub


def refused(source: hub.Source) -> UserError:
    with pytest.raises(UserError) as caught:
        hub.files(source, options())
    assert str(caught.value).count("\n") == 1
    assert caught.value.problem.startswith(source.id)
    return caught.value


def test_the_files_of_a_glob_are_downloaded_and_sorted(server: Hub) -> None:
    paths = hub.files(TRAIN, options())
    names = [f"train-0000{i}-of-00002.parquet" for i in (0, 1)]
    assert [path.name for path in paths] == names
    assert [path.read_bytes() for path in paths] == [FILES[f"main/{name}"] for name in names]
    assert not server.contents("test-00000-of-00001.parquet")


@pytest.mark.parametrize("path", list(FILES))
def test_any_single_file(path: str, server: Hub) -> None:
    (found,) = hub.files(hub.Source("some/one", path, ""), options())
    assert found.read_bytes() == FILES[path]
    assert options().cache in found.parents


def test_the_server_of_these_tests_is_one_that_huggingface_hub_reads_too(server: Hub, tmp_path: Path) -> None:
    """So that what LanBot asks of it is what the real one answers."""
    import huggingface_hub

    api = huggingface_hub.HfApi(endpoint=server.url)
    sha = api.dataset_info("some/one").sha
    tree = list(api.list_repo_tree("some/one", recursive=True, revision=sha, repo_type="dataset"))
    theirs = {
        file.path: (file.size, f"sha256:{file.lfs.sha256}" if file.lfs else f"git:{file.blob_id}")
        for file in tree
        if isinstance(file, huggingface_hub.hf_api.RepoFile)
    }
    ours = hub.listing("some/one", options())
    assert {path: (remote.size, remote.digest) for path, remote in ours.items()} == theirs
    assert theirs.keys() == FILES.keys()
    for path, remote in ours.items():
        assert remote.url == huggingface_hub.hf_hub_url(
            "some/one", path, repo_type="dataset", revision=sha, endpoint=server.url
        )
    for path in ("main/train-00000-of-00002.parquet", "notes of mine/ä+b.jsonl"):
        got = huggingface_hub.hf_hub_download(
            "some/one", path, repo_type="dataset", cache_dir=tmp_path / "theirs", endpoint=server.url
        )
        assert Path(got).read_bytes() == FILES[path]


def test_the_listing_is_asked_for_once_and_pins_the_commit(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    before = hub.listing("some/one", options())
    asked = len(server.asked)
    server.sets["some/one"]["main/train-00000-of-00002.parquet"] = b"another"
    server.sets["some/one"]["main/new.parquet"] = b"new"
    assert hub.listing("some/one", options()) == before and list(before) == sorted(before, key=Path)
    monkeypatch.setenv("LANBOT_OFFLINE", "1")
    assert hub.listing("some/one", options()) == before
    assert len(server.asked) == asked


def test_each_revision_has_its_own_listing(server: Hub) -> None:
    commit = server.commit("some/one")
    (path,) = hub.files(hub.Source(f"some/one@{commit}", "README.md", ""), options())
    assert path.read_bytes() == FILES["README.md"] and commit in str(path)
    assert "no such revision" in refused(hub.Source("some/one@v9", "README.md", "")).problem


def test_a_listing_that_fails_is_asked_for_again(server: Hub) -> None:
    server.faults["api"] = [answer(503), answer(429, Retry_After="0")]
    assert len(hub.files(TRAIN, options())) == 2


def test_offline_without_a_listing_or_a_file(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as context:
        context.setenv("HF_HUB_OFFLINE", "1")
        assert "not in the cache" in refused(TRAIN).problem
    hub.files(TRAIN, options())
    asked = len(server.asked)
    monkeypatch.setenv("LANBOT_OFFLINE", "1")
    assert len(hub.files(TRAIN, options())) == 2
    error = refused(hub.Source("some/one", "main/test-*.parquet", ""))
    assert "main/test-00000-of-00001.parquet: not in the cache" in error.problem and "OFFLINE" in error.remedy
    assert len(server.asked) == asked


def test_the_mirror_answers_for_the_hub(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANBOT_MIRROR", str(tmp_path))
    assert str(tmp_path / "one/train") in refused(TRAIN).problem
    (tmp_path / "one/train").mkdir(parents=True)
    for name in ("b.parquet", "a.parquet"):
        (tmp_path / "one/train" / name).write_bytes(b"x")
    assert [path.name for path in hub.files(TRAIN, options())] == ["a.parquet", "b.parquet"]
    assert hub.files(TRAIN._replace(mirror="one/train/b.parquet"), options()) == [tmp_path / "one/train/b.parquet"]
    assert hub.url_file(f"{server.storage}/plain/words.txt", "one/train/a.parquet", options()).name == "a.parquet"
    assert not server.asked


def test_a_file_at_a_plain_url(server: Hub) -> None:
    server.plain |= {"words.txt": b"one\ntwo\n", "other.txt": b"three\n"}
    for name, data in server.plain.items():
        for _ in range(2):
            assert hub.url_file(f"{server.storage}/plain/{name}?raw=1", "words", options()).read_bytes() == data
        assert len(server.contents(name)) == 1


# -- refusals ----------------------------------------------------------------------------------------------


def test_a_data_set_that_is_not_there(server: Hub) -> None:
    error = refused(hub.Source("some/two", "*", ""))
    assert "no such data set" in error.problem and "log in" in error.remedy
    assert "OWNER/NAME" in refused(hub.Source("gsm8k", "*", "")).remedy
    refused(hub.Source("../secret", "*", ""))


def test_a_file_that_is_not_there_is_refused_with_what_there_is(server: Hub) -> None:
    error = refused(hub.Source("some/one", "data/*.parquet", ""))
    assert "data/*.parquet" in error.problem and "main/" in error.remedy and "README.md" in error.remedy


def test_a_gated_data_set_says_how_to_log_in(server: Hub) -> None:
    server.faults["resolve"] = [answer(401, X_Error_Code="GatedRepo", X_Error_Message="Access is restricted")]
    error = refused(hub.Source("some/one", "README.md", ""))
    assert "gated" in error.problem and "hf auth login" in error.remedy and "datasets/some/one" in error.remedy


def test_the_token_goes_to_the_hub_alone_and_into_no_message(
    server: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    server.plain["words.txt"] = b"one"
    hub.files(TRAIN, options())
    hub.url_file(f"{server.storage}/plain/words.txt", "", options())
    tokens = {name: {asked.token for asked in server.asked if asked.server == name} for name in ("hub", "storage")}
    assert tokens == {"hub": {"Bearer hf_verysecret"}, "storage": {""}}
    server.faults["api"] = [answer(401, X_Error_Message="Invalid credentials in Authorization header")]
    error = refused(hub.Source("some/two", "*", ""))
    assert "does not accept your token" in error.problem
    server.faults["test-00000-of-00001.parquet"] = [answer(403)]
    refusals = [error, refused(hub.Source("some/one", "main/test-*", ""))]
    assert not any("secret" in str(error) for error in refusals) and "secret" not in capsys.readouterr().err


@pytest.mark.parametrize("page", [b"<html>Log in to this cafe's network</html>", b"[]", b"{}", b"null"])
def test_an_answer_that_is_not_the_hubs(page: bytes, server: Hub) -> None:
    server.faults["api"] = [answer(200, page)] * 3  # a thread of the test before may ask too
    assert "does not answer as the hub does" in refused(TRAIN).problem


def test_a_listing_does_not_reach_out_of_the_cache(server: Hub) -> None:
    tree: list[dict[str, Any]] = [
        {"type": "file", "path": path, "size": 1, "oid": "0"} for path in ("../../x.txt", "/etc/x.txt", "fine.txt")
    ]
    server.faults["api"] = [answer(200, json.dumps({"sha": "1"}).encode()), answer(200, json.dumps(tree).encode())]
    assert list(hub.listing("some/one", options())) == ["fine.txt"]


def test_wrong_bytes_of_the_hub_are_never_kept(server: Hub) -> None:
    name = "test-00000-of-00001.parquet"
    server.faults[name] = [answer(200, b"x" * 700)]
    (path,) = hub.files(hub.Source("some/one", f"main/{name}", ""), options())
    assert sha256(path.read_bytes()) == sha256(FILES[f"main/{name}"])
    assert len(server.contents(name)) == 2
