"""The RL phase: policy gradient on sampled answers, rewarded by the tasks' checkers.

On-policy REINFORCE with the group's mean reward as baseline: GRPO without clipping, KL penalty and division by the
standard deviation (Shao et al. 2024; Liu et al. 2025 on why not to divide); a recipe may add each. Groups whose rewards
are all equal have no gradient and are dropped. The loss is normalised by the sampled tokens of the whole batch.
"""

from typing import Any

from lanbot.config.recipe import RL
from lanbot.config.run import Run
from lanbot.distributed.runtime import Runtime
from lanbot.inference.engine import Engine
from lanbot.phases.chat import start_from
from lanbot.phases.phase import Phase
from lanbot.phases.rl_metrics import RLLog
from lanbot.phases.rl_pass import FILE, measure, measure_if_due
from lanbot.phases.rollouts import Group, Questions, informative, roll_out, score, turns_of, with_advantages
from lanbot.tasks.mixture import Mixture
from lanbot.training.policy_gradient import PolicyGradient
from lanbot.training.schedule import wsd


class RLPhase(Phase):
    """Reinforcement learning with checked answers."""

    name = "rl"
    description = "was rewarded for correct answers"
    Settings = RL
    rewards = True

    def train(self, run: Run, runtime: Runtime) -> None:
        train_rl(run, runtime, self.name)

    def results(self, run: Run) -> dict[str, Any]:
        return {"pass": run.read(self.name, FILE)}


class AgentRLPhase(RLPhase):
    """The same on other tasks, programs among them, after rl or in its place: see `start_from`."""

    name = "agent_rl"
    description = "was rewarded for correct answers and programs"
    may_skip = ("rl",)


def train_rl(run: Run, runtime: Runtime, phase: str = "rl") -> None:
    """Trains an RL phase of a run, or resumes it. Writes pass.json: pass@1 and pass@8 before and after."""
    trainer = start_from(run, phase, runtime)
    settings: RL = getattr(run.recipe, phase)
    seed = run.recipe.seed
    mixture = Mixture(settings.mixture, run.recipe.identity, trainer.chat_format, seed, options=run.options)
    bad = mixture.leave_out_bad_rows()
    questions = Questions(mixture, settings, runtime)
    engine = Engine(trainer.model, trainer.chat_format)
    policy = PolicyGradient(trainer, settings)
    measure(run, phase, engine, runtime, "before")
    if (state := trainer.resume()) is not None:
        questions.load_state(state)
    log = RLLog(trainer, settings, questions, bad)
    with trainer.running(log.line) as stop:
        while trainer.step < settings.steps:
            measure_if_due(run, phase, engine, runtime, trainer.step)
            log.begin()
            engine.refresh()
            groups: list[Group] = []
            for asked in questions.rounds(groups):
                answers = roll_out(engine, asked, settings, seed)
                groups += with_advantages(score(answers, settings), settings)
            log.rolled_out()
            done = policy.update(turns_of(informative(groups)), scale_at(trainer.step, settings))
            log.step(groups, done)
            trainer.end_step(stop, questions.state)
        trainer.save(questions.state(), last=True)
        trainer.finish(stop)
    engine.refresh()
    measure(run, phase, engine, runtime, "after")


def scale_at(step: int, settings: RL) -> float:
    """Of the learning rates."""
    return wsd(step / settings.steps, settings.warmup, settings.decay, settings.cosine)
