"""The course of RL as a table of a report: reward, groups, lengths, entropy and speeds over the phase."""

from typing import Any

from lanbot.report.tables import Row

COLUMNS = {
    "reward": ("reward", "{:.3f}"),
    "correct": ("right", "{:.3f}"),
    "dropped_groups": ("all equal", "{:.0%}"),
    "mean_tokens": ("tokens", "{:.0f}"),
    "calls": ("calls", "{:.2f}"),
    "entropy": ("entropy", "{:.3f}"),
    "kl": ("KL", "{:.4f}"),
    "clipped": ("clipped", "{:.1%}"),
    "logprob_gap": ("gap", "{:.4f}"),
    "rollout_tokens_per_second": ("rollout tok/s", "{:,.0f}"),
    "update_tokens_per_second": ("update tok/s", "{:,.0f}"),
}
"""Of the course of RL: title and form of each figure. Terms of the reward follow under their own names."""
NOTE = (
    "Each row is a step, or the mean of several. Reward ± the standard error of a step's mean; all equal: groups with "
    "nothing to learn from; entropy in nats of a sampled token; gap: mean difference between the log probabilities of "
    "sampler and trainer. rollouts.jsonl in the phase's folder has rollouts of the last steps to read."
)


def course_table(report: dict[str, Any], phase: str) -> tuple[Row, list[Row]]:
    """Header and rows of the course of a phase with rewards, with the columns that were measured."""
    course = report["rl"][phase]
    terms = dict.fromkeys(name for row in course for name in row if name.startswith("term_"))
    columns = {name: of for name, of in COLUMNS.items() if any(name in row for row in course)}
    columns |= {name: (name.removeprefix("term_"), "{:+.3f}") for name in terms}
    rows: list[Row] = []
    for row in course:
        cells = [form.format(row[name]) if name in row else "" for name, (_, form) in columns.items()]
        cells[0] += f" ± {row['reward_error']:.3f}" if "reward_error" in row else ""
        steps = f"{row['first']:,}" + (f" to {row['last']:,}" if row["last"] > row["first"] else "")
        rows.append((steps, *cells))
    return ("steps", *(title for title, _ in columns.values())), rows
