"""The server under load: a full queue, many clients, deadlines, clients that leave, many requests at once."""

import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from lanbot.inference.sampling import Sampling
from lanbot.web.security import Access

SLOW = {"slow": ["x" * 120]}


def asked(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], "max_tokens": 400, **more}


def post(url: str, body: dict[str, Any], key: str = "") -> httpx2.Response:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx2.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=60)


def metric(url: str, name: str, key: str = "") -> float:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    found = re.search(rf"^lanbot:{re.escape(name)} (\S+)$", httpx2.get(f"{url}/metrics", headers=headers).text, re.M)
    assert found, name
    return float(found[1])


def until(holds: Any, seconds: float = 20.0) -> None:
    """Waits for what must come; the time is only that after which it never will."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_full_queue_says_when_to_come_again(make_engine, serve) -> None:
    engine = make_engine(SLOW)
    engine.seconds = 0.01
    url = serve(engine, queue=2, together=1)
    with ThreadPoolExecutor(3) as pool:
        asks = []
        for i in range(3):  # one is generated, two wait
            asks.append(pool.submit(post, url, asked("slow")))
            until(lambda i=i: metric(url, "num_requests_running") + metric(url, "num_requests_waiting") == i + 1)
        refused = post(url, asked("slow", stream=True))
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) > 0
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert [ask.result().status_code for ask in asks] == [200, 200, 200]


def test_one_client_with_many_requests_does_not_hold_up_another(make_engine, serve) -> None:
    engine = make_engine({"slow": ["x" * 40], "quick": ["done"]})
    engine.seconds = 0.005
    url = serve(engine, Access(("first", "second")), together=1)
    ended: list[str] = []

    def ask(key: str, text: str) -> int:
        code = post(url, asked(text), key).status_code
        ended.append(key)
        return code

    with ThreadPoolExecutor(9) as pool:
        many = [pool.submit(ask, "first", "slow") for _ in range(8)]
        until(lambda: metric(url, "num_requests_waiting", "first") == 7)
        assert pool.submit(ask, "second", "quick").result() == 200
        assert ended.count("first") <= 2, "the one that was generated, and perhaps one that ended meanwhile"
        assert {one.result() for one in many} == {200}


def test_a_full_queue_makes_room_for_another_client(make_engine, serve) -> None:
    engine = make_engine({"slow": ["x" * 80], "quick": ["done"]})
    engine.seconds = 0.01
    url = serve(engine, Access(("first", "second")), together=1, queue=4)
    with ThreadPoolExecutor(8) as pool:
        many = [pool.submit(post, url, asked("slow"), "first") for _ in range(5)]
        until(lambda: metric(url, "num_requests_waiting", "first") == 4)
        other = pool.submit(post, url, asked("quick"), "second")
        assert other.result().status_code == 200
        assert sorted(one.result().status_code for one in many) == [200, 200, 200, 200, 429]


def test_a_deadline_ends_what_is_generated_and_what_waits(make_engine, serve) -> None:
    engine = make_engine(SLOW)
    engine.seconds = 0.02
    url = serve(engine, seconds=1.0, together=1)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(post, url, asked("slow")) for _ in range(2)]
        for one in both:
            assert one.result().status_code == 504
            assert "not finished within 1 s" in one.result().json()["error"]["message"]
    until(lambda: not engine.live)
    assert metric(url, "num_requests_running") == metric(url, "num_requests_waiting") == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_its_request(make_engine, serve, stream) -> None:
    engine = make_engine({"slow": ["x" * 10_000]}, context=16_384)
    engine.seconds = 0.01
    url = serve(engine)
    body = asked("slow", stream=stream, max_tokens=10_000)
    if stream:
        with httpx2.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as answer:
            next(answer.iter_lines())
    else:
        with pytest.raises(httpx2.TimeoutException):
            httpx2.post(f"{url}/v1/chat/completions", json=body, timeout=0.5)
    until(lambda: engine.steps > 0 and not engine.live)
    assert metric(url, 'request_success_total{finished_reason="abort"}') == 1


def test_a_client_that_leaves_the_queue_is_not_answered(make_engine, serve) -> None:
    engine = make_engine(SLOW)
    engine.seconds = 0.01
    url = serve(engine, together=1)
    first = threading.Thread(target=post, args=(url, asked("slow")))
    first.start()
    until(lambda: metric(url, "num_requests_running") == 1)
    with pytest.raises(httpx2.TimeoutException):
        httpx2.post(f"{url}/v1/chat/completions", json=asked("slow"), timeout=0.3)
    until(lambda: metric(url, "num_requests_waiting") == 0)
    first.join()
    until(lambda: not engine.live)
    assert metric(url, "generation_tokens_total") == 121, "those of the first one"


def test_a_fault_of_the_engine_fails_its_requests_and_no_others(make_engine, serve) -> None:
    engine = make_engine({"Say hello": ["Hello"]})
    url = serve(engine)
    step, engine.step = engine.step, lambda: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    assert post(url, asked("Say hello")).status_code == 500
    engine.step = step  # type: ignore[method-assign]
    assert post(url, asked("Say hello")).json()["choices"][0]["message"]["content"] == "Hello"
    assert httpx2.get(f"{url}/health").status_code == 200


def test_metrics_count_what_happened(make_engine, serve) -> None:
    url = serve(make_engine({"Say hello": ["Hello"]}))
    for _ in range(2):
        post(url, asked("Say hello, you who read this line"))
    assert metric(url, "generation_tokens_total") == 12
    assert metric(url, "time_to_first_token_seconds_count") == metric(url, "e2e_request_latency_seconds_count") == 2
    assert metric(url, "inter_token_latency_seconds_count") == 10
    assert metric(url, 'inter_token_latency_seconds_bucket{le="+Inf"}') == 10
    assert 0 < metric(url, "prefix_cache_hits_total") < metric(url, "prefix_cache_queries_total")


def requests_of_all_kinds(n: int) -> list[dict[str, Any]]:
    return [
        asked(
            f"Question {i} of many",
            max_tokens=2 + i % 7,
            temperature=0.0 if i % 3 else 1.0,
            seed=i,
            n=1 + (i % 7 == 0),
            stream=i % 2 == 1,
            **({"stop": ["a"]} if i % 5 == 0 else {}),
        )
        for i in range(n)
    ]


def texts(answer: httpx2.Response) -> list[str]:
    if "event-stream" not in answer.headers["content-type"]:
        return [choice["message"]["content"] for choice in answer.json()["choices"]]
    found: dict[int, str] = {}
    lines = [line for line in answer.text.split("\n\n") if line]
    assert lines.pop() == "data: [DONE]"
    for line in lines:
        for choice in json.loads(line.removeprefix("data: "))["choices"]:
            found[choice["index"]] = found.get(choice["index"], "") + choice["delta"].get("content", "")
    return [found[i] for i in sorted(found)]


@pytest.mark.parametrize("count", [150, pytest.param(10_000, marks=pytest.mark.slow)])
def test_no_request_is_lost_or_mixed_up(make_engine, serve, count) -> None:
    engine = make_engine(context=128)
    bodies = requests_of_all_kinds(count)
    alone = []
    for body in bodies:
        prompt = engine.chat_format.prompt(body["messages"])
        stop = tuple(body.get("stop", ()))
        sampling = Sampling(body["max_tokens"], body["temperature"], stop=stop)
        made = [engine.generate([prompt], sampling, body["seed"], keys=[str(i)])[0] for i in range(body["n"])]
        said = [
            "".join(
                part["text"]
                for part in engine.chat_format.parse(one.ids, one.sampled)["content"]
                if part["type"] == "text" or part.get("invented")
            )
            for one in made
        ]
        alone.append([min((text.partition(one)[0] for one in stop), default=text) for text in said])
    url = serve(engine, queue=count)
    with httpx2.Client(timeout=600, limits=httpx2.Limits(max_connections=64)) as http, ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda body: http.post(f"{url}/v1/chat/completions", json=body), bodies))
    assert {answer.status_code for answer in answers} == {200}
    assert [texts(answer) for answer in answers] == alone
