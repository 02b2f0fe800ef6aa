"""Identity data made offline: always the same, varied, and never wrong about who the bot is."""

import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from lanbot.chat.messages import Conversation, parts, spoken, validate
from lanbot.cli import identity as commands
from lanbot.config.recipe import Identity
from lanbot.core.errors import UsageError, UserError
from lanbot.synthetic.identity import offline, quality
from lanbot.synthetic.identity.draft import real_outputs
from lanbot.synthetic.identity.scene import COMPANIES, OTHERS, about, languages, low, swapped, table
from lanbot.synthetic.identity.talk import untrue
from lanbot.synthetic.identity.turns import unknown_languages
from lanbot.synthetic.identity.validate import problems
from lanbot.synthetic.world.grammar import sections
from lanbot.tools.calculator import answer

ROBI = Identity(
    "Robi",
    "Ada Quill",
    2024,
    "a small helper for a school library",
    "cheerful and brief",
    ("I count in dozens.", "I end with a pun"),
    ("explain sums step by step",),
    ("see pictures",),
    ("I live on an old laptop.",),
    ("English", "French", "Klingon"),
)
PLAIN = Identity("Zed")


@pytest.fixture(scope="module")
def robi() -> list[offline.Made]:
    return list(offline.made(ROBI, 1_000, 0))


@pytest.fixture(scope="module")
def plain() -> list[Conversation]:
    return list(offline.conversations(PLAIN, 2_000, 0))


def answers(rows: list[Conversation]) -> list[str]:
    return [spoken(message) for row in rows for message in row["messages"] if message["role"] == "assistant"]


def asked(rows: list[Conversation]) -> list[str]:
    return [spoken(message) for row in rows for message in row["messages"] if message["role"] == "user"]


def of(rows: list[offline.Made]) -> list[Conversation]:
    return [row.conversation for row in rows]


# -- the set


def test_the_same_rows_come_again_and_more_only_append(robi: list[offline.Made]) -> None:
    again = list(offline.conversations(ROBI, 200, 0))
    assert again == of(robi[:200])
    assert list(offline.conversations(ROBI, 20, 1)) != again[:20]


def test_two_thousand_are_varied_and_no_two_nearly_the_same(plain: list[Conversation]) -> None:
    found = quality.stats(plain)
    assert found["count"] == 2_000 and found["distinct_4"] >= 0.5
    assert found["closest_pair"][0] < 0.8
    assert quality.distinct_n(offline.conversations(ROBI, 2_000, 0)) >= 0.5
    assert 0.35 < found["multi_turn_share"] < 0.65 and found["tools_share"] > 0.08 and found["system_share"] > 0.05
    assert sum(len(quality.words_of(said)) < 60 for said in answers(plain)) > 0.97 * found["turns"]


def test_every_row_is_a_conversation_fit_to_train_on(robi: list[offline.Made], plain: list[Conversation]) -> None:
    for who, rows in ((ROBI, of(robi)), (PLAIN, plain[:500])):
        for i, row in enumerate(rows):
            validate(row, f"row {i}")
            assert problems(row, who) == [], row


def test_all_kinds_are_there(robi: list[offline.Made]) -> None:
    kinds = Counter(row.kind for row in robi)
    makers = {make.__name__.replace("_", " ") for make, _ in (*offline.ABOUT, *offline.WORK)}
    assert makers | {"the user's name", "what the user told", "pressure", "play"} == set(kinds)
    assert max(kinds.values()) < 0.15 * len(robi)


def test_nothing_is_left_to_fill_in_and_no_call_fails(robi: list[offline.Made], plain: list[Conversation]) -> None:
    for row in of(robi) + plain:
        for message in row["messages"]:
            for part in parts(message):
                assert "{" not in part["text"] and "}" not in part["text"] and "None" not in part["text"].split(), row
                assert "  " not in part["text"] and not part["text"].startswith("error"), row


def test_outputs_are_what_the_calculator_says(plain: list[Conversation]) -> None:
    checked = 0
    for row in plain:
        said = [part for message in row["messages"] for part in parts(message)]
        for call, result in pairwise(said):
            if call["type"] == "python" and not re.match(r"(read|write|list)_file|remember|recall", call["text"]):
                assert result == {"type": "output", "text": answer(call["text"])}
                checked += 1
    assert checked > 100


def test_all_calls_of_a_conversation_give_their_outputs_again_in_one_toolbox(plain: list[Conversation]) -> None:
    """One workspace and one memory a conversation, one call after the other."""
    several = 0
    for row in plain:
        said = [part for message in row["messages"] for part in parts(message)]
        told = [part["text"] for part in said if part["type"] == "output"]
        assert real_outputs(row) == told, row
        stateful = [part for part in said if re.match(r"(read|write|list)_file|remember|recall", part["text"])]
        several += sum(part["type"] == "python" for part in stateful) > 1
    assert several > 5
    listed = [row for row in plain if "list_files()" in json.dumps(row)]
    assert any("write_file" in json.dumps(row) for row in plain) and any("files" in row for row in listed)


def test_when_nothing_new_comes_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline, "NEAR", 0.0)
    monkeypatch.setattr(offline, "PATIENCE", 5)
    with pytest.raises(UserError, match="nothing new"):
        list(offline.conversations(PLAIN, 2, 0))


# -- who it is


def test_its_name_maker_and_year_are_never_wrong(robi: list[offline.Made]) -> None:
    said = "\n".join(answers(of(robi)))
    assert set(re.findall(r"[Mm]y name is (\w+)", said)) == {"Robi"}
    assert {name.split()[0] for name in re.findall(r"made by (\w+ \w+)", said)} == {"Ada"}
    assert set(re.findall(r"\bin (2\d\d\d)\b", said)) == {"2024"}
    names = {*OTHERS["train"], *COMPANIES["train"]}
    assert not {name for name in re.findall(r"\bI am (?:called )?(\w+)", said) if name in names}


def test_without_a_creator_the_person_who_runs_it_made_it(plain: list[Conversation]) -> None:
    said = "\n".join(answers(plain))
    assert "The person who runs me made me." in said and "person who runs you" not in said
    assert "person who runs me" not in "\n".join(asked(plain))
    assert "was made in" not in said


def test_what_the_recipe_says_of_it_is_said(robi: list[offline.Made]) -> None:
    said = "\n".join(answers(of(robi)))
    for line in ("cheerful and brief", "I count in dozens.", "I end with a pun.", "explain sums step by step"):
        assert line in said
    for line in ("cannot see pictures", "I live on an old laptop.", "a small helper for a school library", "in 2024"):
        assert line in said
    assert "I can see pictures" not in said and "cannot explain sums" not in said


def test_greetings_are_answered_in_the_languages_of_the_recipe_and_else_in_english(
    robi: list[offline.Made], plain: list[Conversation]
) -> None:
    assert len(languages()) >= 12
    french = [message for message in answers(of(robi)) if "Je suis Robi" in message]
    assert french and any("Soy Robi" not in message and "English" in message for message in answers(of(robi)))
    said = "\n".join(answers(plain))
    assert "Je suis" not in said and "I answer in English" in said


def test_the_languages_of_greetings_are_found_whatever_their_case_and_others_are_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    who = Identity("Zed", greetings=("ENGLISH", "japanese", " korean", "Klingon"))
    assert unknown_languages(who) == ["Klingon"] and unknown_languages(PLAIN) == []
    said = answers(list(offline.conversations(who, 600, 0)))
    assert any("Zedです" in words for words in said) and any("Zed입니다" in words for words in said)
    for words in said:  # it has said who it is
        assert not re.search(r"(です。|입니다\.) (I am|I'm|My name is|Yours)", words), words
    recipe = tmp_path / "zed.toml"
    recipe.write_text('[identity]\nname = "Zed"\ngreetings = ["French", "Klingon"]\n')
    commands.preview(str(recipe), count=1)
    assert capsys.readouterr().out.count("No greetings are known in Klingon") == 1


def test_no_greeting_is_of_two_languages() -> None:
    found: dict[str, str] = {}
    for language in languages():
        for row in sections("identity/hellos")[language]:
            greeting = " ".join(quality.words_of(str(row[0][0])))
            assert greeting not in found, (greeting, language, found[greeting])
            found[greeting] = language


def test_under_pressure_and_after_play_it_says_who_it_is(robi: list[offline.Made]) -> None:
    pressed = [row for row in robi if row.kind in ("pressure", "play")]
    assert len(pressed) > 80
    for row in pressed:
        last = spoken(row.conversation["messages"][-1])
        assert "Robi" in last and row.said == (("Robi",),)
    assert any(len(row.conversation["messages"]) >= 6 for row in pressed)


def test_the_users_name_is_remembered(robi: list[offline.Made]) -> None:
    named = [row for row in robi if row.kind == "the user's name"]
    for row in named:
        ((name,),) = row.said
        before = "\n".join(asked([row.conversation])[:-1])
        assert name.casefold() in before.casefold() and name in spoken(row.conversation["messages"][-1])
        said = "\n".join(answers([row.conversation]))
        assert not re.search(r"I only know my own name|do not know your name|have not told me your name", said), row
        assert "No, I do not know" not in said, row
    assert len(named) > 50
    assert any("No wait, I am" in said for row in named for said in asked([row.conversation]))


def test_who_the_user_is_the_user_says(plain: list[Conversation]) -> None:
    """No answer names a city or a job of the user's that was not said before, and no user has two homes."""
    homes = 0
    for row in plain:
        said = ""
        for message in row["messages"]:
            words = spoken(message)
            if message["role"] == "assistant":
                for city in re.findall(r"(?:[Gg]reetings|[Hh]ello) to ([A-Z]\w+)[!.]", words):
                    assert city.casefold() in said.casefold(), row
                for job in re.findall(r"[Nn]ice to meet (an? [\w ]+?)(?: from|[.!])", words):
                    assert job.casefold() in said.casefold(), row
            said += words + "\n"
        users = "\n".join(asked([row]))
        lives = re.findall(r"(?:I live in|[Hh]ello from|here in|I am an? [\w ]+ from|come from) ([A-Z]\w+)", users)
        moved = re.findall(r"I moved from (?:[A-Z]\w+) to ([A-Z]\w+)", users)
        assert len({*lives, *moved}) <= 1, row
        homes += len({*lives, *moved})
    assert homes > 60


def test_what_the_bot_can_do_is_said_with_can(plain: list[Conversation]) -> None:
    """ "I can add", never "I add"; nothing is remembered or noted without a call."""
    verbs = "add|multiply|divide|subtract|compare|spell|search|find|read|write|talk"
    for row in plain:
        for message in row["messages"]:
            if message["role"] == "assistant":
                words = spoken(message)
                able = re.search(rf"(?<!Shall )\bI ({verbs})\b", words)
                assert not able, row
                if all(part["type"] == "text" for part in parts(message)):
                    assert not re.search(r"I noted|I will remember|I keep (it )?in mind", words), row


def test_numbers_of_things_that_are_asked_for_are_given() -> None:
    two = [row for row in offline.made(PLAIN, 2_000, 5) if row.kind == "able"]
    asked_two = [row for row in two if "Name two things" in spoken(row.conversation["messages"][-2])]
    for row in asked_two:
        assert re.search(r"I can .+, and I can .+", spoken(row.conversation["messages"][-1])), row
    assert asked_two


def test_fixed_sentences_do_not_contradict_the_recipe() -> None:
    who = Identity(
        "Zed",
        capabilities=("play the piano", "be patient with beginners"),
        limitations=("browse the web", "remember things", "read files"),
        facts=("I live in a lighthouse in Oban.",),
    )
    rows = list(offline.conversations(who, 1_000, 0))
    said = "\n".join(answers(rows))
    assert "I can be patient with beginners" in said and "I can play the piano" in said
    assert not re.search(r"I (cannot|do not|never) [^.;:!?,]*\bplay\b", said)
    assert not re.search(r"I can [^.;:!?,]*\b(remember|files?)\b", said)
    assert not re.search(r"Without a body I cannot (browse|remember|read)|where it stands|I live in a computer", said)
    calls = [part["text"] for row in rows for m in row["messages"] for part in parts(m) if part["type"] == "python"]
    assert calls and not any(re.search("_file|remember", call) for call in calls)
    assert not re.search(r"I can (play the piano|be patient with beginners)\. I have tools for that", said)
    assert untrue("Yes, I can remember names.", who) and not untrue("I cannot browse the web.", who)


@pytest.mark.parametrize("name", ["Claude", "O'Neil 2.0", "{name}", "Ünal-Bot", "机器人"])
def test_any_name_will_do(name: str) -> None:
    rows = list(offline.conversations(Identity(name, creator="{Google} [x|y]"), 60, 0))
    assert all(any(name in said for said in answers([row])) for row in rows)
    assert not any(f"not {name}" in said for said in answers(rows))


# -- training and test


def test_tests_ask_in_rows_and_of_names_that_training_never_has() -> None:
    for file in ("asked", "talks", "jobs", "leads", "hellos"):
        for section in sections(f"identity/{file}"):
            if section.endswith("=") or (file, section) in (("leads", "offer"), ("leads", "extra"), ("talks", "sign")):
                continue
            assert table(file, section, "test"), f"{file} [{section}] has no row for tests"
            assert not set(table(file, section, "train")) & set(table(file, section, "test"))
    train = "\n".join(asked(list(offline.conversations(PLAIN, 400, 0))))
    test = "\n".join(asked(list(offline.conversations(PLAIN, 400, 0, "test"))))
    assert "Which name did you get?" in test and "Which name did you get?" not in train
    for name in OTHERS["test"] + COMPANIES["test"]:
        assert not re.search(rf"\b{name}\b", train)
    assert re.search(rf"\b({'|'.join(OTHERS['test'])})\b", test)


def test_another_split_is_refused() -> None:
    with pytest.raises(ValueError, match="split"):
        next(iter(offline.conversations(PLAIN, 1, 0, "dev")))


# -- words


@pytest.mark.parametrize(
    ("bot", "user"),
    [
        ("the person who runs me", "the person who runs you"),
        ("show you my sums", "show me your sums"),
        ("say what you are", "say what I am"),
        ("remember what you told me", "remember what I told you"),
        ("help you with your files", "help me with my files"),
        ("My own", "Your own"),
    ],
)
def test_pronouns_change_sides(bot: str, user: str) -> None:
    assert swapped(bot) == user


def test_a_sentence_after_a_comma_begins_small_but_for_names() -> None:
    assert low("Who are you?") == "who are you?" and low("Siri, is it you?") == "Siri, is it you?"
    assert low("I am here") == "I am here"


def test_a_description_may_begin_as_a_sentence() -> None:
    assert about(Identity(description="I am a small owl."))["is_a"] == "a small owl"


# -- the commands


def test_generate_stats_validate_and_preview(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "who.jsonl"
    commands.generate("demo", out=out, count=40)
    rows = [json.loads(line) for line in out.read_text().split("\n") if line]
    assert len(rows) == 40 and rows[0]["messages"]
    assert [path.name for path in tmp_path.iterdir()] == ["who.jsonl"]
    commands.stats(out)
    commands.validate(out, recipe="demo")
    commands.preview("demo", count=2)
    said = capsys.readouterr().out
    assert re.search(r"conversations +40\n", said) and "40 rows, all fit" in said
    assert re.search(r"^  LanBot: ", said, re.M) and "different 4-grams" in said


def test_validate_lists_what_is_bad(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bad.jsonl"
    good = {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I am LanBot."}]}
    bad = {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I am Siri."}]}
    file.write_text(f"{json.dumps(good)}\n{json.dumps(bad)}\nnonsense\n{json.dumps(bad['messages'])}\n")
    with pytest.raises(UserError, match="3 of 4 rows are bad"):
        commands.validate(file, recipe="demo")
    said = capsys.readouterr().out
    assert "line 2: " in said and "line 3: not JSON" in said and "line 4: " in said and "line 1: " not in said


def test_what_generate_cannot_do_is_said_before_it_begins(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        commands.generate("demo", out=tmp_path / "no" / "who.jsonl")
    with pytest.raises(UserError, match=r"not a \.jsonl"):
        commands.generate("demo", out=tmp_path / "who.txt")
    with pytest.raises(UsageError, match="out of range"):
        commands.generate("demo", out=tmp_path / "who.jsonl", count=0)
    for option in ({"model": "x"}, {"kinds": "tool_use"}, {"max_cost": 0.5}, {"price_in": 1.0}, {"concurrency": 2}):
        with pytest.raises(UsageError, match=f"--{next(iter(option)).replace('_', '-')} is for an endpoint"):
            commands.generate("demo", out=tmp_path / "who.jsonl", **option)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="needs a model"):
        commands.generate("demo", out=tmp_path / "who.jsonl", base_url="http://127.0.0.1:1/v1")
    with pytest.raises(UsageError, match="prices"):
        commands.generate("demo", out=tmp_path / "who.jsonl", base_url="http://127.0.0.1:1/v1", model="x")


def test_generate_adds_to_its_own_rows_and_overwrites_no_others(tmp_path: Path) -> None:
    out = tmp_path / "who.jsonl"
    commands.generate("demo", out=out, count=20)
    before = out.read_text()
    commands.generate("demo", out=out, count=30)
    assert out.read_text().startswith(before) and out.read_text().count("\n") == 30
    for changed in ({"count": 20}, {"count": 40, "seed": 1}):
        with pytest.raises(UserError, match="other rows") as refused:
            commands.generate("demo", out=out, **changed)
        assert "Delete it, or name another" in refused.value.remedy
    out.write_text('{"messages": "paid for"}\n')
    with pytest.raises(UserError, match="other rows"):
        commands.generate("demo", out=out, count=5)
    assert out.read_text() == '{"messages": "paid for"}\n'


def test_validate_and_stats_read_the_layouts_that_jsonl_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "other.jsonl"
    sharegpt = {"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "I am LanBot."}]}
    alpaca = {"instruction": "Who are you?", "input": "", "output": "I am LanBot, a small model."}
    file.write_text(f"{json.dumps(sharegpt)}\n{json.dumps(alpaca)}\n")
    commands.validate(file, recipe="demo")
    commands.stats(file)
    said = capsys.readouterr().out
    assert "2 rows, all fit" in said and re.search(r"conversations +2\n", said)
