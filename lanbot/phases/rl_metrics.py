"""What RL writes down: a line of metrics a step, warnings, the line of progress."""

import time
from collections.abc import Sequence

from lanbot.config.recipe import RL
from lanbot.core.console import Progress, say
from lanbot.inference.engine import Completion
from lanbot.phases.rl_samples import Samples
from lanbot.phases.rollouts import Group, Questions, informative, is_informative, mean_error
from lanbot.training.policy_batch import logprob_gaps
from lanbot.training.policy_gradient import PolicyStep
from lanbot.training.trainer import Trainer

LOGPROB_GAP = 0.05
"""Warn above this mean |log p of the engine - log p of the trainer|: training would be off-policy."""


class RLLog:
    """`seconds` in the metrics is the time of steps (sampling, rewards, update) without evaluation and checkpoints."""

    def __init__(self, trainer: Trainer, settings: RL, questions: Questions, bad: int) -> None:
        """bad: rows that were left out of the mixture."""
        self.trainer, self.settings, self.questions, self.bad = trainer, settings, questions, bad
        self.name = trainer.phase.name
        self.samples = Samples(trainer.phase, trainer.step, trainer.runtime)
        self.line = Progress(self.name, settings.steps, "%", first=trainer.step)

    def begin(self) -> None:
        """A step begins."""
        self.began = self.sampled = time.monotonic()

    def rolled_out(self) -> None:
        """Its answers are there and rewarded; the update begins."""
        self.sampled = time.monotonic()

    def step(self, groups: Sequence[Group], done: PolicyStep) -> None:
        """Writes a step's metrics, of all ranks. Raises UserError after too many skipped updates in a row."""
        result = done.result
        trainer, settings, runtime = self.trainer, self.settings, self.trainer.runtime
        figures = {"lr_scale": done.scale, "sampled_tokens": done.tokens, "bad": self.bad, **done.figures}
        if result is not None:
            figures |= {"loss": result.loss.item(), "grad_norm": result.grad_norm.item()}
        now = time.monotonic()
        seconds, rollout_seconds, update_seconds = now - self.began, self.sampled - self.began, now - self.sampled
        trainer.seconds += seconds
        local = self._local(groups, done)
        total = {name: runtime.sum(float(value)) for name, value in local.items()}
        n, generated = max(1.0, total["answers"]), total["tokens"]
        trainer.tokens += int(generated)
        means = runtime.gather([sum(one.reward for one in group) / len(group) for group in groups])
        reward, dropped = total["reward"] / n, total["dropped"] / max(1.0, total["groups"])
        figures["step_seconds"] = seconds
        if total["gaps"]:
            figures["logprob_gap"] = total["gap"] / total["gaps"]
            self._warn(figures["logprob_gap"])
        if settings.terms:
            figures["correct"] = total["right"] / n
            figures |= {f"term_{name}": total[name] / n for name in settings.terms}
        trainer.metrics.write(
            step=trainer.step, progress=trainer.step / settings.steps, reward=reward, reward_error=mean_error(means),
            dropped_groups=dropped, too_long=round(total["too_long"]), mean_tokens=generated / n,
            calls=total["calls"] / n, finished=total["finished"] / n,
            entropy=total["surprise"] / max(1.0, total["sampled"]),
            tokens=trainer.tokens, seconds=trainer.seconds, tokens_per_second=generated / seconds,
            rollout_tokens_per_second=generated / max(rollout_seconds, 1e-9),
            update_tokens_per_second=total["learned"] / max(update_seconds, 1e-9),
            skipped=trainer.skipped, **figures,
        )  # fmt: skip
        self.samples.write(trainer.step, groups)
        self.line.show(
            trainer.step,
            f"step {trainer.step:,} of {settings.steps:,}",
            f"reward {reward:.3f}",
            f"{trainer.skipped:,} updates skipped" if trainer.skipped else "",
            f"dropped {dropped:.0%}",
            f"{generated / n:.0f} tokens an answer, {generated / seconds:,.0f} tok/s",
        )
        if result is not None:
            values = f"loss {figures['loss']}, gradient norm {figures['grad_norm']}"
            trainer.check(trainer.step, values, lambda: f"question {self.questions.position:,}")

    def _local(self, groups: Sequence[Group], done: PolicyStep) -> dict[str, float]:
        """This rank's sums."""
        answers = [one for group in groups for one in group]
        turns = [turn for one in answers for turn in one.turns]
        learned = [turn for one in informative(groups) for turn in one.turns]
        gaps = logprob_gaps(learned, done.result.nll if done.result else None, done.places)
        return {
            "answers": len(answers),
            "reward": sum(one.reward for one in answers),
            "right": sum(one.right for one in answers),
            **{name: sum(one.terms.get(name, 0.0) for one in answers) for name in self.settings.terms},
            "tokens": sum(len(turn.ids) for turn in turns),
            "sampled": sum(sum(turn.sampled) for turn in turns),
            "surprise": -sum(sum(turn.logprobs) for turn in turns),
            "learned": sum(_length(turn) for turn in learned),
            "calls": sum(turn.calls for turn in turns),
            "finished": sum(all(turn.finished == "stop" for turn in one.turns) for one in answers),
            "groups": len(groups),
            "too_long": self.questions.asked - len(groups),
            "dropped": sum(not is_informative(group) for group in groups),
            "gap": sum(gaps),
            "gaps": len(gaps),
        }

    def _warn(self, gap: float) -> None:
        if gap > LOGPROB_GAP and self.trainer.runtime.main:
            where = f"{self.name}, step {self.trainer.step:,}"
            say(f"{where}: log probabilities of engine and trainer differ by {gap:.3f} on average")


def _length(turn: Completion) -> int:
    return len(turn.prompt) + len(turn.ids)
