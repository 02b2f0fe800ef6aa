"""The models of a server in memory."""

from typing import Any

import httpx2

from lanbot.web.served import Models, Room, Served


def rooms(budget: float, **sizes: int) -> tuple[Models, list[str]]:
    """The models, and the names of those that were loaded, each time."""
    loaded: list[str] = []
    room = Room(budget)

    def load(name: str) -> Any:
        loaded.append(name)
        return object()

    return Models([Served(name, lambda name=name: load(name), 64, size, room) for name, size in sizes.items()]), loaded


def test_as_many_models_stay_loaded_as_fit_and_the_one_unused_longest_gives_way() -> None:
    models, loaded = rooms(10, base=4, sft=4, rl=4)
    for name in ("base", "sft", "base", "rl"):
        assert models[name].engine is models[name].engine
    assert loaded == ["base", "sft", "rl"]
    _ = models["base"].engine  # was used after sft
    assert loaded == ["base", "sft", "rl"]
    _ = models["sft"].engine
    assert loaded == ["base", "sft", "rl", "sft"]


def test_a_model_larger_than_the_room_is_alone_in_it() -> None:
    models, loaded = rooms(10, small=4, large=40)
    for name in ("small", "large", "large", "small"):
        _ = models[name].engine
    assert loaded == ["small", "large", "small"]


def test_clients_see_a_models_context(make_engine, serve) -> None:
    engine = make_engine(context=256)
    url = serve(engine, models=Models([Served("run/sft", lambda: engine, 256)], {"run": "run/sft"}))
    listed = httpx2.get(f"{url}/v1/models").json()["data"]
    assert [(one["id"], one["root"], one["max_model_len"]) for one in listed] == [
        ("run", "run/sft", 256),
        ("run/sft", "run/sft", 256),
    ]
