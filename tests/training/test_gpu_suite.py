"""The GPU benchmark runs from end to end, at toy sizes, where there is nothing but torch and numpy."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_suite.py"
ABSENT = ("rustbpe", "tiktoken", "tokenizers", "cyclopts", "rich", "pyarrow", "safetensors", "huggingface_hub")
ALONE = f"""
import runpy, sys
sys.modules |= dict.fromkeys({ABSENT}, None)
sys.argv[1:] = ["--smoke", "--out", {{out!r}}]
sys.path.insert(0, {str(SCRIPT.parents[1])!r})
runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
"""


def test_both_parts_run_with_torch_and_numpy_alone(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", ALONE.format(out=str(out))], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(out.read_text())
    failed = {name: section["failed"] for name, section in results.items() if "failed" in section}
    assert failed.keys() == {"d12 fp8", "d20 fp8"}, failed
    assert all("has no fp8 matrix products" in reason for reason in failed.values())
    assert {"machine", "right", "attention", "d12", "d12 as written", "d12 by 8 rows", "d20", "curve"} <= results.keys()

    right = results["right"]
    assert right["fp32"]["logits_relative_difference"] < 1e-4 and right["fp32"]["least_cosine_of_gradients"] > 0.9999
    assert right["16 bits"]["logits_relative_difference"] < 0.05
    documents = right["documents"]
    assert documents["moved_in_it"] == documents["changed_tokens"] > 0 == documents["moved_elsewhere"]
    assert right["bad batch"] == {"skipped": True, "next_update_taken": True, "steps": 2}

    speed = results["d12"]
    assert 0 < speed["utilisation"] < 1.2 and speed["tokens_per_second"] > 0
    assert {"forward", "head and loss", "backward", "update", "rest"} == speed["parts_ms"].keys()
    curve = results["curve"]
    assert curve["floor"] < curve["loss"] < curve["points"][0]["loss"]
