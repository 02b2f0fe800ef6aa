"""How people type: wishes in other words, lower case, missing marks, slips of the fingers."""

import re
from collections.abc import Collection

from lanbot.chat.messages import Conversation, parts
from lanbot.synthetic.world.grammar import Rng
from lanbot.synthetic.world.scene import DAYS, MONTHS

ORDERS = ("{}",) * 9 + (
    *("please {}", "please {}", "can you {}?", "could you {}?", "can you please {}?", "will you {}?", "would you {}?"),
    *("i want you to {}", "i'd like you to {}", "you must {}", "hey, {}", "ok, {}", "now {}", "hi, please {}"),
)
ORDERS_ENDED = ("{} please", "{}, please", "{} for me", "{} now", "can you {} for me?", "{}, thanks")
"""Only where nothing that is to be copied stands at the end."""
QUESTIONS = ("{}?",) * 10 + (
    *("hey, {}?", "tell me, {}?", "hi, {}?", "so {}?", "and {}?", "{} please?", "ok, {}?", "hello, {}?", "well, {}?"),
    *("one question: {}?", "do you know, {}?", "i want to know, {}?", "{} exactly?", "can you tell me, {}?"),
)
TYPED = 0.6
"""The share of requests that are typed in haste."""
HESITATIONS = ("hm", "so", "well", "wait,", "ok", "um,", "and", "hey", "oh")
LEFT = {"what's": "whats", "i'm": "im", "don't": "dont", "it's": "its", "who's": "whos", "let's": "lets", "i'd": "id"}
SLIPS = frozenset(
    """what which where when please could would tell show read write save store make create file name called
    remember forget about many much number letter letters spell word hello good morning thank thanks know
    capital color animal after before between calculate compute result answer change replace with from into
    there have your that this how who does favorite live told first last then times plus minus divided story
    joke files open weather today""".split()  # noqa: SIM905
)
_PIECE = re.compile(r"\"[^\"]*\"\S*|(?<!\w)'[^']+'\S*|\S+")
_MARKS = ".,?!;:"


def wish(core: str, rng: Rng, ended: bool = True) -> str:
    """A request for a row of the .txt files: "? " begins a question, "! " is said as it stands, other rows are orders.

    ended: nothing that is to be copied stands at the end of the core.
    """
    core = " ".join(core.split())
    if core.startswith("! "):
        core = core[2:]
        return core if core[-1] in ".?!=" else core + "."
    if core.startswith("? "):
        return rng.choice(QUESTIONS).format(core[2:].rstrip("?"))
    said = rng.choice(ORDERS + ORDERS_ENDED if ended else ORDERS).format(core)
    return said if said[-1] in ".?!" else said + "."


def typed(said: str, rng: Rng, kept: Collection[str] = ()) -> str:
    """The request with its capitals and marks, or, more often, as typed in haste. Quoted text, file names, numbers and
    the words in `kept` stay as they are."""
    if rng.random() > TYPED:
        return neat(said)
    if rng.random() < 0.1:
        said = f"{rng.choice(HESITATIONS)} {said}"
    lower, bare, slip = rng.random() < 0.85, rng.random() < 0.6, rng.random() < 0.15
    pieces = _PIECE.findall(said if lower else neat(said))
    plain_words = [piece.strip(_MARKS) for piece in pieces]
    slips = [i for i, word in enumerate(plain_words) if slip and word.lower() in SLIPS and word not in kept]
    slipped = rng.choice(slips) if slips else -1
    made = []
    for i, piece in enumerate(pieces):
        word, plain = piece.rstrip(_MARKS), piece[0] not in "\"'" and re.search(r"[\d./]\S", piece) is None
        if plain and lower and word.removesuffix("'s") not in kept:
            piece = piece.lower()
        if bare and piece[0] not in "\"'":
            piece = piece.rstrip(_MARKS) or piece
            piece = LEFT.get(piece, piece)
        if i == slipped:
            piece = _slipped(piece, rng)
        made.append(piece)
    text = " ".join(made)
    return text.rstrip("." if text[-1:] == "." and rng.random() < 0.7 else "")


def neat(said: str) -> str:
    """With a capital at the beginning of each sentence and of "I"; file names and quotes stay."""
    said = re.sub(r"(?<![\w'])i(?=$|[ ,.?!]|'[md])", "I", said)
    if re.match(r"\w+\.\w", said) is None:
        said = said[:1].upper() + said[1:]
    return re.sub(r"(?<=[?!] )[a-z](?![\w-]*\.\w)", lambda found: found[0].upper(), said)


def as_typed(conversation: Conversation, rng: Rng, copied: bool = True) -> Conversation:
    """A conversation with its requests as people type them. copied: words with a capital that an answer says too stay
    as they are, since the answer copies them."""
    said = " ".join(part["text"] for m in conversation["messages"] if m["role"] == "assistant" for part in parts(m))
    kept = set(re.findall(r"\b[A-Z]\w*", said)) - {*DAYS, *MONTHS} if copied else set()
    messages = [message.copy() for message in conversation["messages"]]
    for message in messages:
        if message["role"] == "user" and isinstance(message["content"], str):
            message["content"] = typed(message["content"], rng, kept)
    return {**conversation, "messages": messages}


def _slipped(piece: str, rng: Rng) -> str:
    """Two letters swapped, one left out or one doubled, not the first."""
    i, kind = rng.randint(1, max(1, len(piece.rstrip(_MARKS)) - 2)), rng.random()
    if kind < 0.45:
        return piece[:i] + piece[i + 1 : i + 2] + piece[i] + piece[i + 2 :]
    return piece[:i] + piece[i + 1 :] if kind < 0.8 else piece[:i] + piece[i] + piece[i:]
