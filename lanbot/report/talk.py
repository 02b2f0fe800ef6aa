"""The calls in what a model said, as its answers were kept."""

from lanbot.chat.messages import Part, output, python, text

ARROW = " → "


def split_calls(answer: str) -> list[Part]:
    """The parts of an answer that was kept as one text: `That is [2+2 → 4] 4.`

    Brackets inside a call or an output may nest; what is no whole call stays text.
    """
    found: list[Part] = []
    rest = 0
    arrow = answer.find(ARROW)
    while arrow >= 0:
        start = _open(answer, arrow, rest)
        end = _close(answer, arrow + len(ARROW))
        if start is None or end is None:
            arrow = answer.find(ARROW, arrow + 1)
            continue
        found += [text(answer[rest:start])] if start > rest else []
        found += [python(answer[start + 1 : arrow]), output(answer[arrow + len(ARROW) : end])]
        rest = end + 1
        arrow = answer.find(ARROW, rest)
    return found + ([text(answer[rest:])] if rest < len(answer) else [])


def _open(answer: str, at: int, begin: int) -> int | None:
    """The bracket before `at` that is not closed again before it."""
    depth = 0
    for i in range(at - 1, begin - 1, -1):
        depth += {"]": 1, "[": -1}.get(answer[i], 0)
        if depth < 0:
            return i
    return None


def _close(answer: str, at: int) -> int | None:
    """The bracket from `at` on that closes one from before it."""
    depth = 0
    for i in range(at, len(answer)):
        depth += {"[": 1, "]": -1}.get(answer[i], 0)
        if depth < 0:
            return i
    return None
