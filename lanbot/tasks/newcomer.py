"""What a newcomer asks, written by hand and independent of all generated training data."""

import json
import re
from functools import cache
from importlib.resources import files
from typing import Any

from lanbot.chat.messages import Conversation, Message, chat, parts, spoken
from lanbot.tasks.agent_tasks import Env, EnvTask
from lanbot.tasks.handwritten import says
from lanbot.tasks.registry import register

UNSURE = ("do not know", "don't know")


@register("newcomer")
class Newcomer(EnvTask):
    """150 requests of newcomers, written by hand, of ten kinds; answers, files and memory are checked."""

    splits = ("test",)

    def row(self, i: int) -> dict[str, Any]:
        """kind; files and known (the memory) at the start; talks: conversations, each of requests.

        A request ("ask") says what its answer must have ("all", "any", "none": texts; "number": the last number;
        "sentences": how many at least), and has a reference answer ("reply") with its calls ("calls"). Afterwards files
        have these contents, or these words ("holds"), the others are as before, and a remembered text has these words
        ("remembered"), or none has these ("forgotten").
        """
        who = self.context.identity
        line = _lines()[i].replace("{name}", json.dumps(who.name)[1:-1])
        row: dict[str, Any] = json.loads(
            line.replace("{maker}", json.dumps(who.creator or "the person who runs me")[1:-1])
        )
        return {"files": {}, "known": [], "holds": {}, "remembered": [], "forgotten": [], **row}

    def __len__(self) -> int:
        return len(_lines())

    def conversation(self, i: int) -> Conversation:
        """The last request with its reference answer."""
        last = self.row(i)["talks"][-1][-1]
        return chat(last["ask"], last["reply"])

    def env(self, i: int) -> "NewcomerEnv":
        return NewcomerEnv(self.row(i))

    def part(self, i: int) -> str:
        return str(self.row(i)["kind"])


class NewcomerEnv(Env):
    """The environment of one row."""

    def __init__(self, row: dict[str, Any]) -> None:
        super().__init__([[request["ask"] for request in talk] for talk in row["talks"]], row["files"], row["known"])
        self.row = row

    def right(self) -> bool:
        """Whether all requests were made and answered as they should be, and files and memory are as they should be."""
        if self.request() is not None:
            return False
        kind, asked = self.row["kind"], [request for talk in self.row["talks"] for request in talk]
        answers = [message for talk in self.conversations for message in talk[1::2]]
        return (
            all(_right(kind, request, answer) for request, answer in zip(asked, answers, strict=True))
            and self._files_right()
            and self._memory_right()
        )

    def _files_right(self) -> bool:
        """Contents count without their case, the space around them and a last full stop."""
        for name, expected in self.row["holds"].items():
            found = _plain(self.files.get(name, ""))
            held = all(says(found, word) for word in expected) if isinstance(expected, list) else found == expected
            if not held:
                return False
        others = {name: text for name, text in self.files.items() if name not in self.row["holds"]}
        return others == {name: text for name, text in self.row["files"].items() if name not in self.row["holds"]}

    def _memory_right(self) -> bool:
        texts = [text for _, text in self.memory.all()]
        kept = not self.row["remembered"] or any(
            all(says(text, word) for word in self.row["remembered"]) for text in texts
        )
        return kept and not any(says(text, word) for word in self.row["forgotten"] for text in texts)


def _right(kind: str, request: dict[str, Any], answer: Message) -> bool:
    said = spoken(answer).strip().replace("’", "'")
    checked = request.keys() - {"ask", "reply", "calls"}
    if not said or (checked and _words(request["ask"]) == _words(said)):  # nothing, or the request again
        return False
    if kind != "unknown" and any(says(said, text) for text in UNSURE):
        return False
    if kind == "talk" and not _talks(request, answer):
        return False
    if "number" in request and re.findall(r"-?\d+(?:\.\d+)?", said.replace(",", ""))[-1:] != [request["number"]]:
        return False
    return (
        all(says(said, text) for text in request.get("all", []))
        and ("any" not in request or any(says(said, text) for text in request["any"]))
        and not any(says(said, text) for text in request.get("none", []))
    )


def _talks(request: dict[str, Any], answer: Message) -> bool:
    """Whether it is talk: no call, nothing spelled; what is to be written has three words, and a story of several
    sentences twelve."""
    said, sentences = spoken(answer), request.get("sentences", 0)
    least = 12 if sentences else 3 if request.keys() & {"all", "none"} else 1
    return (
        all(part["type"] == "text" for part in parts(answer))
        and not re.search(r"\b\w-\w-\w\b", said)
        and len(said.split()) >= least
        and len(re.findall(r"\w[.!?]", said)) >= sentences
    )


def _plain(content: str) -> str:
    return content.strip().rstrip(".").casefold()


def _words(said: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", said.casefold()))


@cache
def _lines() -> list[str]:
    lines = files("lanbot.tasks").joinpath("newcomer.jsonl").read_text("utf-8").split("\n")
    return [line for line in lines if line.strip()]
