"""Raw text in a mixture, so that a model that learns to chat does not forget the language."""

from collections.abc import Iterator

from lanbot.chat.formats.base import ChatFormat, Rendered
from lanbot.chat.messages import Conversation
from lanbot.data.corpus import Position, open_corpus
from lanbot.tasks.registry import register
from lanbot.tasks.task import Task, TaskContext

SEED = 1
"""Another order than base training's."""


@register("corpus")
class CorpusText(Task):
    """Documents of raw text: corpus:DATA, with DATA as in base.data. All of a document is under loss."""

    kind = "chat"
    arguments = None
    ordered = True

    def __init__(self, split: str, argument: str = "", context: TaskContext | None = None) -> None:
        super().__init__(split, argument, context)
        self.corpus = open_corpus(argument, SEED, self.context.skip_bad_rows, self.context.options)[split == "test"]
        self.next, self.text = 0, ""
        self.documents: Iterator[str] = iter(())

    def __len__(self) -> int:
        """Nominal: the corpus begins again where it ends."""
        return 1_000_000

    def document(self, i: int) -> str:
        """Document i. They are read in their order; going back starts from the first."""
        if i < self.next - 1 or not self.next:
            self.documents, self.next = self.corpus.documents(Position()), 0
        while self.next <= i:
            self.text, self.next = next(self.documents), self.next + 1
        return self.text

    def conversation(self, i: int) -> Conversation:
        """The document as an answer to nothing, for those who look for its words."""
        return {"messages": [{"role": "assistant", "content": self.document(i)}]}

    def rendered(self, i: int, chat_format: ChatFormat) -> Rendered:
        ids = chat_format.tokenizer.encode_array(self.document(i)).tolist()
        return Rendered([chat_format.bos, *ids], [0, *[1] * len(ids)])

    def digest(self) -> str:
        return f" {self.corpus.fingerprint}"
