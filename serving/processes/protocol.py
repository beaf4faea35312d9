"""Uvicorn's HTTP/1.1 protocol, held to RFC 9112 where a client or an attacker would notice.

Limits: a client must send its request's head in time and within a size limit. Without the time
limit, a client that sends headers slowly, or none, holds its connection for ever (slow loris);
without the size limit, one that sends headers without end fills the memory. At shutdown, idle
connections stay open for a moment, because closing them at once would reset a request that is on
its way.

RFC 9110 and RFC 9112: see `GuardedProtocol`.
"""

import asyncio
import re
import socket
import sys
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from serving.http.asgi import HEAD_BYTES
from serving.processes.response import HeadWithBody, without_chunks

HEAD_SECONDS = 15.0
# Longer than a request needs to arrive over the network.
LEAVE_SECONDS = 1.0
# Times after the end of a client's input at which the connection is looked at, s.
GONE_CHECK_SECONDS = (0.05, 0.2, 1.0, 5.0)
# uri-host [":" port] (RFC 3986, section 3.2.2); an empty value is allowed.
_HOST = re.compile(rb"[A-Za-z0-9\-._~!$&'()*+,;=%:\[\]]*")
_EMPTY = b"connection: close\r\ncontent-length: 0\r\n\r\n"
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\n" + _EMPTY
_NOT_IMPLEMENTED = b"HTTP/1.1 501 Not Implemented\r\n" + _EMPTY
_MALFORMED = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n"
    b"content-length: 31\r\n\r\nInvalid HTTP request received.\n"
)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_TCP_CLOSE = 7


class GuardedProtocol(HttpToolsProtocol):
    """One client's connection.

    Beyond uvicorn's protocol it does the following:

    - It refuses a request without exactly one valid Host (RFC 9112, section 3.2).
    - An upgrade is never taken. The request is handled as if it had not asked, with its body
      (RFC 9110, section 7.8). A CONNECT is refused.
    - Trailers are dropped and never become headers (RFC 9110, section 6.5.1).
    - An HTTP/1.0 client gets no 100 Continue and no chunks: the end of the connection ends an
      answer of unknown length (RFC 9110, section 10.1.1; RFC 9112, section 6.1).
    - A client that closes its sending side still gets its answers (RFC 9112, section 9.6).
    - A broken request behind others in a pipeline does not break their answers.
    """

    _timer: asyncio.TimerHandle | None = None
    _in_head = True
    _in_message = False
    _head_bytes = 0
    # Bytes of the request since the last part of its body: a trailer section.
    _trailer_bytes = 0
    _refusal = _MALFORMED
    _leaving = False
    _broken = False
    # The exchange whose answer is being made; `cycle` is the one whose request came last.
    _active: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time limit for the first request's head."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the time limit and tell the exchange that its client has left."""
        self._head_done()
        active = self._active
        if active is not None and not active.response_complete:
            active.disconnected = True
            active.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse bytes from the client; refuse a head that is too long."""
        if self._broken:
            return
        if self._in_head:
            self._head_bytes += len(data)
        else:
            self._trailer_bytes += len(data)
        self._parse(data)
        if not self._in_head:
            if self._in_message and self._trailer_bytes > HEAD_BYTES and not self._broken:
                self._refuse(_TOO_LARGE)
            return
        # Only for a head that came incomplete: most come in one piece and need no timer.
        self._await_head()
        if self._head_bytes > HEAD_BYTES:
            self._refuse(_TOO_LARGE)

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Keep a half-closed connection open until the last answer is complete."""
        if self._idle():
            return None
        if self._in_message and not self._broken and not self._in_head:
            # The body of the newest request is cut off.
            if self.cycle is self._active:
                return None
            self.pipeline.popleft()
        self._broken = True
        last = self._last_complete()
        last.keep_alive = False
        alone = last is self._active and not last.response_started
        if alone and last.scope["http_version"] != "1.0":
            # A client that has closed both sides looks the same. It answers further bytes with a
            # reset; a client that still reads ignores an interim response (RFC 9110, section 15.2).
            self.transport.write(_CONTINUE)
            for seconds in GONE_CHECK_SECONDS:
                self.loop.call_later(seconds, self._close_if_reset)
        return True

    def on_message_begin(self) -> None:
        """Note that a request's head has begun."""
        super().on_message_begin()
        self._in_message = True
        if not self._in_head:
            self._in_head, self._head_bytes = True, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a field of the head; the parser also reports the fields of a trailer section."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Note that a request's head is complete; close the connection after it at shutdown.

        Raises:
            ValueError: the request has no valid Host; the parser makes a 400 of it.
        """
        if self.parser.should_upgrade():
            # The parser stops after this head; `_parse` then parses it again.
            return
        version = self.parser.get_http_version()
        hosts = [value for name, value in self.headers if name == b"host"]
        if any(n == b"transfer-encoding" and v.lower() != b"chunked" for n, v in self.headers):
            # The relay would drop the coding's name (RFC 9112, section 6.1).
            self._refusal = _NOT_IMPLEMENTED
            raise ValueError("an unknown transfer coding")
        if version == "1.0":
            self.expect_100_continue = False
        elif version != "1.1" or not hosts:
            raise ValueError("neither HTTP/1.0 nor HTTP/1.1 with a Host field")
        if len(hosts) > 1 or not all(_HOST.fullmatch(host) for host in hosts):
            raise ValueError("the Host field is malformed or repeated")
        if not self.url.startswith(b"/"):
            target: Any = httptools.parse_url(self.url)
            if target.path is None:
                # An absolute target may have an empty path (RFC 9112, section 3.2.2).
                self.url = b"/" if target.query is None else b"/?" + target.query
        super().on_headers_complete()
        self._head_done()
        self._trailer_bytes = 0
        if self._leaving and self.cycle is not None:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """Note that a request is complete."""
        if self.parser.should_upgrade():
            return
        self._in_message = False
        super().on_message_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of a request's body."""
        self._trailer_bytes = 0
        super().on_body(body)

    def shutdown(self) -> None:
        """Close the connection after its current request, or a moment later if it is idle."""
        self._leaving = True
        if self._idle():
            self.loop.call_later(LEAVE_SECONDS, self._close_if_idle)
        else:
            super().shutdown()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._active = cycle
        cycle.transport = HeadWithBody(self.transport, self.loop)  # type: ignore[assignment]
        if cycle.scope["http_version"] == "1.0":
            app = without_chunks(app, cycle)
        super()._start_asgi_task(cycle, app)

    def _parse(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                if self.parser.get_method() == b"CONNECT":
                    self._refuse(_NOT_IMPLEMENTED)
                    return
                data = self._without_upgrade(data[upgrade.args[0] :])
            except httptools.HttpParserError:
                self._refuse(self._refusal)
                return

    def _without_upgrade(self, rest: bytes) -> bytes:
        """Return the bytes of the current request without its Upgrade field, then `rest`.

        The parser has stopped at the end of the head: it takes the bytes that follow for those of
        the other protocol. So a new parser reads the request again.
        """
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        fields = [b"%b: %b\r\n" % pair for pair in self.headers if pair[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return b"%b %b HTTP/%b\r\n%b\r\n%b" % (method, self.url, version, b"".join(fields), rest)

    def _refuse(self, response: bytes) -> None:
        """Refuse the newest request, after the answers to the requests before it."""
        active, head_complete = self._active, not self._in_head
        self._broken = True
        self._head_done()
        if active is None or active.response_complete:
            self.transport.write(response)
            self.transport.close()
        elif active is not self.cycle or not head_complete:
            if head_complete:
                self.pipeline.popleft()
            self._last_complete().keep_alive = False
        else:
            if not active.response_started:
                self.transport.write(response)
            self.transport.close()

    def _last_complete(self) -> RequestResponseCycle:
        """Return the exchange of the last request in the pipeline."""
        last = self.pipeline[0][0] if self.pipeline else self._active
        assert last is not None
        return last

    def _close_if_reset(self) -> None:
        """Close the connection if the client has reset it; only Linux can tell."""
        transport: Any = self.transport
        connection = transport.get_extra_info("socket")
        if transport.is_closing() or sys.platform != "linux" or connection is None:
            return
        if connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE:
            transport.abort()

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
        if not self._idle():
            # An earlier answer is being made, and reading may be paused because of it.
            self._await_head()
        elif not self.transport.is_closing():
            self.transport.close()
