"""Uvicorn's HTTP protocol with what it lacks.

A client must send its request's head soon: else one that dribbles headers, or sends none,
holds a connection for ever (slow loris), and one that sends headers without end fills the
memory. And at the server's end idle connections stay for a moment: a request may be on its
way in them, which closing at once would reset.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 15.0
HEAD_BYTES = 64 << 10
# As long as a request may be under way to us, and some.
LEAVE_SECONDS = 1.0
_TOO_LARGE = b"HTTP/1.1 431 \r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class GuardedProtocol(HttpToolsProtocol):
    """Closes connections whose next request's head is late or too long, and idle ones late."""

    _timer: asyncio.TimerHandle | None = None
    _in_head = True
    _head_bytes = 0
    _leaving = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected: its head is due."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._head_done()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if not self._in_head:
            return
        # Most heads come in one piece, and need no timer.
        self._await_head()
        if self._head_bytes > HEAD_BYTES:
            self._head_done()
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def on_message_begin(self) -> None:
        """A request's first byte."""
        super().on_message_begin()
        if not self._in_head:
            self._in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        """A request's head is whole."""
        self._head_done()
        super().on_headers_complete()
        if self._leaving and self.cycle is not None:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """The server ends: this connection too, after the request that it may have."""
        self._leaving = True
        if self._idle():
            self.loop.call_later(LEAVE_SECONDS, self._leave)
        else:
            super().shutdown()

    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _leave(self) -> None:
        if self._idle() and not self.transport.is_closing():
            self.transport.close()

    def _await_head(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(HEAD_SECONDS, self._late)

    def _head_done(self) -> None:
        self._in_head = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        transport: Any = self.transport
        if not transport.is_closing():
            transport.close()
