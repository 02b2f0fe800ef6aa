"""Hand-made events of a conversation with an agent."""

from lanbot.agent.events import Asked, Called, Calling, Ended, Event, Replied
from lanbot.chat.messages import python, text

COUNT = '"cheese".count("e")'


def turn(request: str, answer: str, calls: tuple[tuple[str, str], ...] = (), first: int = 1) -> list[Event]:
    """A turn that was answered after some calls: (code, output). first: the number of the first call."""
    events: list[Event] = [Asked(request)]
    for number, (code, result) in enumerate(calls, first):
        events += [
            Replied([text("Let me see. "), python(code)], "call", 100, 60, 14, 0.5, 0.001),
            Calling(number, code),
            Called(number, result, 0.25),
        ]
    return [*events, Replied([text(answer)], "stop", 130, 110, 8, 0.25, 0.002), Ended("answered")]


CHEESE = turn("How many e are in cheese?", "There are 3.", ((COUNT, "3"),))
TEA = turn("What is tea?", "A drink.")
