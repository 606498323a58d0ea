"""Answers: a malformed one is an answer with a problem, and JSON is read strictly."""

import json

import pytest
from chat_endpoint import chat

from medalign.language_models import parse_object
from medalign.language_models.answers import open_envelope


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (chat("text"), ""),
        (chat("half", reason="length"), "cut off at max_tokens"),
        (chat("half", reason="content_filter"), "cut by the endpoint's content filter"),
        (chat(None, refusal="I cannot."), "the model refused"),
        (chat(""), "an empty answer"),
        (chat(None), "an empty answer"),
        (chat(["a", "part"]), "an empty answer"),
    ],
)
def test_an_envelope_says_whether_its_answer_is_whole(reply, problem):
    assert open_envelope(reply[1].encode()).problem == problem


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"null",
        b"[]",
        b"{}",
        b'{"choices": []}',
        b'{"choices": [{"message": null}]}',
        b"\xff\xfe",
        b"[" * 99999,
    ],
)
def test_what_is_no_envelope_is_an_answer_with_a_problem(body):
    answer = open_envelope(body, tries=2)
    assert answer.problem == "not the envelope of a chat completion"
    assert len(answer.text) <= 200
    assert answer.tries == 2


def test_counts_that_are_missing_or_no_numbers_are_zero():
    body = json.loads(chat("text")[1])
    for usage in (None, {}, {"prompt_tokens": "many", "completion_tokens": -1}):
        answer = open_envelope(json.dumps({**body, "usage": usage}).encode())
        assert (answer.prompt_tokens, answer.completion_tokens) == (0, 0)


@pytest.mark.parametrize("text", ['{"a": 1}', ' {"a": 1}\n', '```json\n{"a": 1}\n```', '```\n{"a": 1}\n```\n'])
def test_one_object_is_read_with_or_without_a_fence_around_it(text):
    assert parse_object(text) == {"a": 1}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "not JSON"),
        ('Sure! {"a": 1}', "not JSON"),
        ('{"a": 1} {"a": 2}', "not JSON"),
        ('{"a": 1', "not JSON"),
        ('["a"]', "JSON, but a list"),
        ("7", "JSON, but a int"),
        ('{"a": 1, "a": 2}', "the key 'a' twice"),
        ('{"a": NaN}', "NaN"),
        ('{"a": ' + "[" * 99999, "nested too deeply"),
    ],
)
def test_everything_else_is_refused_with_the_reason(text, expected):
    with pytest.raises(ValueError, match=expected):
        parse_object(text)
