"""Ask an endpoint one question: a request has a limit, is tried again with jitter, and all of it ends by a deadline."""

from __future__ import annotations

import email.utils
import http.client
import json
import logging
import random
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medalign.errors import EndpointError
from medalign.language_models.answers import SHOWN, Answer, open_envelope
from medalign.language_models.endpoint import Endpoint
from medalign.storage.retries import within

LONGEST_WAIT_S = 60.0
MAX_BODY = 4 << 20  # of an answer, in bytes
TRANSIENT = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})
ABOUT_THE_QUESTION = frozenset({400, 413, 422})  # another question may well be answered
SPENT = ("insufficient_quota", "billing_hard_limit_reached")  # a 429 that no waiting mends
_jitter = random.Random()  # from the system's entropy: workers must not come back in step
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Failure:
    """What one request came to: an HTTP status (0: none), why, and how long the server asks to wait."""

    status: int
    cause: str
    wait: float = 0.0
    is_final: bool = False


def ask(endpoint: Endpoint, messages: Sequence[Mapping[str, Any]]) -> Answer:
    """Return the endpoint's answer, as it came: a malformed, refused or cut one says so in `problem`.

    429, 5xx, resets and time-outs are tried again, after a wait with full jitter that doubles, or as long as the
    server asks; other refusals are not. A question that the endpoint rejects (400, 413, 422) is an answer with a
    problem, since the next question may well be taken.

    Args:
        endpoint: where, and how patiently.
        messages: {"role": "system" | "user" | "assistant", "content": ...} in order.

    Raises:
        EndpointError: it refuses (a wrong key, address or model), or the tries or the deadline are spent.
    """
    body = json.dumps(_request(endpoint, messages)).encode()
    began = time.monotonic()
    for number in range(1, endpoint.tries + 1):
        left = endpoint.seconds - (time.monotonic() - began)
        found = _try(endpoint, body, seconds=min(endpoint.try_seconds, left))
        if isinstance(found, bytes):
            return open_envelope(found, tries=number)
        if found.status in ABOUT_THE_QUESTION:
            problem = f"the endpoint rejects the question ({found.cause})"
            return Answer(text="", problem=problem, is_rejected=True, tries=number)
        wait = max(found.wait, _jitter.uniform(0, min(LONGEST_WAIT_S, endpoint.first_wait_seconds * 2 ** (number - 1))))
        left = endpoint.seconds - (time.monotonic() - began)
        if found.is_final or number == endpoint.tries or wait >= left:
            raise EndpointError(_explain(endpoint, found, tries=number, left=left), status=found.status)
        _log.info("%s: try %d failed (%s); the next in %.1f s", endpoint.url, number, found.cause, wait)
        time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def _request(endpoint: Endpoint, messages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    wanted = {"temperature": endpoint.temperature, "top_p": endpoint.top_p}
    return {
        "model": endpoint.model,
        "messages": [dict(message) for message in messages],
        endpoint.limit_key: endpoint.max_tokens,
        **{name: value for name, value in wanted.items() if value is not None},
        **({"response_format": {"type": "json_object"}} if endpoint.is_json else {}),
    }


def _try(endpoint: Endpoint, body: bytes, *, seconds: float) -> bytes | _Failure:
    """Make one request, and return the body of a 200 or what went wrong."""
    key = endpoint.key()
    headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "medalign"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(endpoint.completions_url, data=body, headers=headers, method="POST")
    seconds = max(seconds, 0.001)

    def send() -> bytes | _Failure:
        try:
            with _opener.open(request, timeout=seconds) as response:
                found = response.read(MAX_BODY)
                return _Failure(0, "the answer ends early") if response.length and len(found) < MAX_BODY else found
        except urllib.error.HTTPError as error:
            with error:
                wait = _asked_wait(error.headers.get("Retry-After"))
                return _refusal(error.code, error.read(MAX_BODY), wait=wait, key=key)

    try:
        return within(seconds, send)  # a socket's time-out never ends a server that drips
    except TimeoutError:
        return _Failure(0, f"no whole answer within {seconds:.3g} s")
    except urllib.error.URLError as error:
        return _Failure(0, _clean(str(error.reason), key))
    except (OSError, http.client.HTTPException) as error:
        return _Failure(0, _clean(f"{type(error).__name__}: {error}", key))
    except ValueError:  # http.client, of a key with a line break or another letter that no header holds
        return _Failure(0, f"the key in {endpoint.key_variable} cannot be sent in a header", is_final=True)


def _refusal(status: int, body: bytes, *, wait: float, key: str) -> _Failure:
    try:
        error = json.loads(body)["error"]
        code = str(error.get("code") or error.get("type") or "") if isinstance(error, dict) else ""
        text = str(error.get("message") or code) if isinstance(error, dict) else str(error)
    except (ValueError, LookupError, TypeError, RecursionError):
        code, text = "", body[:SHOWN].decode("utf-8", errors="replace")
    cause = _clean(f"HTTP {status}: {text}" if text.strip() else f"HTTP {status}", key)
    is_final = code in SPENT or status not in TRANSIENT
    return _Failure(status, cause, wait=wait, is_final=is_final)


def _asked_wait(text: str | None) -> float:
    """Return the seconds that a Retry-After header asks for: a number, or a date."""
    if not text:
        return 0.0
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def _explain(endpoint: Endpoint, failure: _Failure, *, tries: int, left: float) -> str:
    where = f"{endpoint.completions_url}: {failure.cause}"
    if failure.status in (401, 403):
        have = "is not accepted" if endpoint.key() else "is not set"
        return f"{where}; the key in {endpoint.key_variable} {have}."
    if failure.status == 404:
        return f"{where}; check the address (it ends before /chat/completions) and the model {endpoint.model!r}."
    if 300 <= failure.status < 400:
        return f"{where}; it redirects, which is not followed lest the key go elsewhere: give the final address."
    if failure.is_final:
        return f"{where}."
    if failure.wait > left:
        return f"{where}; it asks to wait {failure.wait:.0f} s, more than is left of {endpoint.seconds:.3g} s."
    return f"{where}; given up after {tries} tries within the deadline of {endpoint.seconds:.3g} s."


def _clean(text: str, key: str) -> str:
    """Return one short line for a message: no control characters, no key."""
    text = " ".join((text.replace(key, "***") if key else text).split())
    return "".join(letter for letter in text if letter.isprintable())[:SHOWN].rstrip(".")


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follow no redirect: it would take the key to another host, and turn the question into a GET."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


_opener = urllib.request.build_opener(_Stay)
