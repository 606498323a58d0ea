"""Settings of a chat endpoint: where it is, which model answers, how patiently it is asked."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import ClassVar, Literal
from urllib.parse import urlsplit

KEY_VARIABLE = "MEDALIGN_ENDPOINT_KEY"


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """An OpenAI-compatible chat endpoint. It holds no secret, so it may be written into recipes and sent to workers.

    Attributes:
        url: the address before `/chat/completions`, e.g. https://api.openai.com/v1 or http://localhost:8000/v1.
        model: the model's name there.
        key_variable: the environment variable that holds the key; a process without it sends none.
        temperature, top_p: of the answer; the endpoint's own if None.
        max_tokens: the answer's limit.
        limit_key: what the endpoint calls that limit.
        is_json: ask the endpoint for a JSON object; off for a server that does not know `response_format`.
        tries: most requests for one answer.
        seconds: the deadline of one answer, waits included.
        try_seconds: the limit of one request, whether the server is silent or slow.
        first_wait_seconds: the longest wait after the first failure; it doubles with each.
    """

    __pydantic_config__: ClassVar[dict] = {"extra": "forbid", "strict": True}

    url: str
    model: str
    key_variable: str = KEY_VARIABLE
    temperature: float | None = 0.0
    top_p: float | None = 0.95
    max_tokens: int = 1024
    limit_key: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    is_json: bool = True
    tries: int = 6
    seconds: float = 300.0
    try_seconds: float = 60.0
    first_wait_seconds: float = 1.0

    def __post_init__(self) -> None:
        _check_url(self.url)
        if not self.model.strip():
            raise ValueError("model must be the name of a model at the endpoint, got an empty one.")
        if self.temperature is not None and not 0 <= self.temperature <= 2:
            raise ValueError(f"temperature must be in [0, 2], got {self.temperature}.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}.")
        for name in ("max_tokens", "tries"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}.")
        for name in ("seconds", "try_seconds", "first_wait_seconds"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be > 0 and finite, got {value}.")

    @property
    def completions_url(self) -> str:
        """Where a question goes."""
        return f"{self.url.rstrip('/')}/chat/completions"

    def key(self) -> str:
        """Return the key of this process's environment, "" if there is none."""
        return os.environ.get(self.key_variable, "").strip()


def _check_url(url: str) -> None:
    """Refuse an address that is not one; what may be a secret is not repeated."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("url must hold no key, user, ? or #; the key is read from the environment.")
    if parts.scheme not in ("http", "https") or not host or any(not " " < letter <= "~" for letter in url):
        raise ValueError(f"url must be http(s)://host[:port]/path, e.g. http://localhost:8000/v1, got {url!r}.")
