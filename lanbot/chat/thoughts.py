"""What a model thought before its answer: <think> ... </think> at the beginning of a text."""

from collections.abc import Iterable

TAGS = ("<think>", "</think>")


def written(thought: str) -> str:
    """A thought as it stands in the text of an answer, before the rest."""
    return f"{TAGS[0]}\n{thought}\n{TAGS[1]}\n\n"


class Thoughts:
    """Splits an answer's text, as it comes, into the thought that it may begin with and the rest."""

    def __init__(self) -> None:
        self.state, self.held = "before", ""

    def split(self, text: str) -> Iterable[tuple[str, str]]:
        """More text: pieces of "reasoning" and of "text"."""
        opening, closing = TAGS
        text, self.held = self.held + text, ""
        if self.state == "before":
            begun = text.lstrip()
            if begun.startswith(opening):
                self.state, text = "opened", begun.removeprefix(opening)
            elif opening.startswith(begun):
                self.held = text
                return
            else:
                self.state = "text"
        if self.state == "opened" and (text := text.lstrip("\n")):
            self.state = "thought"
        if self.state == "opened":
            return
        if self.state == "thought":
            thought, found, after = text.partition(closing)
            if not found:
                sure = text[: len(text) - overlap(text, closing)].rstrip("\n")
                self.held = text[len(sure) :]
                yield "reasoning", sure
                return
            yield "reasoning", thought.rstrip("\n")
            self.state, text = "after", after
        if self.state == "after":
            text = text.lstrip("\n")
            if not text:
                return
            self.state = "text"
        yield "text", text

    def end(self) -> Iterable[tuple[str, str]]:
        """What was held back, as it might have become a tag."""
        held, self.held = self.held, ""
        yield "reasoning" if self.state == "thought" else "text", held


def overlap(text: str, word: str) -> int:
    """The length of the longest end of the text that begins the word, but is not all of it."""
    return next((n for n in range(min(len(word) - 1, len(text)), 0, -1) if text.endswith(word[:n])), 0)
