"""What a model is asked and what of its answer counts."""

import json
from dataclasses import replace

import pytest

from medalign.banks.instruction import Request, read_classes
from medalign.errors import BankError

WANTED = Request(name="cells", classes={"RBC": "red cell", "WBC": "white cell"}, per_class=2, most_words=5)


def test_a_question_names_the_class_the_others_and_the_limits():
    *_, question = replace(WANTED, about="blood smears").messages("RBC")
    assert question["content"] == (
        'The images are blood smears. Class: "red cell". Other classes: "white cell". '
        "Write exactly 2 descriptions of at most 5 words each."
    )
    assert [message["role"] for message in WANTED.messages("WBC")] == ["system", "user", "assistant", "user"]


def test_the_worked_example_keeps_the_rules_itself():
    messages = WANTED.messages("RBC")
    assert len(replace(WANTED, most_words=12).read_answer(messages[2]["content"])) == 2


def test_the_prompt_s_hash_follows_what_is_said_and_not_the_classes():
    same = replace(WANTED, classes={"a": "a"}, name="other", template="{}.")
    assert same.prompt_sha256 == WANTED.prompt_sha256
    changed = [replace(WANTED, per_class=3), replace(WANTED, most_words=6), replace(WANTED, about="smears")]
    assert len({wanted.prompt_sha256 for wanted in (WANTED, *changed)}) == 4


def answer(*sentences):
    """Return an answer of the right form."""
    return json.dumps({"descriptions": sentences})


def test_an_answer_s_blanks_are_put_right():
    assert WANTED.read_answer(answer(" A pink\n disc. ", "No nucleus.")) == ("A pink disc.", "No nucleus.")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Here you are: pink.", "not JSON"),
        ('["A.", "B."]', "a list where an object was due"),
        ('{"sentences": ["A.", "B."]}', "the object must be"),
        ('{"descriptions": ["A.", "B."], "note": "!"}', "the object must be"),
        ('{"descriptions": "A. B."}', "the object must be"),
        (answer("A.", 2), "a description that is no text"),
        (answer("A."), "1 descriptions where 2 were asked for"),
        (answer("A.", "B.", "C."), "3 descriptions where 2 were asked for"),
        (answer("A pink disc.", "a pink disc"), "description 2 is there twice"),
        (answer("A.", " "), "description 2 is empty"),
        (answer("A.", "B\x00"), "description 2 is empty or holds control characters"),
        (answer("A.", "One two three four five six."), "description 2 has 6 words, at most 5"),
    ],
)
def test_an_answer_that_cannot_be_used_says_why(text, expected):
    with pytest.raises(ValueError, match=expected):
        WANTED.read_answer(text)


def test_a_second_question_holds_the_first_answer_and_its_fault():
    messages = WANTED.again(WANTED.messages("RBC"), text='{"a": 1}', problem="no list")
    assert messages[-2] == {"role": "assistant", "content": '{"a": 1}'}
    assert messages[-1]["content"].startswith("That answer cannot be used: no list.")
    assert len(WANTED.again([], text=" ", problem="empty")) == 1


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"classes": {}}, "no classes"),
        ({"classes": {"a": "x", "b": "X"}}, "class 'b' is the same as 'a'"),
        ({"classes": {"a b": "x", "A_B": "y"}}, "class 'A_B' is the same as 'a b'"),
        ({"classes": {" ": "x"}}, "a class without a name"),
        ({"template": "no place"}, "the template must hold one {}"),
        ({"per_class": 0}, r"sentences per class must be in \[1, 100\], got 0"),
        ({"most_words": 2}, "words per sentence must be >= 3, got 2"),
    ],
)
def test_a_request_is_checked(changes, expected):
    with pytest.raises(BankError, match=expected):
        replace(WANTED, **changes)


def test_classes_are_read_a_line_each():
    text = "# cells\nRBC = red blood cell\n\nWBC=white cell # leukocyte\nbasophil_large\n"
    found = read_classes(text, place="x")
    assert found == {"RBC": "red blood cell", "WBC": "white cell", "basophil_large": "basophil large"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a\na\n", "x:2: the class 'a' is there twice"), ("a =\n", "x:1: write `name`"), ("\n= b\n", "x:2: write `name`")],
)
def test_a_line_that_is_no_class_is_named(text, expected):
    with pytest.raises(BankError, match=expected):
        read_classes(text, place="x")
