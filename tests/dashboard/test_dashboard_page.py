"""The dashboard's page in a browser, over runs that train while it is looked at."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from browser import serious
from made_runs import Made, line

from lanbot.config.run import FAILED

expect = pytest.importorskip("playwright.sync_api").expect

EVIL = '<img src=x onerror="window.hacked=1"><b>x<b>'


def score(value: float, n: int = 50) -> dict[str, Any]:
    return {
        "score": value,
        "n": n,
        "stderr": 0.02,
        "chance": 0.25,
        "parts": {EVIL: {"score": 0.5, "n": 9, "stderr": 0.1}},
    }


def evaluated(value: float) -> dict[str, Any]:
    answer = {"role": "assistant", "content": [{"type": "python", "text": "1+1"}, {"type": "text", "text": EVIL}]}
    samples = [{"prompt": [{"role": "user", "content": f"Who are you? {EVIL}"}], "answer": answer}]
    training = {"peak_memory_bytes": 3 << 30}
    return {"checkpoint": "step_000100", "description": EVIL, "tasks": {"identity": score(value)}, "val_bpb": 1.25,
            "samples": samples, "training": training}  # fmt: skip


@pytest.fixture
def two(made: Made) -> Made:
    """One run that is finished up to rl, and one in the middle of base."""
    for name in ("done", "young"):
        made.run(name)
        made.done(name, "tokenizer")
    for i, phase in enumerate(("base", "mid")):
        made.lines(
            "done", phase, [{"step": 0, "val_bpb": 2.0, "seconds": 0, "tokens": 0}, *(line(n) for n in range(1, 101))]
        )
        made.done("done", phase, **evaluated(0.5 + i / 10))
    steps = [line(n, reward=n / 200, entropy=0.1) for n in range(1, 101)]
    made.lines("done", "rl", [{name: value for name, value in one.items() if name != "bpb"} for one in steps])
    rollout = {"answer": "84", "reward": 1.0, "advantage": 0.5, "tokens": 3, "calls": 1, "finished": "stop"}
    rollouts = [json.dumps({"step": n // 10, "question": f"q{n} {EVIL}"} | rollout) + "\n" for n in range(10, 1_000)]
    (made.root / "done" / "rl" / "rollouts.jsonl").write_text("".join(rollouts))
    made.lines("young", "base", [line(n) for n in range(1, 41)])
    return made


def figures(page: Any) -> list[str]:
    return page.locator("figure:visible h3").evaluate_all("all => all.map((one) => one.firstChild.textContent)")


def test_two_runs_side_by_side(two: Made, open_page) -> None:
    page = open_page()
    page.wait_for_selector("[data-complete]", state="attached")
    expect(page.locator("#lead")).to_have_text("2 stopped")
    assert figures(page) == ["Loss", "Bits per byte", "Reward", "Utilisation", "Speed"]
    loss = page.locator("figure").first
    expect(loss.locator(".line:not(.key)")).to_have_count(3)  # base and mid of the one, base of the other; not rl's
    expect(loss.locator(".key")).to_have_count(2)
    assert loss.locator(".key").nth(0).evaluate("one => one.className") != loss.locator(".key").nth(1).evaluate(
        "one => one.className"
    )
    row = page.locator("#rows tr").nth(1)
    assert row.locator("td").all_inner_texts()[:5] == ["■ stopped", "base", "40\nof 100", "3.028", ""]
    page.get_by_label("young", exact=True).uncheck()
    expect(loss.locator(".key")).to_have_count(1)
    assert loss.locator("svg text.middle", has_text="mid").count() == 1  # the phases of one run
    page.get_by_label("rl", exact=True).check()
    assert figures(page) == ["Reward", "Utilisation", "Speed"]
    page.get_by_text("More curves").click()
    assert "Entropy" in figures(page)
    page.get_by_label("FLOPs").check()
    expect(page.locator("#no-curves")).to_be_visible()  # RL's tokens are sampled
    page.get_by_label("all", exact=True).check()
    expect(loss).to_be_visible()
    page.reload()
    page.wait_for_selector("[data-complete]", state="attached")
    assert page.get_by_label("FLOPs").is_checked() and not page.get_by_label("young", exact=True).is_checked()


def test_it_follows_a_run_that_trains_goes_back_fails_and_is_deleted(two: Made, open_page) -> None:
    page = open_page()
    step = page.locator("#rows tr").nth(1).locator("td").nth(2)
    expect(step).to_have_text("40of 100")
    path = two.lines("young", "base", [line(n) for n in range(41, 61)])
    expect(step).to_have_text("60of 100")
    with path.open("a") as file:
        file.write('{"step": 61, "lo')  # half of a line
    two.lines("young", "base", [line(n, loss=9.0) for n in range(1, 31)], mode="w")
    expect(step).to_have_text("30of 100")
    expect(page.locator("figure").first.locator(".key", has_text="young").locator("b")).to_have_text("9.000")
    (two.root / "young" / FAILED).write_text(json.dumps({"problem": EVIL}))
    expect(page.locator("#rows .problem:visible")).to_have_text(EVIL)
    two.run("new")
    expect(page.locator("#rows .name")).to_have_text(["done", "new", "young"])
    shutil.rmtree(two.root / "young")
    expect(page.locator("#rows .name")).to_have_text(["done", "new"])
    expect(page.locator("figure").first.locator(".key")).to_have_count(1)
    assert not page.locator("#trouble").is_visible()


def test_names_and_texts_of_runs_never_become_html(made: Made, open_page) -> None:
    made.run(EVIL.replace("/", ""))
    name = EVIL.replace("/", "")
    made.done(name, "tokenizer")
    made.lines(name, "base", [line(n) for n in range(1, 50)])
    made.done(name, "base", **evaluated(0.5))
    kept = {"checkpoint": "step_000100", "core": 0.0512, "stderr": 0.01, "limit": 50}
    (made.root / name / "base" / "core.json").write_text(json.dumps(kept))
    page = open_page()
    expect(page.locator("#rows .name")).to_have_text(name)
    expect(page.locator("#details")).to_contain_text("0.0512 ± 0.0100 at most 50 items a task")
    expect(page.locator("#details dd").first).to_contain_text(EVIL)
    expect(page.locator("#details")).to_contain_text("calls 1+1")
    assert page.locator("main img").count() == 0
    assert page.evaluate("window.hacked") is None


def test_a_closer_look_and_back(made: Made, open_page) -> None:
    made.run()
    made.lines("one", "base", [line(n, loss=50.0 if n == 5_000 else 2.0, progress=n / 9_000) for n in range(1, 9_001)])
    page = open_page()
    page.wait_for_selector("[data-complete]", state="attached")
    plot = page.locator(".plot").first
    page.get_by_label("steps", exact=True).check()
    expect(plot).to_have_attribute("aria-valuemax", "9000")
    assert plot.locator("text.end").last.text_content() in ("50", "60")  # one step in 9,000 is seen
    box = plot.bounding_box()
    with page.expect_response("**/api/curves?*from=*"):
        page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 100)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 100, steps=4)
        page.mouse.up()
    expect(page.get_by_role("button", name="Zoom out")).to_be_visible()
    low, high = (float(plot.get_attribute(f"aria-value{end}")) for end in ("min", "max"))
    assert 3_500 < low < 5_000 < high < 6_500
    expect(plot.locator("path.spread")).to_have_count(0)  # every step has a pixel
    plot.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert low < float(plot.get_attribute("aria-valuenow")) < high
    assert plot.get_attribute("aria-valuetext").endswith(": one 2.000")
    page.keyboard.press("Escape")
    expect(plot).to_have_attribute("aria-valuemax", "9000")
    page.get_by_label("logarithmic").check()
    expect(plot.locator("text.end").first).to_have_text("2")
    page.locator("#smooth").fill("10")
    expect(page.locator("#smooth-shown")).to_have_text("5.0%")


def test_smoothing_weighs_steps_and_moves_nothing_that_is_flat(made: Made, open_page) -> None:
    made.run()
    page = open_page()
    found = page.evaluate(
        """async () => {
          const chart = document.querySelector("script").src.replace("app.js", "chart.js");
          const { smoothed, nearest } = await import(chart);
          const x = [0, 1, 2, 3, 4];
          return [
            smoothed({ x, mean: [1, 1, 1, 1, 1] }, 2.5),
            smoothed({ x, mean: [0, 0, 10, 0, 0], count: [1, 1, 8, 1, 1] }, 2),
            smoothed({ x, mean: [5, 4, 3, 2, 1] }, 0),
            [-1, 0.4, 0.6, 3.9, 9].map((one) => nearest(x, one)),
          ];
        }"""
    )
    assert found == [[1] * 5, [0, 8, 8, 8, 0], [5, 4, 3, 2, 1], [0, 0, 1, 4, 4]]


def test_samples_and_rollouts_over_time(two: Made, open_page) -> None:
    page = open_page()
    rollouts = page.locator(".rollouts li")
    expect(rollouts).to_have_count(10)
    expect(rollouts.first).to_contain_text(f"q990 {EVIL}")
    expect(page.locator(".walk output")).to_have_text("step 99 of 99")
    page.get_by_label("Step of rl").focus()
    page.keyboard.press("ArrowLeft")
    expect(rollouts.first).to_contain_text("q980 ")
    changed = page.locator(".changed dl > div")
    expect(changed.locator("dt")).to_have_text(["base", "mid"])
    cells = page.locator("#details table tr", has_text="identity").first.locator("td")
    expect(cells).to_have_text(["0.500 ± 0.020", "0.600 ± 0.020", "50", "0.25"])


def test_a_sample_is_called_one_until_all_is_read(two: Made, open_page, monkeypatch) -> None:
    from lanbot.dashboard import metrics_file

    monkeypatch.setattr(metrics_file, "AT_ONCE", 0)
    monkeypatch.setattr(metrics_file.Background, "add", lambda self, file: None)
    page = open_page("young")
    page.wait_for_selector("[data-ready]", state="attached")
    expect(page.locator("#reading")).to_contain_text(
        "young, base: a sample of 40 lines while the file is read, 0% so far"
    )
    expect(page.locator("figure").first.locator(".key")).to_contain_text("a sample")
    monkeypatch.setattr(metrics_file, "AT_ONCE", 1 << 20)
    page.wait_for_selector("[data-complete]", state="attached")
    expect(page.locator("#reading")).not_to_be_visible()


def test_no_runs_and_no_answer_are_said(made: Made, open_page) -> None:
    page = open_page()
    expect(page.locator("#lead")).to_contain_text("No runs in ")
    made.run("first")
    expect(page.locator("#rows .name")).to_have_text(["first"])
    expect(page.locator("#no-curves")).to_be_visible()
    page.route("**/api/runs", lambda route: route.abort())
    expect(page.get_by_role("alert")).to_contain_text("does not answer")
    page.unroute("**/api/runs")
    expect(page.locator("#trouble")).not_to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_people_who_cannot_see_it_can_use_it(two: Made, open_page, scheme: str) -> None:
    page = open_page(color_scheme=scheme)
    page.wait_for_selector("[data-complete]", state="attached")
    expect(page.locator(".rollouts li")).to_have_count(10)
    page.get_by_text("More curves").click()
    assert serious(page) == []


def test_a_phone(two: Made, open_page, tmp_path: Path) -> None:
    page = open_page(width=360, has_touch=True)
    page.wait_for_selector("[data-complete]", state="attached")
    expect(page.locator(".rollouts li")).to_have_count(10)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert serious(page) == []


def test_axes_have_a_few_round_numbers(made: Made, open_page) -> None:
    made.run()
    page = open_page()
    found = page.evaluate(
        """async () => {
          const figures = document.querySelector("script").src.replace("app.js", "figures.js");
          const { ticks, logTicks, count, duration, figure } = await import(figures);
          const ranges = [[0, 1], [1.2, 2.4], [0, 3e-9], [-5, 5], [1.99, 2.01]];
          return [
            ranges.map(([low, high]) => ticks(low, high, 7).places.length),
            ticks(0, 7000, 8, true).places.slice(0, 3),
            [[1, 1000], [1e-6, 1e6], [2, 2.1]].map(([low, high]) => logTicks(low, high).length),
            [count(999.6), count(999999), count(2.36e6), count(1.5e15), duration(3725), figure(0.00004), figure(NaN)],
          ];
        }"""
    )
    assert all(3 <= n <= 8 for n in found[0]), found
    assert found[1] == [0, 900, 1_800]
    assert all(2 <= n <= 12 for n in found[2]), found
    assert found[3] == ["1K", "1M", "2.36M", "1.5e15", "1h02m", "4.0e-5", ""]
