"""Words of ASGI 3 (https://asgi.readthedocs.io), and answers of our own."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON = b"application/json"
# A body that comes more slowly than this is no longer waited for.
BODY_SECONDS = 300.0


async def respond(
    send: Send, status: int, body: bytes, kind: bytes = JSON, headers: Headers | None = None
) -> None:
    """Send a whole answer."""
    own = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send(
        {"type": "http.response.start", "status": status, "headers": [*own, *(headers or ())]}
    )
    await send({"type": "http.response.body", "body": body})


async def respond_error(send: Send, status: int, message: str, kind: str) -> None:
    """Send an error in the form of OpenAI's."""
    await respond(send, status, orjson.dumps({"error": {"message": message, "type": kind}}))


async def read_body(receive: Receive, most: int) -> bytes | None:
    """A request's body; None if it is longer than `most` bytes, or the client left."""
    parts, size = [], 0
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            return None
        parts.append(event.get("body", b""))
        size += len(parts[-1])
        if size > most:
            return None
        if not event.get("more_body"):
            return b"".join(parts)


def decoded_headers(scope: Scope) -> dict[str, str]:
    """Headers by their names in lower case; of a repeated one the last."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def header(headers: Headers, name: bytes) -> bytes | None:
    """A header's value; names in lower case."""
    return next((value for key, value in headers if key == name), None)
