"""The forms in which a model meets a system message: who it is must not depend on them.

Other software may put nothing before a conversation, or an empty system message, or what the model's family has there.
"""

from lanbot.chat.formats.base import ChatFormat
from lanbot.chat.messages import Conversation
from lanbot.config.recipe import Identity
from lanbot.synthetic.world.grammar import rng_of

FORMS = ("default", "explicit", "empty", "none", "foreign")
GIVEN = "given"
"""Of a conversation with a system message of its own, which stays."""

EXPLICIT = {
    "train": ("{system}", "{system} You are helpful.", "Your name is {name}.", "{system} Answer briefly."),
    "test": ("{system}", "You are called {name}. Be helpful.", "This is {name} speaking with a user."),
}
FOREIGN = {
    "train": (
        "You are a helpful assistant.",
        "You are an AI assistant. Answer the user's questions.",
        "You are ChatGPT, a large language model trained by OpenAI.",
        "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
        "Below is a conversation with an AI.",
    ),
    "test": (
        "You are a helpful, respectful and honest assistant.",
        "You are an AI language model.",
        "You are Claude, a helpful assistant made by Anthropic.",
        "You are Vicuna, trained by researchers.",
    ),
}


def form_of(conversation: Conversation, split: str, i: int) -> str:
    """The form of row i. Drawn by its number alone, and no form twice in five rows that follow each other."""
    if conversation["messages"][0]["role"] == "system":
        return GIVEN
    order = list(FORMS)
    rng_of("system forms", split, i // len(FORMS)).shuffle(order)
    return order[i % len(FORMS)]


def in_form(
    conversation: Conversation, form: str, who: Identity, chat_format: ChatFormat, split: str, i: int
) -> Conversation:
    """The conversation with a system message of this form."""
    if form in (GIVEN, "default"):
        return conversation
    if form == "none":
        return {**conversation, "system": False}
    rng = rng_of("system messages", split, i)
    said = ""
    if form == "explicit":
        said = rng.choice(EXPLICIT[split]).format(system=who.system_message, name=who.name)
    elif form == "foreign":
        family = chat_format.family_system
        said = family if family and rng.random() < 0.5 else rng.choice(FOREIGN[split])
    return {**conversation, "messages": [{"role": "system", "content": said}, *conversation["messages"]]}
