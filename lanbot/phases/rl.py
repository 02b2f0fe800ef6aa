"""The RL phase: policy gradient on sampled answers, rewarded by the tasks' checkers.

On-policy REINFORCE with the group's mean reward as baseline: GRPO without clipping, KL penalty and division by the
standard deviation (Shao et al. 2024; Liu et al. 2025 on why not to divide). Groups whose rewards are all equal have no
gradient and are dropped. The loss is normalised by the sampled tokens of the whole batch.
"""

import json
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from lanbot.config.recipe import RL
from lanbot.config.run import Run
from lanbot.core.console import Progress, say
from lanbot.core.files import write_atomic
from lanbot.data.packing import Batch
from lanbot.distributed.runtime import Runtime
from lanbot.evals.task_eval import pass_at
from lanbot.inference.engine import Completion, Engine
from lanbot.inference.sampling import Sampling
from lanbot.phases.chat import start_from
from lanbot.phases.phase import Phase
from lanbot.tasks.mixture import Mixture, sample_rows
from lanbot.tasks.registry import make_task
from lanbot.tasks.task import Task, TaskContext
from lanbot.training.schedule import wsd
from lanbot.training.trainer import Trainer

PASS_K = 8
LOGPROB_GAP = 0.05
"""Warn above this mean |log p of the engine - log p of the trainer|: training would be off-policy."""


class RLPhase(Phase):
    """Reinforcement learning with checked answers."""

    name = "rl"
    description = "was rewarded for correct answers"
    Settings = RL
    rewards = True

    def train(self, run: Run, runtime: Runtime) -> None:
        train_rl(run, runtime)

    def results(self, run: Run) -> dict[str, Any]:
        return {"pass": run.read(self.name, "pass.json")}


@dataclass(frozen=True)
class Rollout:
    completion: Completion
    reward: float
    advantage: float


def train_rl(run: Run, runtime: Runtime) -> None:
    """Trains the RL phase of a run, or resumes it. Writes pass.json: pass@1 and pass@8 before and after.

    `seconds` in its metrics is the time of steps (sampling, rewards, update) without evaluation and checkpoints.
    """
    trainer = start_from(run, "rl", runtime)
    settings = run.recipe.rl
    chat_format, seed = trainer.chat_format, run.recipe.seed
    questions = Mixture(settings.mixture, run.recipe.identity, chat_format, seed, options=run.options)
    bad = questions.leave_out_bad_rows()
    engine = Engine(trainer.model, chat_format)
    measure(run, engine, runtime, "before")
    trainer.resume()
    line = Progress("rl", settings.steps, "%", first=trainer.step)
    with trainer.running(line) as stop:
        while trainer.step < settings.steps:
            began = time.monotonic()
            engine.refresh()
            groups = roll_out(engine, questions, settings, trainer.step, seed, runtime)
            kept = informative(groups)
            batch = policy_batch(kept, chat_format.bos)
            sampled_tokens = int(runtime.sum(sum(sum(r.completion.sampled) for r in kept)))
            scale = wsd(trainer.step / settings.steps, settings.warmup, settings.decay)
            result = None
            if sampled_tokens:
                result = trainer.update(batch.scaled(1 / sampled_tokens), scale)
            else:  # all groups are uninformative: no update in this step
                trainer.step += 1
            figures = {"lr_scale": scale, "sampled_tokens": sampled_tokens, "bad": bad}
            if result is not None:
                figures |= {"loss": result.loss.item(), "grad_norm": result.grad_norm.item()}
                trainer.count(bool(result.finite))
            seconds = time.monotonic() - began
            trainer.seconds += seconds
            figures["step_seconds"] = seconds
            line.show(trainer.step, *log(trainer, settings, groups, result.nll if result else None, figures))
            if result is not None:
                values = f"loss {figures['loss']}, gradient norm {figures['grad_norm']}"
                trainer.check(trainer.step, values, lambda: f"question {trainer.step * settings.prompts:,}")
            trainer.end_step(stop, dict)
        trainer.save({})
        trainer.finish(stop)
    engine.refresh()
    measure(run, engine, runtime, "after")


def informative(groups: list[list[Rollout]]) -> list[Rollout]:
    """The rollouts of groups whose rewards differ; in the others every advantage is 0."""
    return [rollout for group in groups if len({r.reward for r in group}) > 1 for rollout in group]


def roll_out(
    engine: Engine, questions: Mixture, settings: RL, step: int, seed: int, runtime: Runtime
) -> list[list[Rollout]]:
    """This rank's groups of answers of a step, rewarded by the tasks, with advantages reward - group mean."""
    numbers = [step * settings.prompts + i for i in range(settings.prompts)][runtime.rank :: runtime.size]
    items = [questions.item(number % len(questions)) for number in numbers]
    G, room = settings.group_size, engine.model.config.context
    prompts = [engine.chat_format.prompt_of(task.conversation(row)) for task, row in items]
    usable = [i for i, prompt in enumerate(prompts) if len(prompt) < room]
    completions = engine.generate(
        [prompts[i] for i in usable for _ in range(G)],
        Sampling(settings.max_tokens, temperature=1.0),
        seed=seed,
        keys=[f"rl/{numbers[i]}/{g}" for i in usable for g in range(G)],
    )
    groups = []
    for g, i in enumerate(usable):
        task, row = items[i]
        answers = completions[g * G : g * G + G]
        messages = [engine.chat_format.parse(answer.ids, answer.sampled) for answer in answers]
        rewards = [float(task.check(row, message)) for message in messages]
        mean = sum(rewards) / G
        groups.append([Rollout(a, r, r - mean) for a, r in zip(answers, rewards, strict=True)])
    return groups


def policy_batch(rollouts: list[Rollout], bos: int) -> Batch:
    """Rollouts as a batch whose weighted NLL is minus the policy gradient's objective (not yet normalised).

    A token's weight is its rollout's advantage if the model sampled it, and 0 in prompts and forced outputs.
    """
    width = max((len(r.completion.prompt) + len(r.completion.ids) for r in rollouts), default=2)
    tokens = np.full((len(rollouts), width), bos, dtype=np.int64)
    weights = np.zeros((len(rollouts), width), dtype=np.float32)
    for row, rollout in enumerate(rollouts):
        prompt, ids = rollout.completion.prompt, rollout.completion.ids
        tokens[row, : len(prompt) + len(ids)] = prompt + ids
        weights[row, len(prompt) : len(prompt) + len(ids)] = np.multiply(rollout.completion.sampled, rollout.advantage)
    documents = np.zeros_like(tokens[:, :-1])  # padding is at the end, so no token attends to it
    return Batch(tokens[:, :-1], tokens[:, 1:], weights[:, 1:], documents)


def measure(run: Run, engine: Engine, runtime: Runtime, when: str) -> None:
    """Measures pass@1 and pass@k on held-out questions of the mixture's tasks, once, and writes pass.json."""
    path = run.phase("rl") / "pass.json"
    known = run.read("rl", "pass.json")
    if when in known:
        return
    settings, recipe = run.recipe.rl, run.recipe
    items: list[tuple[Task, int]] = []
    available: dict[str, int] = {}
    share = -(-settings.eval_questions // len(settings.mixture))
    parts = len(settings.mixture)
    for k, part in enumerate(settings.mixture):  # several parts may share a task: each takes different rows
        task = make_task(part.task, "test", TaskContext(recipe.identity, options=run.options))
        available[part.task] = len(task)
        items += [(task, row) for row in sample_rows(task, share * parts, recipe.seed)[k::parts]]
    label = f"rl: pass@{PASS_K} {when}"
    scores = pass_at(engine, items, (1, PASS_K), PASS_K, settings.max_tokens, 1.0, recipe.seed, label, runtime=runtime)
    if len(items) < (total := sum(available.values())):
        scores = {name: replace(score, items=total) for name, score in scores.items()}
    if runtime.main:
        say(f"rl, {when}: " + ", ".join(f"{name} {score}" for name, score in scores.items()))
        if when == "before" and scores[f"pass@{PASS_K}"].score < 0.02:
            say(f"rl: pass@{PASS_K} is below 2%: there are hardly any rewards to learn from")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps({**known, when: {k: s.json() for k, s in scores.items()}}, indent=1) + "\n")


def log(
    trainer: Trainer, settings: RL, groups: list[list[Rollout]], nll: Tensor | None, figures: dict[str, float]
) -> list[str]:
    """Writes the step's metrics, reduced over all ranks; returns the figures of the progress line."""
    answers = [r for group in groups for r in group]
    gaps = logprob_gaps(informative(groups), nll)
    local = {
        "answers": len(answers),
        "reward": sum(r.reward for r in answers),
        "tokens": sum(len(r.completion.ids) for r in answers),
        "calls": sum(r.completion.calls for r in answers),
        "finished": sum(r.completion.finished == "stop" for r in answers),
        "groups": len(groups),
        "too_long": settings.prompts / trainer.runtime.size - len(groups),
        "dropped": len(groups) - len(informative(groups)) // settings.group_size,
        "gap": sum(gaps),
        "gaps": len(gaps),
    }
    total = {name: trainer.runtime.sum(float(value)) for name, value in local.items()}
    n = max(1.0, total["answers"])
    trainer.tokens += int(total["tokens"])
    reward, dropped = total["reward"] / n, total["dropped"] / max(1.0, total["groups"])
    rate = total["tokens"] / figures["step_seconds"]
    progress = trainer.step / settings.steps
    if total["gaps"]:
        gap = total["gap"] / total["gaps"]
        figures = {**figures, "logprob_gap": gap}
        if gap > LOGPROB_GAP and trainer.runtime.main:
            say(f"rl, step {trainer.step:,}: log probabilities of engine and trainer differ by {gap:.3f} on average")
    trainer.metrics.write(
        step=trainer.step, progress=progress, reward=reward, dropped_groups=dropped,
        too_long=round(total["too_long"]), mean_tokens=total["tokens"] / n,
        calls=total["calls"] / n, finished=total["finished"] / n,
        tokens=trainer.tokens, seconds=trainer.seconds, tokens_per_second=rate, skipped=trainer.skipped, **figures,
    )  # fmt: skip
    return [
        f"step {trainer.step:,} of {settings.steps:,}",
        f"reward {reward:.3f}",
        f"{trainer.skipped:,} updates skipped" if trainer.skipped else "",
        f"dropped {dropped:.0%}",
        f"{total['tokens'] / n:.0f} tokens an answer, {rate:,.0f} tok/s",
    ]


def logprob_gaps(rollouts: list[Rollout], nll: Tensor | None) -> list[float]:
    """|log p of the engine - log p of the trainer| of each sampled token; rounding errors if on-policy."""
    if nll is None:
        return []
    gaps = []
    for rollout, row in zip(rollouts, nll.cpu().tolist(), strict=True):
        completion = rollout.completion
        trained = row[len(completion.prompt) - 1 :]
        for sampler, loss, sampled in zip(completion.logprobs, trained, completion.sampled, strict=False):
            if sampled:
                gaps.append(abs(sampler + loss))
    return gaps
