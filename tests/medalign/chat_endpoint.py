"""A chat endpoint on this machine that misbehaves as it is told: it serves HTTP, so that the client's own code runs."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Reply = tuple[int, str, dict]  # status, body, headers


def chat(text, *, reason="stop", **message):
    """Return a well-formed chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": reason}
    usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    return 200, json.dumps({"object": "chat.completion", "choices": [choice], "usage": usage}), {}


def refusal(status, message="no", *, code=None, **headers):
    """Return an error as OpenAI's API writes it; a header's underscores are hyphens."""
    body = json.dumps({"error": {"message": message, "code": code}})
    return status, body, {name.replace("_", "-"): value for name, value in headers.items()}


def described_class(request):
    """Return the class that a bank's question is about."""
    return re.search(r'Class: "([^"]+)"', request["messages"][3]["content"])[1]


def write_well(request):
    """Return as many distinct sentences as a bank's question wants."""
    count = int(re.search(r"exactly (\d+) descriptions", request["messages"][3]["content"])[1])
    name = described_class(request)
    return chat(json.dumps({"descriptions": [f"Trait {number} of {name} is seen." for number in range(count)]}))


class ChatEndpoint:
    """Answers with the planned replies in order, then with `otherwise`; remembers what it was asked."""

    def __init__(self, *, otherwise: Callable[[dict], Reply] = write_well, delay: float = 0.0):
        self.otherwise, self.delay = otherwise, delay
        self.requests: list[dict] = []
        self.headers: list[dict] = []
        self._planned: list = []
        self._lock = threading.Lock()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                endpoint._answer(self)

            def do_GET(self):  # where a redirected client would arrive
                endpoint._answer(self)

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def plan(self, replies: Iterable) -> "ChatEndpoint":
        """Answer with these next: replies, functions of the request, or `drip`, `cut` and `hang`."""
        self._planned += replies
        return self

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, handler):
        length = int(handler.headers.get("Content-Length") or 0)
        request = json.loads(handler.rfile.read(length)) if length else {}
        with self._lock:
            self.requests.append({"path": handler.path, "method": handler.command, **request})
            self.headers.append(dict(handler.headers))
            reply = self._planned.pop(0) if self._planned else self.otherwise
        time.sleep(self.delay)
        try:
            if isinstance(reply, str):
                WAYS[reply](handler)
                return
            status, body, headers = reply(request) if callable(reply) else reply
            handler.send_response(status)
            for name, value in {"Content-Length": str(len(body.encode())), **headers}.items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(body.encode())
        except OSError:  # the client has gone
            pass


def _drip(handler):
    """Send a byte now and then, each well within a socket's time-out."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(40):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)


def _cut(handler):
    """Close in the middle of an answer."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.close_connection = True


def _hang(handler):
    """Accept, and say nothing."""
    time.sleep(2)


WAYS = {"drip": _drip, "cut": _cut, "hang": _hang}
