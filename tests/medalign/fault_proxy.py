"""A proxy in front of an S3 server that breaks what a plan says, seeded. boto3 and pyarrow both go through it."""

import asyncio
import contextlib
import random
import socket
import struct
import threading
import urllib.parse
from collections import Counter
from dataclasses import dataclass, field

ANSWERS = {
    "slow_down": (503, "Slow Down", "SlowDown"),
    "internal": (500, "Internal Server Error", "InternalError"),
    "throttle": (429, "Too Many Requests", "TooManyRequests"),
    "expired": (403, "Forbidden", "ExpiredToken"),
    "missing": (404, "Not Found", "NoSuchKey"),
    "error_in_200": (200, "OK", "InternalError"),
}
BROKEN = ("reset", "truncate", "wrong_length", "flip", "slow")
FAULTS = (*ANSWERS, *BROKEN, "refuse", "hang")


@dataclass
class Rule:
    """One line of a plan.

    fault: of FAULTS. reset and truncate happen after the server has done its work: the answer is what is lost.
    operation: as S3 names it (GetObject, UploadPart, ...), "*" for every one.
    share: of the matching requests, drawn from the proxy's seed.
    times: how often at most, None for ever.
    key: must be part of the path.
    access_key: must have signed the request, where given.
    after: bytes of the body that pass before a reset or a truncation; drawn where None.
    rate: bytes per second, of slow.
    """

    fault: str
    operation: str = "*"
    share: float = 1.0
    times: int | None = None
    key: str = ""
    access_key: str = ""
    after: int | None = None
    rate: int = 1024
    used: int = field(default=0, init=False)

    def __post_init__(self):
        assert self.fault in FAULTS, self.fault


class FaultProxy:
    """`with FaultProxy(url, seed=1) as proxy:`, then `proxy.rules[:] = [Rule(...)]` at any time."""

    def __init__(self, backend: str, *, rules: tuple[Rule, ...] = (), seed: int = 0):
        self._host, self._port = urllib.parse.urlsplit(backend).hostname, urllib.parse.urlsplit(backend).port
        self.rules = list(rules)
        self.requests: Counter[str] = Counter()
        self.injected: Counter[str] = Counter()
        self._draw = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._open: set[asyncio.StreamWriter] = set()

    def __enter__(self):
        self._thread.start()
        start = asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(start, self._loop).result(10)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_):
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def let_go(self):
        """Break every open connection: what hangs ends."""
        asyncio.run_coroutine_threadsafe(self._break_all(), self._loop).result(10)

    async def _break_all(self):
        for writer in list(self._open):
            _reset(writer)

    async def _end(self):
        self._server.close()
        await self._break_all()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader, writer):
        self._open.add(writer)
        try:
            while head := await _read_head(reader):
                if not await self._exchange(head, reader, writer):
                    break
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client has gone, or the proxy ends
        finally:
            self._open.discard(writer)
            writer.close()

    async def _exchange(self, head: bytes, reader, writer) -> bool:
        """Answer one request; False where the connection is not to be used again."""
        headers = _headers(head)
        operation = classify(head, headers)
        self.requests[operation] += 1
        rule = self._due(operation, head, headers)
        fault = rule.fault if rule else None
        if fault == "refuse":
            _reset(writer)
            return False
        if headers.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        assert "transfer-encoding" not in headers, "a client that sends chunks"
        if fault == "hang":
            await reader.read()
            return False
        is_head = head.startswith(b"HEAD")
        if fault in ANSWERS:
            writer.write(_error(*ANSWERS[fault], is_head=is_head))
            await writer.drain()
            return True
        answer = await self._forward(head, body)
        return await self._pass_on(answer, writer, rule, is_head=is_head)

    def _due(self, operation: str, head: bytes, headers: dict[str, str]) -> Rule | None:
        path = urllib.parse.unquote(head.split(b" ", 2)[1].decode())
        signed = headers.get("authorization", "")
        for rule in self.rules:
            is_meant = rule.operation in ("*", operation) and rule.key in path
            is_meant = is_meant and (not rule.access_key or f"Credential={rule.access_key}/" in signed)
            if rule.fault == "error_in_200" and operation != "CompleteMultipartUpload":
                is_meant = False
            if rule.fault in ("wrong_length", "flip") and operation != "GetObject":
                is_meant = False
            if is_meant and (rule.times is None or rule.used < rule.times) and self._draw.random() < rule.share:
                rule.used += 1
                self.injected[rule.fault] += 1
                return rule
        return None

    async def _forward(self, head: bytes, body: bytes) -> bytes:
        lines = [line for line in head.split(b"\r\n") if not line.lower().startswith((b"connection:", b"expect:"))]
        lines.insert(1, b"Connection: close")
        backend, sender = await asyncio.open_connection(self._host, self._port)
        try:
            sender.write(b"\r\n".join(lines) + body)
            await sender.drain()
            return await backend.read()
        finally:
            sender.close()

    async def _pass_on(self, answer: bytes, writer, rule: Rule | None, *, is_head: bool) -> bool:
        head, _, body = answer.partition(b"\r\n\r\n")
        lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
        fault = rule.fault if rule else None
        if fault == "flip" and body:
            broken = bytearray(body)
            broken[self._draw.randrange(len(body))] ^= 1 << self._draw.randrange(8)
            body = bytes(broken)
        if fault == "wrong_length" and body:
            body = body[: len(body) // 2]
            lines = [line for line in lines if not line.lower().startswith(b"content-length:")]
            lines.append(b"Content-Length: %d" % len(body))
        if fault in ("reset", "truncate"):
            after = rule.after if rule.after is not None else self._draw.randrange(len(body) + 1) // 2
            if body and not is_head:
                writer.write(b"\r\n".join(lines) + b"\r\n\r\n" + body[:after])
                await writer.drain()
            _reset(writer) if fault == "reset" else writer.close()
            return False
        writer.write(b"\r\n".join(lines) + b"\r\n\r\n")
        for start in range(0, len(body), step := rule.rate // 10 + 1 if fault == "slow" else len(body) + 1):
            writer.write(body[start : start + step])
            await writer.drain()
            if fault == "slow":
                await asyncio.sleep(0.1)
        await writer.drain()
        return True


def classify(head: bytes, headers: dict[str, str]) -> str:
    """Return a request's operation, as S3 names it."""
    method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
    parts = urllib.parse.urlsplit(target)
    query = urllib.parse.parse_qs(parts.query, keep_blank_values=True)
    has_key = bool(parts.path.strip("/").partition("/")[2])
    if method == "GET":
        return "GetObject" if has_key and "list-type" not in query else "ListObjects"
    if method == "HEAD":
        return "HeadObject" if has_key else "HeadBucket"
    if method == "PUT":
        return "UploadPart" if "partNumber" in query else "PutObject" if has_key else "CreateBucket"
    if method == "POST":
        named = {"uploads": "CreateMultipartUpload", "uploadId": "CompleteMultipartUpload", "delete": "DeleteObjects"}
        return next((name for word, name in named.items() if word in query), "Post")
    return "AbortMultipartUpload" if "uploadId" in query else "DeleteObject"


async def _read_head(reader) -> bytes:
    with contextlib.suppress(asyncio.IncompleteReadError):
        return await reader.readuntil(b"\r\n\r\n")
    return b""


def _headers(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}


def _error(status: int, reason: str, code: str, *, is_head: bool) -> bytes:
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>planned</Message></Error>'.encode()
    head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + (b"" if is_head else body)


def _reset(writer) -> None:
    """Close a connection so that the other side sees it broken."""
    found = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
