"""What an endpoint's answer says: the text within its envelope, and the JSON object within the text."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

_FENCE = re.compile(r"\s*```(?:json)?[ \t]*\n(?P<text>.*)\n[ \t]*```\s*", re.DOTALL | re.IGNORECASE)
SHOWN = 200


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer.

    Attributes:
        text: what the model wrote; where the envelope is malformed, the beginning of what came instead.
        problem: why the answer is of no use, "" for a whole one.
        is_rejected: the endpoint did not put the question to the model: too long, or a setting that it does not take.
        tries: the requests that it took.
        prompt_tokens, completion_tokens: as the endpoint counts them, 0 where it does not.
    """

    text: str
    problem: str = ""
    is_rejected: bool = False
    tries: int = 1
    prompt_tokens: int = 0
    completion_tokens: int = 0


def open_envelope(body: bytes, *, tries: int = 1) -> Answer:
    """Return the answer within the body of a chat completion; a malformed body is an answer with a problem."""
    text = body.decode("utf-8", errors="replace")
    try:
        envelope = parse_object(text)
        choice = envelope["choices"][0]
        message, reason = choice["message"], choice.get("finish_reason")
        content, refusal = message.get("content"), message.get("refusal")
    except (ValueError, LookupError, TypeError, AttributeError):
        return Answer(text=text[:SHOWN], problem="not the envelope of a chat completion", tries=tries)
    usage = envelope.get("usage")
    problem = ""
    if refusal:
        problem, content = "the model refused", str(refusal)
    elif not isinstance(content, str) or not content.strip():
        problem = "an empty answer"
    elif reason == "length":
        problem = "cut off at max_tokens"
    elif reason == "content_filter":
        problem = "cut by the endpoint's content filter"
    return Answer(
        text=content if isinstance(content, str) else "",
        problem=problem,
        tries=tries,
        prompt_tokens=_count(usage, "prompt_tokens"),
        completion_tokens=_count(usage, "completion_tokens"),
    )


def parse_object(text: str) -> dict[str, Any]:
    """Return the one JSON object that a text is; a code fence around the whole of it is taken off.

    Raises:
        ValueError: anything else: words around it, a key twice, NaN or Infinity, another value than an object.
    """
    fenced = _FENCE.fullmatch(text)
    try:
        found = json.loads(fenced["text"] if fenced else text, object_pairs_hook=_once, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("not JSON that is read: nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at character {error.pos})") from None
    if not isinstance(found, dict):
        raise ValueError(f"JSON, but a {type(found).__name__} where an object was due")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} twice")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant}, which is no JSON")


def _count(usage: Any, name: str) -> int:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and value >= 0 else 0
