"""Types of ASGI 3 (https://asgi.readthedocs.io), and helpers to read requests and respond."""

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
# Longest head of a request, and longest field of an upstream's response, bytes.
HEAD_BYTES = 64 << 10
# A request body must arrive within this time, s.
BODY_SECONDS = 300.0


async def respond(
    send: Send, status: int, body: bytes, kind: bytes = JSON, headers: Headers | None = None
) -> None:
    """Send a complete response.

    Args:
        kind: Content-Type.
        headers: further headers.
    """
    framing = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send(
        {"type": "http.response.start", "status": status, "headers": [*framing, *(headers or ())]}
    )
    await send({"type": "http.response.body", "body": body})


async def respond_error(send: Send, status: int, message: str, kind: str) -> None:
    """Send an error in the format of OpenAI's API.

    Args:
        kind: value of the error's `type`.
    """
    await respond(send, status, orjson.dumps({"error": {"message": message, "type": kind}}))


class BodyTooLongError(Exception):
    """A request's body exceeds the limit."""


class ClientLeftError(Exception):
    """The client disconnected during its request."""


async def read_body(receive: Receive, limit: int, first: bytes = b"") -> bytes:
    """Return a request's body.

    Args:
        limit: greatest size, bytes.
        first: the part that was read already, if more follows.

    Raises:
        BodyTooLongError: the body exceeds `limit`.
        ClientLeftError: the client disconnected.
    """
    parts, size, more = [first], len(first), True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise ClientLeftError
        parts.append(event.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise BodyTooLongError
        more = event.get("more_body", False)
    return b"".join(parts)


async def read_post(scope: Scope, receive: Receive, send: Send, limit: int) -> bytes | None:
    """Return the body of a POST; None if the client left, or was sent a refusal.

    Args:
        limit: greatest size, bytes.
    """
    if scope["method"] != "POST":
        headers = [(b"allow", b"POST")]
        await respond(send, 405, b'{"error":{"message":"use POST"}}', headers=headers)
        return None
    try:
        return await read_body(receive, limit)
    except BodyTooLongError:
        await respond_error(send, 413, f"the body exceeds {limit} bytes", "too_large")
    except ClientLeftError:
        pass
    return None


def decoded_headers(scope: Scope) -> dict[str, str]:
    """Return the headers by name, in lower case; values of a repeated header are joined by commas.

    See RFC 9110, section 5.3.
    """
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def header(headers: Headers, name: bytes) -> bytes | None:
    """Return a header's value, or None if it is absent; all names are in lower case."""
    return next((value for key, value in headers if key == name), None)
