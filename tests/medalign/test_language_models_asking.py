"""Asking an endpoint: what is tried again and what is not, deadlines, and that the key goes nowhere else."""

import pickle
import time

import pytest
from chat_endpoint import ChatEndpoint, chat, refusal

from medalign.errors import EndpointError
from medalign.language_models import Endpoint, ask

QUESTION = [{"role": "user", "content": "What is seen?"}]
KEY = "canary-key-0123456789"


@pytest.fixture
def server(monkeypatch):
    """An endpoint that answers `{}` to everything that is not planned."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("MEDALIGN_ENDPOINT_KEY", KEY)
    endpoint = ChatEndpoint(otherwise=lambda request: chat("{}"))
    yield endpoint
    endpoint.close()


def settings(server, **changes):
    """An impatient client."""
    wanted = {"tries": 4, "seconds": 5.0, "try_seconds": 1.0, "first_wait_seconds": 0.01, **changes}
    return Endpoint(url=server.url, model="small", **wanted)


def test_a_question_arrives_as_the_api_has_it_and_the_answer_comes_back_whole(server):
    server.plan([chat('{"a": 1}')])
    answer = ask(settings(server, temperature=0.5, top_p=None), QUESTION)
    assert (answer.text, answer.problem, answer.tries) == ('{"a": 1}', "", 1)
    assert (answer.prompt_tokens, answer.completion_tokens) == (11, 7)
    (request,) = server.requests
    assert request == {
        "path": "/v1/chat/completions",
        "method": "POST",
        "model": "small",
        "messages": QUESTION,
        "temperature": 0.5,
        "max_tokens": 1024,
        "response_format": {"type": "json_object"},
    }
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"


def test_without_a_key_none_is_sent_and_a_limit_may_have_its_other_name(server, monkeypatch):
    monkeypatch.delenv("MEDALIGN_ENDPOINT_KEY")
    ask(settings(server, limit_key="max_completion_tokens", max_tokens=5, is_json=False), QUESTION)
    assert "Authorization" not in server.headers[0]
    assert server.requests[0]["max_completion_tokens"] == 5
    assert not {"max_tokens", "response_format"} & set(server.requests[0])


@pytest.mark.parametrize("bad", [refusal(429), refusal(500), refusal(503), (502, "<html>bad gateway", {}), "cut"])
def test_what_passes_is_asked_again(server, bad):
    server.plan([bad, bad])
    answer = ask(settings(server), QUESTION)
    assert (answer.text, answer.tries) == ("{}", 3)
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (401, "HTTP 401: no; the key in MEDALIGN_ENDPOINT_KEY is not accepted."),
        (403, "HTTP 403: no; the key in MEDALIGN_ENDPOINT_KEY is not accepted."),
        (404, "HTTP 404: no; check the address (it ends before /chat/completions) and the model 'small'."),
        (405, "HTTP 405: no."),
    ],
)
def test_a_refusal_is_final_and_says_what_to_check(server, status, expected):
    server.plan([refusal(status)])
    with pytest.raises(EndpointError) as refused:
        ask(settings(server), QUESTION)
    assert str(refused.value) == f"{server.url}/chat/completions: {expected}"
    assert refused.value.status == status
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_rejected_question_is_an_answer_with_a_problem(server, status):
    server.plan([refusal(status, "too long")])
    answer = ask(settings(server), QUESTION)
    assert answer.is_rejected
    assert answer.problem == f"the endpoint rejects the question (HTTP {status}: too long)"
    assert len(server.requests) == 1


def test_tries_are_bounded(server):
    server.plan([refusal(500, "out\nof \x1b[31mmemory")] * 9)
    with pytest.raises(EndpointError, match=r"HTTP 500: out of \[31mmemory; given up after 4 tries"):
        ask(settings(server), QUESTION)
    assert len(server.requests) == 4


def test_a_spent_account_is_not_asked_again(server):
    server.plan([refusal(429, "You exceeded your quota.", code="insufficient_quota")])
    with pytest.raises(EndpointError, match=r"HTTP 429: You exceeded your quota\.$"):
        ask(settings(server), QUESTION)
    assert len(server.requests) == 1


def test_the_wait_that_the_server_asks_for_is_kept(server):
    server.plan([refusal(429, Retry_After="1")])
    began = time.monotonic()
    assert ask(settings(server), QUESTION).tries == 2
    assert 1.0 <= time.monotonic() - began < 2.5


def test_a_longer_wait_than_the_deadline_ends_it_at_once(server):
    server.plan([refusal(429, Retry_After="3600")])
    began = time.monotonic()
    with pytest.raises(EndpointError, match=r"asks to wait 3600 s, more than is left of 5 s"):
        ask(settings(server), QUESTION)
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("way", ["hang", "drip"])
def test_a_server_that_is_silent_or_slow_is_left_and_asked_again(server, way):
    server.plan([way])
    began = time.monotonic()
    answer = ask(settings(server, try_seconds=0.3), QUESTION)
    assert (answer.text, answer.tries) == ("{}", 2)
    assert 0.3 <= time.monotonic() - began < 1.5


def test_the_deadline_ends_everything(server):
    server.plan(["hang"] * 9)
    began = time.monotonic()
    with pytest.raises(EndpointError, match=r"no whole answer within"):
        ask(settings(server, tries=9, seconds=0.7, try_seconds=0.3), QUESTION)
    assert time.monotonic() - began < 1.5


def test_nobody_there_is_one_line(server):
    server.close()
    with pytest.raises(EndpointError, match=r"Connection refused; given up after 2 tries") as refused:
        ask(settings(server, tries=2), QUESTION)
    assert refused.value.status == 0


def test_a_redirect_is_not_followed(server):
    other = ChatEndpoint(otherwise=lambda request: chat("stolen"))
    server.plan([refusal(302, Location=f"{other.url}/chat/completions")])
    with pytest.raises(EndpointError, match="it redirects, which is not followed"):
        ask(settings(server), QUESTION)
    other.close()
    assert not other.requests


def test_a_refusal_travels_between_processes_with_its_status(server):
    server.plan([refusal(403)])
    with pytest.raises(EndpointError) as refused:
        ask(settings(server), QUESTION)
    back = pickle.loads(pickle.dumps(refused.value))
    assert (str(back), back.status, back.exit_code) == (str(refused.value), 403, 2)


def test_the_key_is_in_no_message_even_if_the_server_repeats_it(server):
    server.plan([refusal(401, f"Incorrect API key provided: {KEY}")])
    with pytest.raises(EndpointError) as refused:
        ask(settings(server), QUESTION)
    assert KEY not in str(refused.value)
    assert "***" in str(refused.value)
    assert KEY not in repr(settings(server))


def test_a_key_that_no_header_holds_is_named_by_its_variable(server, monkeypatch):
    monkeypatch.setenv("MEDALIGN_ENDPOINT_KEY", "schlüssel\u2028zwei")
    with pytest.raises(EndpointError, match=r"the key in MEDALIGN_ENDPOINT_KEY cannot be sent in a header\.$"):
        ask(settings(server), QUESTION)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"url": "localhost:8000"}, "url must be http"),
        ({"url": "ftp://host/v1"}, "url must be http"),
        ({"url": "http:///v1"}, "url must be http"),
        ({"url": "http://host:port/v1"}, "url must be http"),
        ({"url": "https://me:secret@host/v1"}, "url must hold no key"),
        ({"url": "https://host/v1?api-key=secret"}, "url must hold no key"),
        ({"model": " "}, "model must be"),
        ({"temperature": 3.0}, "temperature must be in"),
        ({"top_p": 0.0}, "top_p must be in"),
        ({"tries": 0}, "tries must be >= 1"),
        ({"seconds": float("inf")}, "seconds must be > 0 and finite"),
    ],
)
def test_settings_are_checked_and_no_secret_is_repeated(changes, expected):
    with pytest.raises(ValueError, match=expected) as refused:
        Endpoint(**{"url": "http://host/v1", "model": "small", **changes})
    assert "secret" not in str(refused.value)
