"""TensorBoard: event files in the phase's folder. `tensorboard --logdir runs` shows every phase of every run."""

from collections.abc import Sequence
from textwrap import indent

from lanbot.config import recipe_file
from lanbot.training.sinks.sink import Place, Sink

CODE = "    "
"""Before each line of a text: Markdown leaves it as it is."""


class TensorBoard(Sink):
    name = "tensorboard"

    def __init__(self, place: Place) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # an earlier process may have written more than it remembered: that is sent again, and its first copy hidden
        self.writer = SummaryWriter(str(place.folder), purge_step=place.sent + 1)
        if place.sent < 0:
            self.writer.add_text("recipe", indent(recipe_file.dump(place.recipe), CODE), 0)

    def figures(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def samples(self, step: int, rows: Sequence[tuple[str, str]]) -> None:
        shown = (f"{indent(asked, CODE)}\n\n*answered*\n\n{indent(said, CODE)}" for asked, said in rows)
        self.writer.add_text("samples", "\n\n---\n\n".join(shown), step)

    def flush(self) -> None:
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()
