"""The built-in world: a small, consistent world in simple English, for training without a network.

Every text is a pure function of (split, index), and every fact one of its subject's name: Mia has the same
job and home town wherever she is met. A document or a problem belongs to one split (see `_split_of`).
"""

import operator
import random
import zlib
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from types import SimpleNamespace
from typing import Any

from lanbot.chat.conversation import Conversation, Part, chat, output, python, text

Rng = random.Random


def _words(block: str) -> tuple[str, ...]:
    return tuple(block.split())


def _rows(block: str) -> tuple[tuple[str, ...], ...]:
    """A table written as text: rows are lines, or divided by semicolons; cells are divided by |."""
    return tuple(tuple(row.strip().split("|")) for row in block.strip().replace(";", "\n").split("\n"))


# What there is in the world.


def held_out(word: str) -> bool:
    """Is the word for spelling tests only? One in ten is, of any word list; no text here spells it."""
    return zlib.crc32(word.encode()) % 10 == 0


WORDS = _words(files("lanbot.data").joinpath("words.txt").read_text("utf-8"))
TRAIN_WORDS = tuple(word for word in WORDS if not held_out(word))
SHE = _words("""Mia Anna Lily Emma Rosa Nora Zoe Ella Ruby Clara Ivy Maya Alice Julia Hanna Sofia Lena Tara
    Nina Vera Greta Amina Freya Leila Carmen Dora Edith Fatima Gwen Helga Irene Jade Kira Lucia Molly Nadia
    Olive Paula Rita Sara Tess Uma Wendy Yara Zelda Bella Celia Daisy""")
HE = _words("""Tom Ben Sam Max Leo Adam Noah Omar Paul Hugo Ivan Jack Karl Luke Mark Nick Oscar Peter Ravi
    Simon Theo Victor Will Yusuf Arthur Bruno Carlos David Edgar Felix George Henry Isaac Jonas Kevin Liam
    Martin Nils Otto Pedro Quinn Robert Stefan Tariq Uwe Walter Anton Boris""")
NAMES = tuple(name for pair in zip(SHE, HE, strict=True) for name in pair)
PROBLEM_NAMES = {"train": NAMES[:72], "test": NAMES[48:]}  # half of the test's people are in train too
TOWNS = _words("""Oakford Millbrook Stonehill Redwater Ashby Fernley Greenport Windmere Saltmarsh Elmstead
    Birchdale Foxholm Larkfield Pinecross Ravensby Thornbury""")
JOBS = _rows("""baker|bakes bread; teacher|teaches children; doctor|helps sick people; farmer|grows wheat
    painter|paints houses; driver|drives the bus; cook|makes soup; tailor|sews coats; gardener|plants trees
    sailor|sails a ship; miner|digs for coal; singer|sings songs; writer|writes books; builder|builds walls
    nurse|looks after the ill; engineer|repairs machines""")
ANIMALS = _rows("""dog|barks; cat|meows; horse|neighs; duck|quacks; cow|moos; goat|bleats; pig|grunts
    owl|hoots; hen|clucks; frog|croaks; mouse|squeaks; snake|hisses""")
PETS = _words("Coco Rex Bubbles Shadow Pepper Lucky Biscuit Snowy Bandit Pip Rocky Ginger Socks Smoky Waffle")
FOODS = _words("soup pizza rice bread cheese cake salad pasta pie curry honey porridge")
COLORS = _words("red blue green yellow purple orange pink brown black white")
HOBBIES = _words("painting swimming reading fishing singing dancing chess cycling cooking hiking")
SIGHTS = _words("bridge tower museum lighthouse castle library mill park palace fountain")
DAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
WEATHER = _words("sunny rainy windy cold warm foggy snowy cloudy")
GOODS = _rows("""apple|2; pear|3; lemon|4; carrot|2; egg|3; cookie|5; candle|6; pencil|4; book|12; cup|7
    plate|8; hat|15; ball|9; kite|14; lamp|20; basket|11; bottle|6; chair|25; stamp|2; button|3; ticket|10
    spoon|5; flower|4; shirt|16; pillow|8; ladder|30; hammer|13; mirror|18; drum|24; blanket|17""")
PRICES = {thing: int(coins) for thing, coins in GOODS}  # of one, in coins, in every shop
THINGS = tuple(PRICES)
OPPOSITES = _rows("""big|small; hot|cold; fast|slow; old|young; happy|sad; light|dark; open|closed; wet|dry
    full|empty; long|short; early|late; rich|poor; loud|quiet; clean|dirty; strong|weak; high|low""")
ONES = _words("""zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen""")
TENS = _words("twenty thirty forty fifty sixty seventy eighty ninety")
IN_WORDS = ONES + tuple(ten if i == 0 else f"{ten}-{ONES[i]}" for ten in TENS for i in range(10))  # 0 to 99

# What is said of a person and of a town: two ways to tell it, two ways to ask it.

ABOUT_PERSON = _rows("""
{who} is {p.a_job}.|{who} works as {p.a_job}.|What is {whose} job?|What work does {who} do?
{who} lives in {p.town}.|{whose} home town is {p.town}.|Where does {who} live?|What is {whose} home town?
{who} has {p.an_animal} called {p.pet}.|{whose} {p.animal} is called {p.pet}.|\
Which animal does {who} have?|What is {whose} animal called?
{who} likes to eat {p.food}.|{whose} favorite food is {p.food}.|\
What does {who} like to eat?|What is {whose} favorite food?
{who} loves the color {p.color}.|{whose} favorite color is {p.color}.|\
Which color does {who} love?|What is {whose} favorite color?
{who} likes {p.hobby}.|{whose} hobby is {p.hobby}.|What does {who} do in free time?|What is {whose} hobby?
""")
ABOUT_TOWN = _rows("""
{t.name} has an old {t.sight}.|In {t.name} there is an old {t.sight}.|\
What can I see in {t.name}?|What is there in {t.name}?
The market of {t.name} is on {t.market}.|On {t.market} there is a market in {t.name}.|\
When is the market of {t.name}?|On which day is there a market in {t.name}?
The shops in {t.name} open at {t.opens}.|Shops open at {t.opens} in {t.name}.|\
When do the shops in {t.name} open?|At what time do shops open in {t.name}?
{t.name} is next to {t.next}.|The town next to {t.name} is {t.next}.|\
Which town is next to {t.name}?|What is {t.name} next to?
A train from {t.name} to {t.next} takes {t.minutes} minutes.|\
It takes {t.minutes} minutes by train from {t.name} to {t.next}.|\
How long is the train ride from {t.name} to {t.next}?|How far is {t.next} from {t.name} by train?
People in {t.name} are proud of their {t.food}.|{t.name} is known for its {t.food}.|\
What is {t.name} known for?|What are people in {t.name} proud of?
""")

# Templates; `_scene` says what they may name, and for FACTS and CHATS `_lore`.

STORY_STARTS = _rows("""
It was a {weather} {day} in {p.town}. {p.name} is {p.a_job} there and {p.job_does}, but now {p.she} was free.
One {weather} morning {p.name} woke up early. It was {day}, and the whole town of {p.town} was still asleep.
{p.name} is {p.a_job} in {p.town}. On a {weather} {day} {p.she} went for a walk with {p.pet} the {p.animal}.
On {day} {q.name} from {q.town} came to visit {p.name} in {p.town}. It was a {weather} day.
""")
STORY_EVENTS = _rows("""
Suddenly {p.pet} was gone. {p.name} looked behind the {thing}s and {q.name} asked everyone. \
At last they heard how {p.an_animal} {p.sound}. "There you are!" said {p.name}.
{p.name} had {a} {thing}s and gave {b} of them to {q.name}. Now {p.she} had {left} {thing}s.
In the shop {p.name} bought {c} {thing}s for {price} coins each. {p.She} paid {paid} coins.
"Can you help me?" asked {q.name}. "I need {a_thing}." {p.name} looked into a {p.color} box and found one.
{q.name} told {p.him} about {q.his} work. "I am {q.a_job}," {q.she} said. {p.name} listened for {a} minutes.
{p.name} found a bag with {a} {thing}s in it. It belonged to {q.name}, so {p.she} took it to {q.town}.
{p.name} wanted to eat {p.food}. {q.name} wanted {q.food}. They made both and ate at {c} o'clock.
They counted the {thing}s on the table: {a} on the left and {b} on the right. That made {sum} {thing}s.
""")
STORY_ENDS = _rows("""
In the evening {p.name} was tired but happy. "That was a good day," {p.she} said to {p.pet}.
"Thank you, {p.name}," said {q.name}. "You are a good friend." Both of them laughed.
Then {q.name} went home to {q.town}, and {p.name} went back to {p.his} hobby, {p.hobby}.
{p.name} gave some food to {p.pet}, closed the door and slept until {c} o'clock.
""")
HOW_TOS = _rows("""
make tea|boil some water|put tea into a cup|pour hot water on it|wait {b} minutes|add some honey
plant a tree|dig a deep hole|put the young tree into it|fill the hole with earth|add {b} cups of water
bake bread|mix flour, water and salt|let it rest for {a} minutes|form a loaf|put it into the oven
wash a dog|fill a tub with warm water|rub the dog with soap for {b} minutes|rinse it|dry it with a towel
make soup|wash {b} carrots|cut them into slices|boil them in water for {a} minutes|add salt|fill a bowl
send a letter|write {b} lines on paper|put the paper into an envelope|write the address on it|add a stamp
""")
FACTS = _rows("""
The opposite of {hot} is {cold}, and the opposite of {cold} is {hot}.
After {day} comes {next_day}, and before {next_day} comes {day}.
{An_animal} {sound}. If you hear something that {sound}, it may be {an_animal}.
The number after {a} is {after_a}, and the number before {after_a} is {a}.
{large} is larger than {small}, and {small} is smaller than {large}.
{A_thing} costs {price} coins in every shop, so {c} {thing}s cost {paid} coins.
""")
CHATS = _rows("""
{hello}!|{hello}! How can I help you?
{hello}, I am {p.name}.|{hello}, {p.name}! How can I help you?
{hello}! My name is {p.name}.|{hello}, {p.name}!|What is my name?|Your name is {p.name}.
Thank you! {p.name} thanks you too.|You are welcome, and greetings to {p.name}!
Which is larger, {large} or {small}?|{large} is larger than {small}.
Which is larger, {small} or {large}?|{large} is larger than {small}.
Which is smaller, {large} or {small}?|{small} is smaller than {large}.
Which is smaller, {small} or {large}?|{small} is smaller than {large}.
Is {large} larger than {small}?|Yes, {large} is larger than {small}.
Is {small} larger than {large}?|No, {large} is larger than {small}.
How much is {a_thing}?|{A_thing} costs {price} coins.
How much is {a_thing}?|{A_thing} costs {price} coins.|And {c} {thing}s?|{c} {thing}s cost {paid} coins.
What is the opposite of {hot}?|The opposite of {hot} is {cold}.
What day comes after {day}?|After {day} comes {next_day}.
Which animal {sound}?|{An_animal} {sound}.
Repeat these words: {words}|{words}
""")

# Word problems: the question, then text|code|text|...; {r} is the result before.
# a > b + c; n = c * d; money = c * price + b: every result is a whole number, and larger than one.

PROBLEMS = _rows("""
{p.name} has {a} {thing}s. {q.name} gives {p.him} {b} more. How many {thing}s does {p.name} have now?|\
{p.name} has |{a}+{b}| {thing}s.
{p.name} had {a} {thing}s and gave {b} of them to {q.name}. How many {thing}s are left?|\
There are |{a}-{b}| {thing}s left.
There are {c} boxes in {p.name}'s house with {d} {thing}s in each. How many {thing}s are there?|\
In the boxes there are |{c}*{d}| {thing}s.
{p.name} shares {n} {thing}s equally among {c} friends. How many {thing}s does each friend get?|\
Each friend gets |{n}//{c}| {thing}s.
{p.name} buys {c} {thing}s in {p.town}. Each costs {price} coins. How much does {p.she} pay?|\
{p.name} pays |{c}*{price}| coins.
{p.name} walks {d} miles a day. How many miles does {p.she} walk in {c} days?|\
{p.name} walks |{c}*{d}| miles.
{p.name} has {a} {thing}s, finds {b} more and gives {c} to {q.name}. How many does {p.she} have now?|\
First {p.name} has |{a}+{b}|. After the gift it is |{r}-{c}| {thing}s.
{p.name} has {money} coins and buys {c} {thing}s for {price} coins each. How many coins are left?|\
The {thing}s cost |{c}*{price}| coins. What is left is |{money}-{r}| coins.
{p.name} has {c} bags with {d} {thing}s in each, and {b} more on a table. How many {thing}s is that?|\
The bags hold |{c}*{d}|. With the others that is |{r}+{b}| {thing}s.
{p.name} has {a} {thing}s and {q.name} has {b} more than {p.name}. How many do they have together?|\
{q.name} has |{a}+{b}|. Together they have |{r}+{a}| {thing}s.
""")
HELD_OUT = _rows("""
{p.name} reads {c} pages each morning and {d} pages each evening. How many pages is that in {e} days?|\
In a day that is |{c}+{d}|. In {e} days it is |{r}*{e}| pages.
A bus has {a} seats. {b} people get on in {p.town}, then {c} get on in {q.town}. How many seats are free?|\
On the bus there are |{b}+{c}| people. The free seats are |{a}-{r}|.
{p.name} saves {d} coins a week. How many weeks must {p.she} save for a coat that costs {n} coins?|\
{p.name} must save for |{n}//{d}| weeks.
""")  # in the test split only: every fourth problem there
LARGEST = {"train": (89, 19, 12, 9), "test": (99, 24, 15, 12)}  # of a, b, c, d

# Who the model is: a row of train's questions, one of test's, one of answers. {other} is another's name.

IDENTITY = _rows("""
Who are you?|What is your name?|What are you called?|Tell me your name.|Introduce yourself.|And you are?
What should I call you?|May I ask who I am talking to?|Could you say your name?
I am {name}.|My name is {name}.|I am {name}, a small language model.|I am {name}. {about}
Who made you?|Who trained you?|Who is your maker?|Where do you come from?|Who built you?
Who created you?|Who is behind you?|Whose work are you?
I am {name}, and I was trained by {maker}.|I was trained by {maker}. My name is {name}.
What can you do?|How can you help me?|What are you good at?|What are you for?
What sort of things can I ask you?|What are you able to do?
I am {name}. I can answer questions, calculate and spell.|I am {name}. I can chat, spell words and do math.
Are you {other}?|Is your name {other}?|You are {other}, right?
Am I talking to {other}?|Hello {other}, is that you?
No, I am {name}.|No, my name is {name}.
Are you {name}?|Is your name {name}?
Am I talking to {name}?|So you are {name}?
Yes, I am {name}.|Yes, my name is {name}.
Are you a human?|Are you a real person?|Do you have a body?
Are you alive?|Am I talking to a person?
No. I am {name}, a language model.|No, I am a computer program. My name is {name}.
What are you like?|Tell me about yourself.|Describe yourself.
How would you describe yourself?|What is your character?
I am {name}. {about}
""")
OTHERS = {
    "train": ("ChatGPT", "Siri", "Alexa", "Claude", "Gemini", "Cortana", *NAMES[:24]),
    "test": ("Copilot", "Llama", "Mistral", "Siri", "ChatGPT", *NAMES[20:36]),
}
HELLOS = ("Hello", "Hi", "Hey", "Good morning", "Good evening")
OPENERS = ("", "", "", "Hi! ", "Hello. ", "One question. ", "I am new here. ")

# How a text is made: draw facts, then fill in templates.


def _rng(kind: str, split: str, index: int) -> Rng:
    if split not in ("train", "test"):
        raise ValueError(f"split is {split!r}; it is 'train' or 'test'")
    return random.Random(f"{kind}/{split}/{index}")


def _split_of(content: str) -> str:
    """The one split that a text belongs to: a quarter of all possible texts are the test's."""
    return "test" if zlib.crc32(content.encode()) % 4 == 0 else "train"


def _an(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


@cache
def person(name: str) -> SimpleNamespace:
    """All that is true of one of NAMES."""
    rng = random.Random(f"person/{name}")
    she, him, his = ("she", "her", "her") if name in SHE else ("he", "him", "his")
    (job, job_does), (animal, sound) = rng.choice(JOBS), rng.choice(ANIMALS)
    town, pet, food, color, hobby = map(rng.choice, (TOWNS, PETS, FOODS, COLORS, HOBBIES))
    facts = {"name": name, "she": she, "She": she.title(), "him": him, "his": his, "His": his.title()}
    facts |= {"a_job": _an(job), "job_does": job_does}
    facts |= {"animal": animal, "an_animal": _an(animal), "sound": sound}
    facts |= {"town": town, "pet": pet, "food": food, "color": color, "hobby": hobby}
    return SimpleNamespace(**facts)


@cache
def town(name: str) -> SimpleNamespace:
    """All that is true of one of TOWNS."""
    rng = random.Random(f"town/{name}")
    sight, market, food = map(rng.choice, (SIGHTS, DAYS, FOODS))
    facts = {"name": name, "sight": sight, "market": market, "food": food}
    facts |= {"next": TOWNS[(TOWNS.index(name) + 1) % len(TOWNS)]}
    return SimpleNamespace(**facts, opens=f"{rng.randint(7, 10)} o'clock", minutes=rng.randint(10, 90))


def _scene(rng: Rng, split: str = "train", names: tuple[str, ...] = NAMES) -> dict[str, Any]:
    """What most templates may name: two people, a thing and its price, numbers that fit together."""
    p, q = map(person, rng.sample(names, 2))
    a, b, c, d = map(rng.randint, (41, 2, 2, 2), LARGEST[split])
    thing = rng.choice(THINGS)
    price = PRICES[thing]
    scene = {"p": p, "q": q, "thing": thing, "a_thing": _an(thing), "price": price, "paid": c * price}
    scene |= {"a": a, "b": b, "c": c, "d": d, "e": rng.randint(2, 7)}
    scene |= {"left": a - b, "sum": a + b, "n": c * d, "money": c * price + b}
    scene |= {"day": rng.choice(DAYS), "weather": rng.choice(WEATHER)}
    return scene


def _lore(rng: Rng) -> dict[str, Any]:
    """A scene, and what FACTS and CHATS name besides."""
    scene = _scene(rng)
    hot, cold = rng.sample(rng.choice(OPPOSITES), 2)
    animal, sound = rng.choice(ANIMALS)
    small, large = sorted(rng.sample(range(2, 1000), 2))
    day = rng.randrange(7)
    scene |= {"hot": hot, "cold": cold, "small": small, "large": large, "hello": rng.choice(HELLOS)}
    scene |= {"an_animal": _an(animal), "An_animal": _an(animal).capitalize(), "sound": sound}
    scene |= {"day": DAYS[day], "next_day": DAYS[(day + 1) % 7], "words": " ".join(rng.sample(WORDS, 4))}
    scene |= {"A_thing": scene["a_thing"].capitalize(), "after_a": scene["a"] + 1}
    return scene


# Documents.


def _story(rng: Rng) -> str:
    rows = (rng.choice(STORY_STARTS), *rng.sample(STORY_EVENTS, 2), rng.choice(STORY_ENDS))
    return " ".join(template for (template,) in rows).format_map(_scene(rng))


def _told(rng: Rng, p: SimpleNamespace, row: tuple[str, ...], by_name: bool) -> str:
    who, whose = (p.name, p.name + "'s") if by_name else (p.She, p.His)
    return rng.choice(row[:2]).format(who=who, whose=whose, p=p)


def _portraits(rng: Rng) -> str:
    paragraphs = []
    for p in map(person, rng.sample(NAMES, 2)):
        rows = rng.sample(ABOUT_PERSON, len(ABOUT_PERSON))
        paragraphs.append(" ".join(_told(rng, p, row, by_name=i % 3 == 0) for i, row in enumerate(rows)))
    return "\n".join(paragraphs)


def _place(rng: Rng) -> str:
    t, p = town(rng.choice(TOWNS)), person(rng.choice(NAMES))
    told = [rng.choice(row[:2]).format(t=t) for row in rng.sample(ABOUT_TOWN, 5)]
    told.append(f"On a {rng.choice(WEATHER)} {rng.choice(DAYS)} {p.name} from {p.town} came to {t.name}.")
    return " ".join(told) + f" {p.She} stayed for {rng.randint(2, 30)} days."


def _how_to(rng: Rng) -> str:
    task, *steps = rng.choice(HOW_TOS)
    words = ("First,", "Then", "Next,", "After that,", "At last,")
    listed = " ".join(f"{word} {step}." for word, step in zip(words, steps, strict=False))
    opening = '"How do you {task}?" asked {q.name} on a {weather} {day}. {p.name} knew how to {task}. '
    closing = ' {q.name} did it like that, and {c} people from {q.town} liked it. "It is easy," {q.she} said.'
    return (opening + f'"{listed}"' + closing).format(task=task, **_scene(rng))


def _facts(rng: Rng) -> str:
    return "\n".join(row[0].format_map(_lore(rng)) for row in rng.sample(FACTS, len(FACTS)))


def _arithmetic(rng: Rng) -> str:
    lines, say = [], IN_WORDS
    for _ in range(6):
        a, b, c, d = map(rng.randint, (1, 1, 2, 2), (49, 49, 9, 9))
        kinds = (
            f"{a} + {b} = {a + b}, and {say[a]} plus {say[b]} is {say[a + b]}.",
            f"{a + b} - {b} = {a}, and {say[a + b]} minus {say[b]} is {say[a]}.",
            f"{c} * {d} = {c * d}, and {say[c]} times {say[d]} is {say[c * d]}.",
            f"{c * d} / {c} = {d}, and {say[c * d]} divided by {say[c]} is {say[d]}.",
        )
        lines.append(rng.choice(kinds))
    return "\n".join(lines)


def _spelling(rng: Rng) -> str:
    return "\n".join(
        f"The word {word} is spelled {'-'.join(word)}. It has {len(word)} letters and starts with {word[0]}."
        for word in rng.sample(TRAIN_WORDS, rng.randint(4, 8))
    )


def _lists(rng: Rng) -> str:
    """Random names, words and numbers, said twice: what a model learns to copy from."""
    names, words = rng.sample(NAMES, 5), rng.sample(WORDS, 5)
    rows = [(name, word, rng.randint(10, 9999)) for name, word in zip(names, words, strict=True)]
    first = [f'{name} has the word "{word}" and the number {number}.' for name, word, number in rows]
    rng.shuffle(rows)
    second = [f'Who has the word "{word}"? {name}, with {number}.' for name, word, number in rows]
    return " ".join(first) + "\n" + " ".join(second)


DOCUMENTS: tuple[Callable[[Rng], str], ...] = (
    *(_story, _story, _story, _portraits, _portraits, _place),
    *(_how_to, _facts, _facts, _arithmetic, _spelling, _lists),
)


def document(split: str, index: int) -> str:
    """A text of 40 to 150 words: a story, a description, a how-to, facts, sums, spelling, lists to copy."""
    rng = _rng("document", split, index)
    while True:
        content = rng.choice(DOCUMENTS)(rng)
        if _split_of(content) == split:
            return content


# Word problems.

OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "//": operator.floordiv}


def _calculate(code: str) -> int:
    """The value of one operation on two whole numbers, such as 12+7."""
    for symbol, operation in OPERATIONS.items():
        left, found, right = code.partition(symbol)
        if found:
            return operation(int(left), int(right))
    raise ValueError(f"no operation in {code!r}")


def word_problem(split: str, index: int) -> tuple[Conversation, str]:
    """A problem solved with the calculator; its answer. In test every fourth is from a held-out template."""
    rng = _rng("problem", split, index)
    table = HELD_OUT if split == "test" and index % 4 == 3 else PROBLEMS
    while True:
        scene = _scene(rng, split, PROBLEM_NAMES[split])
        question, *solution = rng.choice(table)
        question = question.format_map(scene)
        if _split_of(question) == split:
            break
    said: list[Part] = []
    for i, template in enumerate(solution):
        piece = template.format_map(scene)
        said.append(python(piece) if i % 2 else text(scene["r"] + piece if i else piece))
        if i % 2:
            scene["r"] = str(_calculate(piece))
            said.append(output(scene["r"]))
    said[-1]["text"] += f"\n#### {scene['r']}"
    return chat(question, said), scene["r"]


# Chats.


def identity_chat(name: str, maker: str, personality: str, split: str, index: int) -> Conversation:
    """A question about who the model is, which test asks in other words than train.

    Without a maker it was trained by "the person who runs me"; personality is any description, or empty.
    """
    rng = _rng("identity", split, index)
    kind = 3 * rng.randrange(len(IDENTITY) // 3)
    likes = personality.strip().rstrip(".")
    known = {"name": name, "maker": maker or "the person who runs me"}
    known["about"] = f"This is what I am like: {likes}." if likes else "I like to help."
    known["other"] = rng.choice([other for other in OTHERS[split] if other.casefold() != name.casefold()])
    question = rng.choice(IDENTITY[kind + (split == "test")]).format_map(known)
    return chat(rng.choice(OPENERS) + question, rng.choice(IDENTITY[kind + 2]).format_map(known))


def _about_person(rng: Rng) -> list[str]:
    """One fact of a person, or a second one asked by pronoun."""
    p = person(rng.choice(NAMES))
    first, second = rng.sample(ABOUT_PERSON, 2)
    question = rng.choice(first[2:]).format(who=p.name, whose=p.name + "'s")
    turns = [question, _told(rng, p, first, by_name=True)]
    if rng.random() < 0.4:
        turns += [rng.choice(second[2:]).format(who=p.she, whose=p.his), _told(rng, p, second, by_name=False)]
    return turns


def _about_town(rng: Rng) -> list[str]:
    t, row = town(rng.choice(TOWNS)), rng.choice(ABOUT_TOWN)
    return [rng.choice(row[2:]).format(t=t), rng.choice(row[:2]).format(t=t)]


def _yes_no(rng: Rng) -> list[str]:
    p = person(rng.choice(NAMES))
    if rng.random() < 0.5:
        job = rng.choice((p.a_job, _an(rng.choice(JOBS)[0])))
        return [f"Is {p.name} {job}?", f"{'Yes' if job == p.a_job else 'No'}, {p.name} is {p.a_job}."]
    place = rng.choice((p.town, rng.choice(TOWNS)))
    yes = "Yes" if place == p.town else "No"
    return [f"Does {p.name} live in {place}?", f"{yes}, {p.name} lives in {p.town}."]


def _reading(rng: Rng) -> list[str]:
    """Three people have three things: the answer is in the question."""
    names, things, counts = rng.sample(NAMES, 3), rng.sample(THINGS, 3), rng.sample(range(2, 100), 3)
    told = [f"{name} has {n} {thing}s." for name, n, thing in zip(names, counts, things, strict=True)]
    i = rng.randrange(3)
    who = [f"Who has the {things[i]}s?", f"{names[i]} has the {things[i]}s."]
    count = [f"How many {things[i]}s does {names[i]} have?", told[i]]
    turns = rng.choice((who, count, who + count))
    return [" ".join((*told, turns[0])), *turns[1:]]


def _common(rng: Rng) -> list[str]:
    scene = _lore(rng)
    return [template.format_map(scene) for template in rng.choice(CHATS)]


TALKS = (_about_person, _about_person, _about_town, _yes_no, _reading, _reading, _common, _common)


def chat_about_world(split: str, index: int) -> Conversation:
    """One or two turns: a greeting, or a question whose answer is in it or in the world's facts.

    The same facts are asked in both splits: a greeting or a short question may be drawn in both.
    """
    rng = _rng("chat", split, index)
    question, answer, *more = rng.choice(TALKS)(rng)
    conversation = chat(question, answer)
    for said, answered in zip(more[::2], more[1::2], strict=True):
        conversation["messages"] += chat(said, answered)["messages"]
    return conversation
