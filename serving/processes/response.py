"""Writing of answers to the client: few system calls, and no chunks for HTTP/1.0."""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from serving.http.asgi import App, Event, Receive, Scope, Send

_INTERIM = b"HTTP/1.1 100"


class HeadWithBody:
    """Writes an answer's head together with the body that follows at once, in one system call.

    Uvicorn writes them one after the other, so that the client wakes up twice.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head: bytes | None = None
        self._begun = False

    def write(self, data: bytes) -> None:
        """Write, or hold the head until the next write in this turn of the event loop."""
        if self._head is not None:
            head, self._head = self._head, None
            self._transport.write(head + data)
        elif self._begun or data.startswith(_INTERIM):
            self._transport.write(data)
        else:
            self._begun, self._head = True, data
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        """Write what is held and close the connection."""
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        """Reset the connection."""
        connection = self._transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def is_closing(self) -> bool:
        """Return whether the connection is being closed."""
        return self._transport.is_closing()

    def _flush(self) -> None:
        if self._head is not None:
            head, self._head = self._head, None
            self._transport.write(head)


def without_chunks(app: App, cycle: RequestResponseCycle) -> Callable[..., Any]:
    """Return the application with answers whose end is the end of the connection.

    Uvicorn would send an answer without Content-Length in chunks, also to an HTTP/1.0 client.
    """

    async def closing_app(scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; reset the connection if its answer breaks off."""
        until_close = False

        async def send_until_close(event: Event) -> None:
            """Send an event of the answer, without chunks."""
            nonlocal until_close
            if event["type"] == "http.response.start":
                names = {name.lower() for name, _ in event.get("headers", ())}
                until_close = b"content-length" not in names
                if until_close:
                    cycle.chunked_encoding = False
            elif until_close:
                # Uvicorn compares the bytes sent with those announced.
                cycle.expected_content_length = len(event.get("body", b""))
            await send(event)

        try:
            await app(scope, receive, send_until_close)
        except BaseException:
            if until_close:
                # A plain close would make the part look like the whole answer.
                cycle.transport.abort()
            raise

    return closing_app
