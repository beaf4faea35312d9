"""A fake OpenAI-compatible upstream on a real socket, that says what it received."""

import asyncio
import json
import socket
import threading
from contextlib import contextmanager

import uvicorn


class Upstream:
    """Answers chats; `mode` injects faults."""

    def __init__(self):
        self.received = []
        self.mode = "answer"
        self.cancelled = threading.Event()
        self.url = ""

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return
        body = b""
        while True:
            event = await receive()
            body += event.get("body", b"")
            if not event.get("more_body"):
                break
        self.received.append((scope["method"], scope["path"], dict(scope["headers"]), body))
        if self.mode == "hang":
            while (await receive())["type"] != "http.disconnect":
                pass
            self.cancelled.set()
            return
        streamed = self.mode == "die" or b'"stream": true' in body or b'"stream":true' in body
        kind = b"text/event-stream" if streamed else b"application/json"
        status = 429 if self.mode == "refuse" else 200
        if self.mode == "strict" and b'"system"' in body:
            status = 400
        headers = [(b"content-type", kind), (b"x-request-id", b"7")]
        headers.append((b"set-cookie", b"session=first"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
        if not streamed:
            answer = {
                "id": "1",
                "object": "chat.completion",
                "created": 1,
                "model": "made",
                "choices": [
                    {
                        "index": 0,
                        "finish_reason": "stop",
                        "message": {"role": "assistant", "content": "Hello"},
                    }
                ],
                "usage": usage,
            }
            await send({"type": "http.response.body", "body": json.dumps(answer).encode()})
            return
        for word in ("Hel", "lo"):
            delta = {"index": 0, "delta": {"content": word}, "finish_reason": None}
            await self._event(send, {"choices": [delta]})
            if self.mode == "die":
                raise RuntimeError("upstream dies in mid-stream")
            await asyncio.sleep(0)
        last = {"index": 0, "delta": {}, "finish_reason": "stop"}
        await self._event(send, {"choices": [last], "usage": usage})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    async def _event(self, send, chunk):
        chunk = {
            "id": "1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "made",
            **chunk,
        }
        data = b"data: " + json.dumps(chunk).encode() + b"\n\n"
        await send({"type": "http.response.body", "body": data, "more_body": True})


@contextmanager
def served(application):
    """An ASGI application on uvicorn on a free loopback port, in a thread."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(application, log_level="critical"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        thread.join(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
