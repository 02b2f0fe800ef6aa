"""The agent: a model that works with tools over many turns.

from lanbot.agent import open_agent

with open_agent("my-bot", workspace="notes", allow=["write_file"]) as agent:
    print(agent.ask("Which of my notes is about tea?").answer)
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lanbot.agent.session import OpenAgent
    from lanbot.tools.permissions import Ask


def open_agent(
    run: str,
    workspace: Path | str | None = None,
    *,
    phase: str = "",
    temperature: float | None = None,
    seed: int = 0,
    allow: Sequence[str] = (),
    ask: Sequence[str] = (),
    deny: Sequence[str] = (),
    asks: "Ask | None" = None,
) -> "OpenAgent":
    """The agent of a run, by its name or folder, or of an endpoint's model: http://HOST/v1#MODEL.

    phase: "" for the latest. temperature: None for the recipe's. allow, ask, deny: rules about calls, besides the
    recipe's. asks: decides about a call; without it, what would be asked is refused. Raises UserError.
    """
    from lanbot.agent.runs import agent_run
    from lanbot.agent.session import Options, open_session

    folder = Path(workspace) if workspace is not None else None
    return open_session(
        agent_run(run), Options(phase, folder, temperature, None, seed, tuple(allow), tuple(ask), tuple(deny), asks)
    )
