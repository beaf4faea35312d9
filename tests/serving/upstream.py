"""A fake OpenAI-compatible upstream on a real socket; it records each request that it receives."""

import asyncio
import json
import socket
import threading
from contextlib import contextmanager

import uvicorn

from serving.http.asgi import respond
from serving.processes.protocol import GuardedProtocol

USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
RESPONSE_USAGE = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
MESSAGE_USAGE = {"input_tokens": 3, "output_tokens": 4}


class Upstream:
    """Answer chats, completions and responses; `mode` injects faults.

    Modes: answer; refuse (status 429); strict (status 400 if the body has a system text); die
    (the stream breaks off); cut (an unstreamed body is shorter than announced); hang (no answer);
    slow (waits for `release`).
    """

    def __init__(self):
        self.received = []
        self.mode = "answer"
        self.cancelled = threading.Event()
        self.release = threading.Event()
        self.usage = True
        # The model that is listed, and the one that answers name.
        self.model = self.named = "made"
        self.url = ""

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            while True:
                kind = (await receive())["type"]
                await send({"type": f"{kind}.complete"})
                if kind.endswith("shutdown"):
                    return
        body = b""
        while True:
            event = await receive()
            body += event.get("body", b"")
            if not event.get("more_body"):
                break
        if scope["path"] == "/v1/models" and b"user-agent" not in dict(scope["headers"]):
            # The gateway's own look, which sends no such field; tests do not count it.
            await respond(send, 200, json.dumps({"data": [{"id": self.model}]}).encode())
            return
        self.received.append((scope["method"], scope["path"], dict(scope["headers"]), body))
        if self.mode == "hang":
            while (await receive())["type"] != "http.disconnect":
                pass
            self.cancelled.set()
            return
        if self.mode == "slow":
            while not self.release.is_set():
                await asyncio.sleep(0.01)
        try:
            request = json.loads(body)
        except (ValueError, RecursionError):
            request = None
        request = request if isinstance(request, dict) else {}
        streamed = self.mode == "die" or request.get("stream") is True
        kind = b"text/event-stream" if streamed else b"application/json"
        status = 429 if self.mode == "refuse" else 200
        if self.mode == "strict" and b'"system"' in body:
            status = 400
        headers = [(b"content-type", kind), (b"x-request-id", b"7")]
        headers.append((b"set-cookie", b"session=first"))
        answer = json.dumps(self._answer(scope["path"])).encode()
        if not streamed:
            length = len(answer) + (10 if self.mode == "cut" else 0)
            headers.append((b"content-length", str(length).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        if not streamed:
            await send({"type": "http.response.body", "body": answer})
            return
        for event in self._events(scope["path"], request):
            await send({"type": "http.response.body", "body": event, "more_body": True})
            if self.mode == "die":
                raise RuntimeError("upstream dies in mid-stream")
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b""})

    def _answer(self, path):
        if path == "/v1/messages":
            return self._message([{"type": "text", "text": "Hello"}], MESSAGE_USAGE)
        if path == "/v1/responses":
            part = {"type": "output_text", "text": "Hello", "annotations": []}
            message = {"type": "message", "id": "m", "role": "assistant", "status": "completed"}
            return self._response() | {"output": [message | {"content": [part]}]}
        choice = {"index": 0, "finish_reason": "stop"}
        if path == "/v1/completions":
            choice |= {"text": "Hello", "logprobs": None}
        else:
            choice |= {"message": {"role": "assistant", "content": "Hello"}}
        kind = "text_completion" if path == "/v1/completions" else "chat.completion"
        usage = {"usage": USAGE} if self.usage else {}
        return {
            "id": "1",
            "object": kind,
            "created": 1,
            "model": self.named,
            "choices": [choice],
        } | (usage)

    def _response(self):
        return {
            "id": "resp_1",
            "object": "response",
            "created_at": 1,
            "model": "made",
            "status": "completed",
            "output": [],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "usage": RESPONSE_USAGE,
        }

    def _message(self, content, usage):
        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "made"}
        return message | {
            "content": content,
            "stop_reason": "end_turn" if content else None,
            "stop_sequence": None,
            "usage": usage,
        }

    def _events(self, path, request):
        if path == "/v1/messages":
            begun = self._message([], MESSAGE_USAGE | {"output_tokens": 1})
            block = {"type": "text", "text": ""}
            events = [{"type": "message_start", "message": begun}]
            events.append({"type": "content_block_start", "index": 0, "content_block": block})
            for word in ("Hel", "lo"):
                delta = {"type": "text_delta", "text": word}
                events.append({"type": "content_block_delta", "index": 0, "delta": delta})
            events.append({"type": "content_block_stop", "index": 0})
            stop = {"stop_reason": "end_turn", "stop_sequence": None}
            usage = {"output_tokens": 4}
            events.append({"type": "message_delta", "delta": stop, "usage": usage})
            events.append({"type": "message_stop"})
            yield from (self._event(event, event["type"]) for event in events)
            return
        if path == "/v1/responses":
            for word in ("Hel", "lo"):
                delta = {"type": "response.output_text.delta", "delta": word, "item_id": "m"}
                delta |= {"output_index": 0, "content_index": 0, "sequence_number": 1}
                yield self._event(delta | {"logprobs": []}, "response.output_text.delta")
            completed = {"type": "response.completed", "response": self._response()}
            yield self._event(completed | {"sequence_number": 2}, "response.completed")
            return
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "made"}
        for word in ("Hel", "lo"):
            delta = {"index": 0, "delta": {"content": word}, "finish_reason": None}
            if path == "/v1/completions":
                delta = {"index": 0, "text": word, "finish_reason": None}
            yield self._event(chunk | {"choices": [delta]})
        final_delta = {"index": 0, "delta": {}, "finish_reason": "stop"}
        usage_requested = (request.get("stream_options") or {}).get("include_usage")
        usage = {"usage": USAGE} if self.usage and not usage_requested else {}
        yield self._event(chunk | {"choices": [final_delta]} | usage)
        if usage_requested:
            yield self._event(chunk | {"choices": [], "usage": USAGE})
        yield b"data: [DONE]\n\n"

    def _event(self, chunk, name=None):
        head = f"event: {name}\n".encode() if name else b""
        return head + b"data: " + json.dumps(chunk).encode() + b"\n\n"


@contextmanager
def served(application, host="127.0.0.1", **options):
    """Serve an ASGI application on a free loopback port, in a thread, and yield its URL."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.bind((host, 0))
    # As `sprout serve` does.
    options = {"http": GuardedProtocol, "ws": "none", "date_header": False, **options}
    config = uvicorn.Config(application, log_level="critical", server_header=False, **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        thread.join(0.01)
    try:
        place = f"[{host}]" if ":" in host else host
        yield f"http://{place}:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
