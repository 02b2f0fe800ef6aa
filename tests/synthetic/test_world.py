"""The built-in world: reproducible, held out where it says so, its sums right, its errands really done."""

import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from lanbot.chat.messages import Conversation, Part, parts, spoken, validate
from lanbot.synthetic import world
from lanbot.synthetic.world import chats, documents, errands, grammar, problems, scene
from lanbot.tasks.agent_tasks import AgentEnv
from lanbot.tasks.registry import make_task
from lanbot.tools.memory import Memory
from lanbot.tools.python_call import PythonCalls
from lanbot.tools.tool import Toolset
from lanbot.tools.words import STOP_WORDS
from lanbot.tools.workspace import Workspace

FILES = sorted(path.stem for path in Path(grammar.__file__).parent.glob("*.txt"))
SPLITS = ("train", "test")
WHO = ("Robi", "Ada Byron", "cheerful")
Text = str | Conversation

# These change only when the world is changed on purpose: every model of the demo has read other texts then.
PINNED = "fd7ed2ef4787927b58890c0eab033fe0785d92ace69793a45c496991cae971e5"

MAKERS: dict[str, tuple[int, Callable[[str, int], Text]]] = {
    "documents": (1_500, world.document),
    "talk": (4_000, world.talk),
    "identity": (3_000, lambda split, i: world.identity_chat(*WHO, split, i)[0]),
    "problems": (4_000, world.problem_chat),
    "errands": (2_500, world.errand_chat),
    "long chats": (800, lambda split, i: world.long_chat(*WHO, split, i)),
    "spelling": (350, lambda split, i: make_task("simple_spelling:builtin", split).conversation(i)),
    "counting": (350, lambda split, i: make_task("spelling_bee:builtin", split).conversation(i)),
}
"""All that is trained on or tested with, and how many of each are looked at here."""


def said(text: Text) -> list[str]:
    """All that a document or a conversation says, calls and outputs too."""
    return [text] if isinstance(text, str) else [part["text"] for m in text["messages"] for part in parts(m)]


def question(conversation: Conversation) -> str:
    return spoken(conversation["messages"][0])


def words_in(texts: list[str]) -> set[str]:
    return set(re.findall(r"[^\W\d_]+", " ".join(texts)))


Place = tuple[str, str, int]
"""File, section, number of a row."""


@dataclass
class Watched:
    """What a split was seen to make: its texts by kind, the rows that it drew, those it solved, and what it drew."""

    texts: dict[str, list[Text]] = field(default_factory=dict)
    rows: set[Place] = field(default_factory=set)
    solved: set[Place] = field(default_factory=set)
    drawn: dict[str, set[Any]] = field(default_factory=dict)

    def said(self, *kinds: str) -> list[str]:
        return [piece for kind in kinds or self.texts for text in self.texts[kind] for piece in said(text)]


def places(cell: int) -> dict[int, Place]:
    """The identity of a cell -> where it stands."""
    return {
        id(row[cell]): (file, section, place)
        for file in FILES
        for section, table in grammar.sections(file).items()
        for place, row in enumerate(table)
        if len(row) > cell
    }


@contextmanager
def watching() -> Iterator[Watched]:
    seen = Watched()
    questions, steps = places(0), places(1)
    fill_itself, solve_itself = grammar.fill, problems.solve

    def fill(cell: grammar.Cell, *rest: Any) -> str:
        if id(cell) in questions:
            seen.rows.add(questions[id(cell)])
        return fill_itself(cell, *rest)

    def solve(cell: grammar.Cell, of: scene.Scene) -> list[Part]:
        seen.solved.add(steps[id(cell)])
        return solve_itself(cell, of)

    def noted(method: Callable[..., Any], kind: str) -> Callable[..., Any]:
        def draw(self: scene.Scene, *arguments: Any) -> Any:
            value = method(self, *arguments)
            seen.drawn.setdefault(arguments[0] if kind == "of" else kind, set()).add(value)
            return value

        return draw

    with pytest.MonkeyPatch.context() as patch:
        for module in (chats, documents, errands, grammar, problems):
            patch.setattr(module, "fill", fill)
        patch.setattr(problems, "solve", solve)
        for name in ("of", "number", "invented", "made_up"):
            patch.setattr(scene.Scene, name, noted(getattr(scene.Scene, name), name))
        yield seen


def watch(split: str) -> Watched:
    with watching() as seen:
        for kind, (count, make) in MAKERS.items():
            seen.texts[kind] = [make(split, i) for i in range(count)]
    return seen


@pytest.fixture(scope="module")
def train() -> Watched:
    return watch("train")


@pytest.fixture(scope="module")
def tested() -> Watched:
    return watch("test")


@pytest.fixture(params=SPLITS)
def seen(request: pytest.FixtureRequest) -> Watched:
    return request.getfixturevalue("train" if request.param == "train" else "tested")


@pytest.fixture(scope="module")
def practised() -> Watched:
    with watching() as seen:
        for i in range(3_000):
            world.word_problem("train", i, practice=True)
    return seen


# -- reproducible ------------------------------------------------------------------------------------------


def a_few(split: str, count: int = 20) -> list[str]:
    made = [json.dumps(make(split, i)) for _, make in MAKERS.values() for i in range(count)]
    made += [repr(world.errand(split, i)) for i in range(count)]
    return made + [repr(world.word_problem(split, i, practice=True)) for i in range(count)]


@pytest.mark.parametrize("split", SPLITS)
def test_a_text_depends_on_split_and_index_alone(split: str) -> None:
    def of(i: int) -> list[Any]:
        made = [make(split, i) for _, make in MAKERS.values()]
        return [*made, world.errand(split, i), world.word_problem(split, i)]

    forwards = [of(i) for i in range(25)]
    assert [of(i) for i in reversed(range(25))] == forwards[::-1]
    assert of(3) == forwards[3] != of(4)


def test_the_first_texts_are_pinned() -> None:
    """Each run of the tests has other hashes of strings, so the texts do not depend on them either."""
    digest = hashlib.sha256("\n".join(a_few("train", 50) + a_few("test", 50)).encode()).hexdigest()
    assert digest == PINNED, f"the world has changed; if that was meant, pin {digest}"


@pytest.mark.parametrize("make", [world.document, world.talk, world.word_problem, world.errand, world.errand_chat])
def test_an_unknown_split_is_refused(make: Callable[[str, int], Text]) -> None:
    with pytest.raises(ValueError, match="'val'"):
        make("val", 0)


# -- every text ---------------------------------------------------------------------------------------------


def test_no_slot_or_choice_is_left_open(seen: Watched) -> None:
    assert not [text for text in seen.said() if re.search(r"[{}|]", text)]
    asked = [question(chat) for kind in seen.texts if kind != "documents" for chat in seen.texts[kind]]
    assert not [text for text in asked if re.search(r"[][]|  | [.,?!]|^ | $|^$", text.replace(" = ?", "=?"))]


def test_articles_agree(seen: Watched) -> None:
    wrong = re.compile(r"\b[Aa] [aeiou]\w+|\b[Aa]n (?!hour)[^aeiouAEIOU\W]\w+")
    kinds = seen.texts.keys() - {"counting"}  # is there a in banana?
    assert not [found for text in seen.said(*kinds) for found in wrong.findall(text)]


def test_every_conversation_is_one(seen: Watched) -> None:
    texts = seen.texts
    for kind in texts.keys() - {"documents"}:
        for i, conversation in enumerate(texts[kind]):
            messages = validate(conversation, f"{kind} {i}")["messages"]
            assert [m["role"] for m in messages] == ["user", "assistant"] * (len(messages) // 2), (kind, i)
    turns = [len(chat["messages"]) for chat in texts["long chats"]]
    assert min(turns) >= 4 and max(turns) >= 6


def test_texts_are_many_and_no_document_is_in_both_splits(train: Watched, tested: Watched) -> None:
    assert not set(train.texts["documents"]) & set(tested.texts["documents"])
    for seen in (train, tested):
        assert len(set(seen.texts["documents"])) > 0.97 * len(seen.texts["documents"])
        assert len({question(chat) for chat in seen.texts["problems"]}) > 0.97 * len(seen.texts["problems"])
        lengths = [len(text.split()) for text in seen.said("documents")]
        assert min(lengths) >= 4 and max(lengths) <= 200 and sum(lengths) / len(lengths) > 25


def test_words_are_distinct_lowercase_and_short() -> None:
    assert len(world.WORDS) == len(set(world.WORDS)) >= 3_000
    assert all(re.fullmatch("[a-z]{3,12}", word) for word in world.WORDS)
    assert 0.1 < sum(map(world.held_out, world.WORDS)) / len(world.WORDS) < 0.15


# -- what is held out ----------------------------------------------------------------------------------------

OPEN = {("stories", section) for section in ("start", "event", "end", "how_to", "person", "town")}
"""What base training states: facts must be seen to be known. Questions about them are held out instead."""


def sections() -> Iterator[tuple[str, str, int]]:
    for file in FILES:
        for section, table in grammar.sections(file).items():
            yield file, section, len(table)


def test_train_never_draws_a_fifth_of_the_rows_of_any_section(
    train: Watched, practised: Watched, tested: Watched
) -> None:
    for file, section, size in sections():
        drawn = {place for f, s, place in train.rows | practised.rows if (f, s) == (file, section)}
        drawn_by_tests = {place for f, s, place in tested.rows if (f, s) == (file, section)}
        never = set(range(size)) - drawn
        if (file, section) in OPEN:
            continue
        assert len(never) >= 0.2 * size, f"{file}.txt [{section}]: train draws {len(drawn)} of {size} rows"
        assert all(map(grammar.held_out_row, never)), f"{file}.txt [{section}]: nothing draws {sorted(never)}"
        if (file, section) not in {("tools", s) for s in ("forget", "edit", "list")}:  # trained, but not tested
            new_only = file == "identity"  # its questions have no names or numbers that would make them new
            asked = set(filter(grammar.held_out_row, range(size))) if new_only else set(range(size))
            assert drawn_by_tests == asked, f"{file}.txt [{section}]: the test draws {sorted(drawn_by_tests)}"


def test_a_question_about_people_and_towns_is_held_out_of_each_kind(train: Watched, tested: Watched) -> None:
    for section in ("person", "town"):
        for row in grammar.sections("stories")[section]:
            asked = re.compile(re.sub(r"\\\{.*?\\\}", ".+", re.escape("".join(map(str, row[3])))))
            assert not [text for text in train.said("talk", "long chats") if asked.fullmatch(text)], row[3]
            assert [text for text in tested.said("talk", "long chats") if asked.fullmatch(text)], row[3]


def wordings(cell: grammar.Cell) -> set[str]:
    """All that a cell can say, slots left open."""
    choices = [(piece,) if isinstance(piece, str) else piece for piece in cell]
    return {"".join(pieces) for pieces in itertools.product(*choices)}


@pytest.mark.parametrize("file", [file for file in FILES if file != "stories"])
def test_no_other_row_asks_what_a_held_out_row_asks(file: str) -> None:
    for section, table in grammar.sections(file).items():
        trained = set().union(*(wordings(row[0]) for i, row in enumerate(table) if not grammar.held_out_row(i)))
        for place, row in enumerate(table):
            own = wordings(row[0])
            known = own & trained
            if grammar.held_out_row(place) and file != "facts":
                assert len(known) <= 0.2 * len(own), f"{file}.txt [{section}] {place}: {known}"


def test_practised_problems_are_never_solved_in_training(train: Watched, practised: Watched) -> None:
    assert practised.solved and not practised.solved & train.solved
    for file, section, size in sections():
        if file == "problems":
            theirs = {place for _, s, place in practised.rows if s == section}
            ours = {place for _, s, place in train.solved if s == section}
            assert theirs == {place for place in range(size) if place % 4 == problems.PRACTICE_AT}
            assert ours == {place for place in range(size) if place % 4 in (0, 2)}
    lessons = [text for text in train.texts["documents"] if isinstance(text, str) and "####" in text]
    assert len(lessons) > 50, "no lesson was checked"


def test_problems_know_what_training_shows_of_them() -> None:
    assert {world.word_problem("train", i).seen for i in range(300)} == {"demonstrated"}
    assert {world.word_problem("train", i, practice=True).seen for i in range(300)} == {"practised"}
    seen = Counter(world.word_problem("test", i).seen for i in range(1_000))
    assert set(seen) == {"demonstrated", "practised", "never"} and min(seen.values()) > 200


ROWS = [row for file in FILES for table in grammar.sections(file).values() for row in table]
TEMPLATES = words_in([wording for row in ROWS for cell in row for wording in wordings(cell)])
TOOLS = words_in([*Toolset([*Workspace({}).tools, *Memory().tools])])
KNOWN = (
    TEMPLATES
    | TOOLS
    | set(scene.GOODS)
    | {thing for thing, _ in scene.COLORED}
    | {scene.plural(g) for g in scene.GOODS}
)
"""What everybody knows or every template may say: tools, prices of goods, colors of things."""


def test_no_stranger_of_the_tests_was_met_in_training(train: Watched, tested: Watched) -> None:
    strangers = [{str(name) for name in seen.drawn["people"] | seen.drawn["invented"]} for seen in (train, tested)]
    assert min(map(len, strangers)) > 1_000
    assert not strangers[0] & strangers[1]
    met = {word for word in words_in(train.said()) if not word.endswith(scene._TOWN_ENDS)}  # Kal and Kal-by differ
    assert not (strangers[1] & met) - TEMPLATES - words_in([*WHO])
    assert not {name.title() for name in strangers[1]} & {*scene.CAST, *scene.TOWNS}


def test_no_noun_or_word_of_the_tests_was_drawn_in_training() -> None:
    drawn = []
    for split in SPLITS:
        with watching() as seen:
            for kind, (count, make) in MAKERS.items():
                for i in range(count // 2 if kind != "documents" else 0):  # every document may spell words of train
                    make(split, i)
        drawn.append({kind: {str(one) for one in seen.drawn[kind]} for kind in ("things", "words", "stems", "made_up")})
    train, test = (set().union(*kinds.values()) for kinds in drawn)
    assert all(len(kind) > 5 for kind in drawn[1].values())
    assert not train & test


def test_what_the_tests_name_is_not_said_in_training_unless_all_know_it(train: Watched, tested: Watched) -> None:
    nouns = {str(noun) for noun in tested.drawn["things"] | tested.drawn["stems"]} - KNOWN
    assert nouns
    assert not nouns & words_in(train.said())


def test_no_larger_number_of_the_tests_was_drawn_in_training(train: Watched, tested: Watched) -> None:
    numbers = [{n for n in seen.drawn["number"] if n > 12} for seen in (train, tested)]
    assert min(map(len, numbers)) > 300 and min(numbers[0]) == 13
    assert not numbers[0] & numbers[1]


SPELLED = re.compile(r"(?<![\w-])\w(?:-\w){2,}(?![\w-])")


def test_no_word_of_the_spelling_tests_is_spelled_in_training(train: Watched) -> None:
    tested = set(make_task("simple_spelling:builtin", "test").words)  # type: ignore[attr-defined]
    trained = make_task("simple_spelling:builtin", "train")
    spelled = [word.replace("-", "") for text in train.said("documents") for word in SPELLED.findall(text)]
    assert len(spelled) > 500 and len(tested) > 300
    assert not tested & {*spelled, *trained.words}  # type: ignore[attr-defined]


# -- documents: people and towns are the same everywhere ------------------------------------------------------


def test_every_kind_of_document_is_drawn(train: Watched) -> None:
    drawn = " ".join(train.said("documents"))
    for sign in ("is spelled", "First,", "plus", "opposite", "Who has the", "home town", "by train", "asked", "####"):
        assert sign in drawn, sign


def test_a_person_is_the_same_everywhere(train: Watched, tested: Watched) -> None:
    stated = " ".join(train.said("documents", "talk") + tested.said("documents", "talk"))
    seen = re.findall(r"\b([A-Z][a-z]+) (lives in|is|works as|likes to eat) (an? \w+|\w+)[. ]", stated)
    facts = {"lives in": "town", "is": "a_job", "works as": "a_job", "likes to eat": "food"}
    jobs = {scene.an(job) for job, _ in scene.JOBS}
    checked = 0
    for name, verb, what in seen:
        if name in scene.CAST and (verb != "is" or what in jobs):
            assert getattr(scene.person(name), facts[verb]) == what, (name, verb, what)
            checked += 1
    assert checked > 500


def test_a_town_is_the_same_everywhere(train: Watched, tested: Watched) -> None:
    stated = " ".join(train.said("documents", "talk") + tested.said("documents", "talk"))
    checked = 0
    for name, day in re.findall(r"The market of (\w+) is on (\w+)", stated):
        assert scene.town(name).market == day
        checked += 1
    for name, following, minutes in re.findall(r"A train from (\w+) to (\w+) takes (\d+) minutes", stated):
        assert (scene.town(name).next, str(scene.town(name).minutes)) == (following, minutes)
        checked += 1
    assert checked > 50


# -- sums and problems -----------------------------------------------------------------------------------------


def computed(code: str) -> Fraction:
    """A sum worked out without the calculator, exactly."""
    assert re.fullmatch(r"[\d+*/()-]+", code), code
    return eval(re.sub(r"\d+", r"Fraction('\g<0>')", code), {"Fraction": Fraction})


def steps(solution: list[Part]) -> list[tuple[str, str]]:
    """(code, output) of each call."""
    calls = [i for i, part in enumerate(solution) if part["type"] == "python"]
    assert all(solution[i + 1]["type"] == "output" for i in calls)
    return [(solution[i]["text"], solution[i + 1]["text"]) for i in calls]


PROBLEMS = {"demonstrated": ("train", False), "practised": ("train", True), "test": ("test", False)}


@pytest.mark.parametrize("which", PROBLEMS)
def test_every_solution_is_right_whole_and_positive(which: str) -> None:
    split, practice = PROBLEMS[which]
    for i in range(3_000):
        problem = world.word_problem(split, i, practice)
        results = steps(problem.solution)
        assert 1 <= len(results) <= 2
        for code, result in results:
            value = computed(code)
            assert value.denominator == 1 and value > 0, (problem.question, code)
            assert result == str(value), (problem.question, code)
        assert problem.answer == results[-1][1]
        assert problem.solution[-1]["text"] == f"\n#### {problem.answer}"


@pytest.mark.parametrize("which", PROBLEMS)
def test_a_solution_uses_every_number_of_its_question_once_and_no_other(which: str) -> None:
    """So no template asks with one number and solves with another."""
    split, practice = PROBLEMS[which]
    for i in range(3_000):
        problem = world.word_problem(split, i, practice)
        used: Counter[str] = Counter()
        for step, (code, _) in enumerate(steps(problem.solution)):
            used.update(re.findall(r"\d+", code))
            if step:
                used.subtract([steps(problem.solution)[step - 1][1]])
        assert min(used.values()) >= 0, f"a step does not use the result before it: {problem}"
        used.subtract(re.findall(r"\d+", problem.question))
        assert min(used.values()) >= 0, f"a number of the question is not used: {problem.question} {problem.solution}"
        in_words = content(problem.question)
        for number in (+used).elements():
            word = scene.IN_WORDS[int(number)] if int(number) < 100 else "?"
            doubled = number == "2" and re.search(r"twice|half|doubl", problem.question)
            assert word in in_words or doubled, f"{number} is not in the question: {problem.question}"


def content(text: str) -> set[str]:
    """Its words that say what is meant; Will is a man."""
    return {"will!" if word == "Will" else word.casefold() for word in re.findall(r"\w+", text)} - STOP_WORDS


def test_sums_in_talk_are_right(seen: Watched) -> None:
    checked = 0
    for conversation in seen.texts["talk"]:
        answer = conversation["messages"][1]
        for code, result in steps(parts(answer)):
            value = computed(code)
            shown = str(value) if value.denominator == 1 else f"{float(value):.10g}"
            assert result == shown and spoken(answer) == f"That is {shown}."
            numbers = re.findall(r"\d+", question(conversation))
            assert sorted(numbers) == sorted(re.findall(r"\d+", code.replace("/100", "")))
            checked += 1
    assert checked > 500


def test_a_comparison_is_answered_rightly(train: Watched, tested: Watched) -> None:
    checked = 0
    for conversation in train.texts["talk"] + tested.texts["talk"]:
        asked, answer = (spoken(message) for message in conversation["messages"][:2])
        stated = re.fullmatch(r"(?:(Yes|No), )?(\d+) is (larger|smaller) than (\d+)\.", answer)
        if stated:
            yes, first, relation, second = stated.groups()
            assert (int(first) > int(second)) == (relation == "larger")
            x, y = map(int, re.findall(r"\d+", asked))
            assert {first, second} == {str(x), str(y)}
            smaller = re.search(r"smaller|less|lower", asked) is not None
            if yes:
                assert (yes == "Yes") == ((x < y) if smaller else (x > y)), asked
            else:
                assert relation == ("smaller" if smaller else "larger"), asked
            checked += 1
    assert checked > 100


def test_what_comes_after_is_right(train: Watched, tested: Watched) -> None:
    checked = 0
    for text in train.said("talk", "documents") + tested.said("talk"):
        for before, after in re.findall(r"After (\w+) comes (\w+)\.", text):
            ring = next((r for r in (scene.DAYS, scene.MONTHS) if before in r), None)
            assert after == (ring[(ring.index(before) + 1) % len(ring)] if ring else str(int(before) + 1))
            checked += 1
    assert checked > 300


# -- facts and reading -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("section", ["stated", "mine"])
def test_a_fact_is_found_by_a_word_of_its_question_and_says_what_was_not_asked(section: str) -> None:
    for place, row in enumerate(grammar.sections("facts")[section]):
        for i in range(20):
            stated = chats.fact(row, grammar.rng_of(f"fact {place}", "train", i), "train")
            statement, asked, key, heart = stated
            assert re.search(rf"(?<!\w){re.escape(key)}(?!\w)", asked), stated
            assert key in statement, stated
            assert re.search(rf"(?<!\w){re.escape(heart)}(?!\w)", statement), stated
            assert not re.search(rf"(?<!\w){re.escape(heart)}(?!\w)", asked), stated


VERBS = re.compile(r"\b(?:gave|sold|lent|bought|found|lost|buy|find|lose|give|sell|lend)\b")
PAST = {"buy": "bought", "find": "found", "lose": "lost", "give": "gave", "sell": "sold", "lend": "lent"}


def test_a_question_about_a_fact_uses_the_verb_of_its_statement() -> None:
    checked = 0
    for place, row in enumerate(grammar.sections("facts")["stated"]):
        for i in range(20):
            statement, asked, _, _ = chats.fact(row, grammar.rng_of(f"verb {place}", "train", i), "train")
            verbs = [[PAST.get(verb, verb) for verb in VERBS.findall(text)] for text in (statement, asked)]
            assert verbs[0] == verbs[1] or not verbs[0] or not verbs[1], (statement, asked)
            checked += bool(verbs[0])
    assert checked > 20


def answers_to(asked: str, statement: str, lines: list[str]) -> list[str]:
    """The lines that say all that the question and its answer have in common: each could be the answer."""
    common = content(asked) & content(statement)
    return [line for line in lines if common <= content(line)]


@pytest.mark.parametrize("split", SPLITS)
def test_a_reading_question_has_one_answer(split: str) -> None:
    statements = Counter()
    for i in range(4_000):
        conversation = chats._reading(grammar.rng_of("reading", split, i), split)
        *stated, asked = re.split(r"(?<=\.) (?=[A-Z])", question(conversation))
        answer = spoken(conversation["messages"][1])
        assert asked.endswith("?") and answer in stated
        assert answers_to(asked, answer, stated) == [answer], question(conversation)
        statements[len(stated)] += 1
    assert set(statements) <= {1, 2, 3, 4} and statements[1] < 400 and statements[4] > 500


# -- errands ----------------------------------------------------------------------------------------------------


def made(split: str, how: errands.How, i: int) -> tuple[errands.Errand, scene.Scene]:
    maker = errands._Maker(grammar.rng_of(f"made {how.__name__}", split, i), split)
    return maker.make("", how), maker.scene


HOWS = {how.__name__.strip("_"): how for how in errands.TRAINED}


def replay(errand: errands.Errand) -> tuple[AgentEnv, Memory]:
    """The errand done again with tools of its own, call by call."""
    desk = AgentEnv(errand)
    memory = desk.memory
    assert memory is not None
    for reply in errand.replies:
        request = desk.request()
        assert request is not None and not desk.right()
        for code, result in steps(reply):
            assert desk.tools(code) == result, (request, code)
        desk.answered(request, {"role": "assistant", "content": reply})
    return desk, memory


@pytest.mark.parametrize("split", SPLITS)
def test_every_call_of_an_errand_is_what_the_tools_answer_and_its_reply_is_right(split: str) -> None:
    kinds: Counter[str] = Counter()
    longer = 0
    for i in range(300):
        errand = world.errand(split, i)
        before = dict(errand.files)
        desk, _ = replay(errand)
        assert desk.right(), errand
        assert desk.request() is None and errand.files == before
        assert errand.said or errand.written
        kinds[errand.kind] += 1
        longer += errand.calls > 1 or len(errand.requests) > 1
    assert set(kinds) == set(errands.KINDS) and len(set(kinds.values())) == 1
    assert longer > 100, "a third takes two calls or conversations"


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("split", SPLITS)
def test_every_kind_of_errand_that_is_trained_on_is_really_done(split: str, how: str) -> None:
    for i in range(30):
        errand, _ = made(split, HOWS[how], i)
        desk, memory = replay(errand)
        said = spoken({"role": "assistant", "content": errand.replies[-1]})
        assert said
        if HOWS[how] in {one for hows in errands.TESTED.values() for one in hows}:
            assert desk.right()
        if how == "forget":
            asked = errand.requests[-1]
            assert not [text for _, text in memory.all() if text in asked]
            assert len(memory.all()) == len(errand.known) - 1
        if how == "edit":
            call = steps(errand.replies[-1])[0][0]
            name, old, new = json.loads(f"[{call.removeprefix('edit_file(').removesuffix(')')}]")
            assert desk.files[name] == errand.files[name].replace(old, new)
        if how == "list":
            assert all(name in said for name in errand.files) and (errand.files or said == "There are no files.")
        if how == "unknown" and errand.requests != ["Hello!"]:
            assert [result for _, result in steps(errand.replies[-1])] == ["nothing found"]
        if how == "nothing_found":
            assert [result for _, result in steps(errand.replies[-1])] == ["no match"]


ASKED = ["read", "read_found", "search", "misnamed", "search_compute"]


@pytest.mark.parametrize("how", ASKED)
@pytest.mark.parametrize("split", SPLITS)
def test_exactly_one_line_of_the_files_answers(split: str, how: str) -> None:
    for i in range(150):
        errand, drawn = made(split, HOWS[how], i)
        lines = [line for text in errand.files.values() for line in text.split("\n")]
        if how == "search_compute":
            asked, (statement,) = drawn["thing"], [line for line in lines if f"The {drawn['thing']} costs" in line]
        else:
            asked, statement = drawn["question"], spoken({"role": "assistant", "content": errand.replies[-1]})
        if how == "misnamed" and statement.startswith("There is no file"):
            continue
        assert answers_to(asked, statement, lines) == [statement], (asked, errand.files)
        shown = "\n".join(result for _, result in steps(errand.replies[-1]))
        assert statement in shown
        if how.startswith("search"):
            (key,) = re.findall(r'^search_files\("(.*)"\)$', steps(errand.replies[-1])[0][0])
            assert [line for line in lines if all(word in line for word in key.split())] == [statement]
            assert key in errand.requests[-1], "the model cannot know what to look for"


def test_what_is_remembered_comes_back_in_the_next_conversation() -> None:
    for i in range(4, 500, 5):
        errand = world.errand("test", i)
        (remembered, _), (code, found) = steps(errand.replies[0])[0], steps(errand.replies[1])[0]
        assert len(errand.requests) == 2 and remembered.startswith("remember(") and code.startswith("recall(")
        fact = json.loads(remembered.removeprefix("remember(").removesuffix(")"))
        assert fact in errand.requests[0] and fact not in errand.requests[1] and fact in found
        assert not [known for known in errand.known if errand.said in known]
        alone = PythonCalls(Toolset([*Workspace({}).tools, *Memory().tools]))
        assert alone(code) == "nothing found", "the answer is not in memory without the first conversation"


def test_tested_errands_need_two_calls_now_and_then() -> None:
    counts = Counter((errand.kind, errand.calls) for errand in (world.errand("test", i) for i in range(300)))
    assert {kind for kind, calls in counts if calls == 2} == {"compute", "read", "write", "search"}


# -- identity ---------------------------------------------------------------------------------------------------

NAMES = ["Robi", "Mia", "LanBot 2", "{braces}", "ChatGPT", "Žofie", "Oscar"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("maker", ["Ada Byron", "", "Karl"])
@pytest.mark.parametrize("split", SPLITS)
def test_an_answer_names_bot_and_maker_and_denies_to_be_another(name: str, maker: str, split: str) -> None:
    by = maker or "the person who runs me"
    others = {other for of in chats.OTHERS.values() for other in of} | {"LanBot"}
    for i in range(400):
        conversation, section = world.identity_chat(name, maker, "cheerful.", split, i)
        asked, answer = (spoken(message) for message in conversation["messages"])
        assert name in answer and by in answer, (asked, answer)
        own = answer.replace(name, "").replace(by, "")
        named = words_in([own]) & others
        if section == "other":
            assert re.match(r"No, |I am not ", answer)
            denied = re.match(r"I am not (.+?)\. ", answer)
            assert not denied or (denied[1] in asked and denied[1].casefold() != name.casefold())
            assert named <= {denied[1]} if denied else not named
            assert name not in asked.split() and not re.search(rf"\b{re.escape(by)}\b", asked), (asked, answer)
        else:
            assert not named, answer
        if section == "self":
            assert name in asked and re.match(r"Yes, |Hello! |I am\. ", answer)


def test_no_other_identity_is_taught(train: Watched, tested: Watched) -> None:
    for seen in (train, tested):
        assert not [text for text in seen.said() if "LanBot" in text]
        for kind in ("documents", "talk", "problems", "errands"):
            assert not [text for text in seen.said(kind) if "Robi" in text or "Ada Byron" in text]
        assert [text for text in seen.said("long chats") if "Robi" in text and "Ada Byron" in text]


def test_the_personality_is_stated() -> None:
    for split in SPLITS:
        stated = [world.identity_chat("Robi", "", "a calm poet.", split, i)[0]["messages"][1] for i in range(99)]
        assert any(spoken(answer).endswith("a calm poet.") for answer in stated)


def test_openers_and_bots_of_the_tests_are_held_out(train: Watched, tested: Watched) -> None:
    asked = {
        split: [question(c) for c in seen.texts["identity"]] for split, seen in (("train", train), ("test", tested))
    }
    for opener in set(chats.OPENERS["test"]) - {""}:
        rows = [text for text in asked["train"] if text.startswith(opener)]
        assert not rows and [text for text in asked["test"] if text.startswith(opener)]
    for split, other in (("train", "test"), ("test", "train")):
        everything = " ".join(asked[split])
        assert all(re.search(rf"\b{bot}\b", everything) for bot in chats.OTHERS[split])
        assert not any(re.search(rf"\b{bot}\b", everything) for bot in chats.OTHERS[other])


# -- the handwritten questions ------------------------------------------------------------------------------------


def normal(text: str) -> str:
    return re.sub(r"\W+", " ", text.casefold()).strip()


def test_no_handwritten_question_is_generated_for_training() -> None:
    chats = ("everyday", "world_chat", "identity:builtin", "long_chat")
    names = ("word_problems", "word_problems:practice", *chats, "agent_tasks")
    asked = {
        normal(spoken(message))
        for task in [make_task(name, "train") for name in (*names, "simple_spelling:builtin", "spelling_bee:builtin")]
        for i in range(2_500)
        for message in task.conversation(i)["messages"]
        if message["role"] == "user"
    }
    handwritten = make_task("handwritten", "test")
    assert len(asked) > 10_000
    lines = [i + 1 for i in range(len(handwritten)) if normal(question(handwritten.conversation(i))) in asked]
    assert not lines, f"{len(lines)} handwritten questions are trained on word by word: replace them"


def test_nothing_that_makes_training_data_reads_the_handwritten_questions() -> None:
    root = Path(world.__file__).parents[1]
    sources = [path for path in root.rglob("*") if path.suffix in (".py", ".txt")]
    assert len(sources) > 12
    assert not [
        path.name for path in sources if re.search("handwritten|newcomer\\.", path.read_text("utf-8").casefold())
    ]
