import pytest

from lanbot.chat.messages import MAX_CHARS, chat, output, parts, python, spoken, text, validate
from lanbot.core.errors import UserError

USER = {"role": "user", "content": "2+2?"}
ANSWER = {"role": "assistant", "content": [text("It is "), python("2+2"), output("4"), text("4.")]}
SYSTEM = {"role": "system", "content": "Be brief."}
TOOL = {"role": "tool", "content": "4"}


@pytest.mark.parametrize(
    "messages",
    [
        [USER, ANSWER],
        [SYSTEM, USER, ANSWER],
        [USER, ANSWER, USER, ANSWER],
        [USER, ANSWER, USER],
        [USER, ANSWER, TOOL, ANSWER],
        [{"role": "user", "content": [text("2+2?")]}, ANSWER],
        [{"role": "user", "content": "a" * MAX_CHARS}, ANSWER],
        [{"role": "user", "content": "<|bos|> is a name like any other, 👩‍🚀"}, ANSWER],
    ],
)
def test_a_good_row_is_passed_on(messages: list) -> None:
    row = {"messages": messages, "source": "somewhere", "tools": []}
    assert validate(row, "here") is row
    assert validate(messages, "here") == {"messages": messages}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (None, "no list of messages"),
        ("hello", "no list of messages"),
        ({}, "no list of messages"),
        ({"text": "hello"}, "no list of messages"),
        ({"messages": "hello"}, "no list of messages"),
        ({"messages": []}, "no list of messages"),
        ([], "no list of messages"),
        ([USER], "nobody answers"),
        ([SYSTEM, ANSWER], "message 2 is the assistant's, before anyone asked"),
        ([TOOL, ANSWER], "message 1 is the tool's, before anyone asked"),
        ([{"role": "user", "content": " \n"}, ANSWER], "message 1 is empty"),
        ([USER, {"role": "assistant", "content": []}], "message 2 is empty"),
        ([USER, {"role": "assistant", "content": [text("")]}], "message 2 is empty"),
        ([USER, {"role": "assistant", "content": "a\ud800"}], "message 2 holds half of a surrogate pair"),
        ([{"role": "user", "content": "a" * 10_000_000}, ANSWER], "message 1 is 10,000,000 characters long"),
        ([SYSTEM], "nobody answers"),
        ([SYSTEM, USER], "nobody answers"),
        (["hello", ANSWER], "message 1 is not an object"),
        ([USER, None], "message 2 is not an object"),
        ([USER, {"role": "bot", "content": "4"}], "message 2 has the role 'bot'"),
        ([USER, {"content": "4"}], "message 2 has the role None"),
        ([USER, {"role": ["user"], "content": "4"}], "message 2 has the role"),
        ([USER, ANSWER, SYSTEM], "message 3 is a system message"),
        ([SYSTEM, SYSTEM, USER, ANSWER], "message 2 is a system message"),
        ([ANSWER], "message 1 is the assistant's"),
        ([USER, USER, ANSWER], "message 2 is the second of the role 'user'"),
        ([USER, ANSWER, ANSWER], "message 3 is the second of the role 'assistant'"),
        ([USER, {"role": "assistant"}], "message 2 has no content"),
        ([USER, {"role": "assistant", "content": None}], "message 2 has no content"),
        ([USER, {"role": "assistant", "content": 4}], "message 2 has no content"),
        ([USER, {"role": "assistant", "content": {"type": "text"}}], "message 2 has no content"),
        ([USER, {"role": "assistant", "content": ["4"]}], "message 2 has a part"),
        ([USER, {"role": "assistant", "content": [{"type": "image", "text": "4"}]}], "message 2 has a part"),
        ([USER, {"role": "assistant", "content": [{"type": "text"}]}], "message 2 has a part"),
        ([USER, {"role": "assistant", "content": [{"type": "text", "text": 4}]}], "message 2 has a part"),
        ([{"role": "user", "content": [python("2+2")]}, ANSWER], "message 1 has a python part"),
        ([{"role": "system", "content": [output("4")]}, USER, ANSWER], "message 1 has a output part"),
    ],
)
def test_a_broken_row_is_refused_with_its_place_and_what_is_wrong(row: object, said: str) -> None:
    with pytest.raises(UserError) as caught:
        validate(row, "chats.jsonl, line 7")
    assert caught.value.problem.startswith("chats.jsonl, line 7: ")
    assert said in caught.value.problem
    assert '"messages"' in caught.value.remedy and str(caught.value).count("\n") == 1


def test_chat_parts_and_spoken() -> None:
    conversation = validate(chat("2+2?", ANSWER["content"]), "here")
    assert conversation == {"messages": [USER, ANSWER]}
    assert parts(USER) == [text("2+2?")]
    assert spoken(USER) == "2+2?"
    assert spoken(ANSWER) == "It is 4."
