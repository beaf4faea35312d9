"""Uvicorn's HTTP protocol with limits on a request's head and a gentle shutdown.

A client must send its request's head in time and within a size limit. Without the time limit, a
client that sends headers slowly, or none, holds its connection for ever (slow loris); without the
size limit, one that sends headers without end fills the memory. At shutdown, idle connections stay
open for a moment, because closing them at once would reset a request that is on its way.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 15.0
HEAD_BYTES = 64 << 10
# Longer than a request needs to arrive over the network.
LEAVE_SECONDS = 1.0
_TOO_LARGE = b"HTTP/1.1 431 \r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class GuardedProtocol(HttpToolsProtocol):
    """Closes connections whose request head is late or too long; delays closing idle ones."""

    _timer: asyncio.TimerHandle | None = None
    _in_head = True
    _head_bytes = 0
    _leaving = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time limit for the first request's head."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the time limit, as the connection is lost."""
        self._head_done()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse bytes from the client; refuse a head that is too long."""
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if not self._in_head:
            return
        # Only for a head that came incomplete: most come in one piece and need no timer.
        self._await_head()
        if self._head_bytes > HEAD_BYTES:
            self._head_done()
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def on_message_begin(self) -> None:
        """Note that a request's head has begun."""
        super().on_message_begin()
        if not self._in_head:
            self._in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        """Note that a request's head is complete; close the connection after it at shutdown."""
        self._head_done()
        super().on_headers_complete()
        if self._leaving and self.cycle is not None:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """Close the connection after its current request, or a moment later if it is idle."""
        self._leaving = True
        if self._idle():
            self.loop.call_later(LEAVE_SECONDS, self._close_if_idle)
        else:
            super().shutdown()

    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _close_if_idle(self) -> None:
        if self._idle() and not self.transport.is_closing():
            self.transport.close()

    def _await_head(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(HEAD_SECONDS, self._close_late)

    def _head_done(self) -> None:
        self._in_head = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close_late(self) -> None:
        self._timer = None
        transport: Any = self.transport
        if not transport.is_closing():
            transport.close()
