"""RL beside TRL's GRPO: the same model, questions, number of samples, rewards, learning rate and optimiser.

    OMP_NUM_THREADS=1 python benchmarks/grpo.py RUN [--steps 40] [--rate 3e-4] [--seeds 0 1] [--ways ours trl ...]

Starts from the run's sft. A question is a word problem of the practised templates that one call solves. The answer ends
with the call, since TRL's plain loop does not answer it, and is right if its result is: both sides do the same job.
Each step samples 8 answers to each of 32 questions and makes one update: REINFORCE with the group's mean as baseline,
without clipping, KL and division by the standard deviation, normalised by the tokens of the batch, AdamW with one
constant rate. (TRL's normalisation counts groups of equal rewards too, a factor that AdamW takes out.) TRL computes in
fp32 as it does by default (`trl`) and with bf16 autocast (`trl bf16`), LanBot in what its runs use (`ours`, `ours
fp32`); `recipe` is LanBot with the run's own optimiser and rates. Rates are per minute of CPU time, which other work on
the machine does not change. Needs the extra `bench`.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor

from lanbot.chat.formats import load_format
from lanbot.chat.messages import Message, parts
from lanbot.config.recipe import MixturePart
from lanbot.config.run import Run
from lanbot.core.console import say, table
from lanbot.distributed.runtime import Runtime
from lanbot.evals.task_eval import evaluate
from lanbot.inference.engine import Engine
from lanbot.models import saved
from lanbot.models.transformer import Transformer
from lanbot.models.weights import load_model
from lanbot.phases.rollouts import Question, informative, roll_out, score, turns_of, with_advantages
from lanbot.tasks.builtin import WordProblems
from lanbot.tools.calculator import answer
from lanbot.training.policy_gradient import PolicyGradient
from lanbot.training.trainer import Trainer

PROMPTS, GROUP, MAX_TOKENS = 32, 8, 40
HELD_OUT = 1_000
WAYS = ("ours", "ours fp32", "recipe", "trl", "trl bf16")


class Calls(WordProblems):
    """Word problems that one call solves; the answer is the call."""

    def __init__(self, split: str, rows: int) -> None:
        super().__init__(split, "practice")
        self.chosen: list[int] = []
        i = 0
        while len(self.chosen) < rows:
            if sum(part["type"] == "python" for part in self.problem_at(i).solution) == 1:
                self.chosen.append(i)
            i += 1

    def problem_at(self, i: int) -> Any:
        return super().problem(i)

    def problem(self, i: int) -> Any:
        return super().problem(self.chosen[i])

    def __len__(self) -> int:
        return len(self.chosen)

    def check(self, i: int, said: Message) -> bool:
        last = (parts(said) or [{"type": "text", "text": ""}])[-1]
        return last["type"] == "python" and not last.get("open") and answer(last["text"]) == self.problem(i).answer


class AdamW:
    """torch's AdamW in place of the trainer's optimiser, with TRL's defaults."""

    def __init__(self, model: Transformer, rate: float) -> None:
        self.parameters = list(model.parameters())
        self.inner = torch.optim.AdamW(self.parameters, rate, weight_decay=0.0)
        self.steps = torch.zeros((), dtype=torch.int64)

    def prepare_for_backward(self) -> None:
        pass

    def clip_gradients(self, clip: float) -> Tensor:
        return torch.nn.utils.clip_grad_norm_(self.parameters, clip)

    def step(self, scale: float, finite: Tensor) -> None:
        self.inner.step()

    def zero_grad(self) -> None:
        self.inner.zero_grad()


@dataclass
class Curve:
    """rewards: the mean of each step. seconds: CPU seconds since training began, at the end of each step."""

    rewards: list[float]
    seconds: list[float]
    held_out: float = 0.0

    def per_minute(self) -> float:
        """Rollouts a minute, without the first step, which warms up."""
        return 60 * PROMPTS * GROUP * (len(self.seconds) - 1) / (self.seconds[-1] - self.seconds[0])


def stop_at_call(code: str) -> None:
    """Answers no call: the turn ends."""


def held_out(model: Transformer, run: Run) -> float:
    """The share of held-out one-call problems, of all templates, that the model gets right."""
    engine = Engine(model, load_format(run.phase("tokenizer")), stop_at_call)
    task = Calls("test", HELD_OUT)
    return evaluate(engine, task, "calls", HELD_OUT, MAX_TOKENS, runtime=Runtime.single()).score


def ours(
    run: Run, start: Path, task: Calls, steps: int, rate: float, seed: int, dtype: torch.dtype | None, recipe: bool
) -> Curve:
    runtime = replace(Runtime.single(), dtype=dtype or Runtime.single().dtype)
    chat_format = load_format(run.phase("tokenizer"))
    settings = replace(
        run.recipe.rl, mixture=(MixturePart("word_problems"),), prompts=PROMPTS, group_size=GROUP, max_tokens=MAX_TOKENS
    )
    with tempfile.TemporaryDirectory() as folder:
        model = load_model(start, runtime.dtype, runtime.device)
        trainer = Trainer(model, chat_format, settings, Path(folder), runtime)
    if not recipe:
        optimizer: Any = AdamW(trainer.model, rate)
        trainer.optimizer = optimizer
    engine, policy = Engine(trainer.model, chat_format, stop_at_call), PolicyGradient(trainer, settings)
    curve, began = Curve([], []), time.process_time()
    for step in range(steps):
        asked = [Question(i, task, i) for i in range(step * PROMPTS, (step + 1) * PROMPTS)]
        engine.refresh()
        groups = with_advantages(score(roll_out(engine, asked, settings, seed), settings), settings)
        policy.update(turns_of(informative(groups)), 1.0)
        curve.rewards.append(mean(one.reward for group in groups for one in group))
        curve.seconds.append(time.process_time() - began)
    return replace(curve, held_out=held_out(trainer.model, run))


def of_trl(run: Run, start: Path, task: Calls, steps: int, rate: float, seed: int, bf16: bool) -> Curve:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    chat_format = load_format(run.phase("tokenizer"))
    curve = Curve([], [])

    def reward(completion_ids: list[list[int]], row: list[int], **_: Any) -> list[float]:
        found = [
            float(task.check(i, chat_format.parse(ids, [1] * len(ids))))
            for ids, i in zip(completion_ids, row, strict=True)
        ]
        curve.rewards.append(mean(found))
        return found

    class Times(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.process_time()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            curve.seconds.append(time.process_time() - self.began)

    model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    model.generation_config.eos_token_id = [*chat_format.stop_tokens, chat_format.tokenizer.special["<|python_end|>"]]
    asked = [task.conversation(i)["messages"][0]["content"] for i in range(steps * PROMPTS)]
    rows = [{"prompt": [{"role": "user", "content": text}], "row": i} for i, text in enumerate(asked)]
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            folder, max_steps=steps, per_device_train_batch_size=PROMPTS * GROUP, num_generations=GROUP,
            max_completion_length=MAX_TOKENS, temperature=1.0, learning_rate=rate, lr_scheduler_type="constant",
            beta=0.0, scale_rewards="none", loss_type="dapo", shuffle_dataset=False, gradient_checkpointing=False,
            use_cpu=True, bf16=bf16, seed=seed, report_to="none", save_strategy="no", logging_strategy="no",
            disable_tqdm=True, dataloader_pin_memory=False,
        )  # fmt: skip
        trainer = GRPOTrainer(
            model, reward, config, Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(start), callbacks=[Times()],
        )  # fmt: skip
        trainer.train()
        model.save_pretrained(folder)
        runtime = Runtime.single()
        return replace(curve, held_out=held_out(load_model(Path(folder), runtime.dtype, runtime.device), run))


def thousands(curve: Curve) -> list[float]:
    """The mean reward of each 1,024 rollouts."""
    n = 1_024 // (PROMPTS * GROUP)
    return [mean(curve.rewards[i : i + n]) for i in range(0, len(curve.rewards) - n + 1, n)]


def spread(values: Sequence[float]) -> str:
    error = f" ± {stdev(values) / len(values) ** 0.5:.3f}" if len(values) > 1 else ""
    return f"{mean(values):.3f}{error}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    run = Run.open(asked.run)
    start = saved.latest(run.phase("sft"))
    assert start, "sft is done"
    task = Calls("train", asked.steps * PROMPTS)
    runs: dict[str, Callable[..., Curve]] = {
        "ours": partial(ours, dtype=None, recipe=False),
        "ours fp32": partial(ours, dtype=torch.float32, recipe=False),
        "recipe": partial(ours, dtype=None, recipe=True),
        "trl": partial(of_trl, bf16=False),
        "trl bf16": partial(of_trl, bf16=True),
    }
    before = held_out(load_model(start, Runtime.single().dtype, torch.device("cpu")), run)
    found: dict[str, list[Curve]] = {way: [] for way in asked.ways}
    for seed in asked.seeds:
        for way in asked.ways:
            found[way].append(runs[way](run, start, task, asked.steps, asked.rate, seed))
            last = found[way][-1]
            say(f"{way}, seed {seed}: {last.per_minute():,.0f} rollouts/min, reward {mean(last.rewards):.3f}")
    rows = []
    for way, curves in found.items():
        by_thousand = [spread(values) for values in zip(*map(thousands, curves), strict=True)]
        rows.append(
            (
                way, f"{mean(curve.per_minute() for curve in curves):,.0f}",
                spread([mean(curve.rewards) for curve in curves]),
                *(by_thousand[i] for i in (0, len(by_thousand) // 2, -1)), spread([curve.held_out for curve in curves]),
            )
        )  # fmt: skip
    header = ("", "rollouts/min", "reward", "first 1,000", "middle", "last", "held out")
    say(f"{run.folder.name}: {PROMPTS} x {GROUP} answers a step, {asked.steps} steps, rate {asked.rate:g}; "
        f"held out before: {before:.3f}")  # fmt: skip
    print(table(rows, header))
    if asked.json:
        print(
            json.dumps({"before": before, **{way: [vars(curve) for curve in of_way] for way, of_way in found.items()}})
        )


if __name__ == "__main__":
    main()
