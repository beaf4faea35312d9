"""Header fields of a message that an intermediary forwards (RFC 9110, sections 7.6 and 7.8)."""

import time
from collections.abc import Iterable
from email.utils import formatdate
from functools import lru_cache

from serving.http.asgi import Headers

# Fields for one connection only, and fields that the next connection sets itself.
_HOP_FIELDS = frozenset(
    (
        *(b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"upgrade"),
        *(b"transfer-encoding", b"http2-settings", b"proxy-authenticate", b"proxy-authorization"),
    )
)
_REQUEST_FIELDS = _HOP_FIELDS | {b"host", b"content-length", b"expect"}
# Control characters become spaces (RFC 9110, section 5.5), because the server refuses to send them.
_CONTROLS = bytes(0x20 if (c < 0x20 and c != 0x09) or c == 0x7F else c for c in range(256))
_NO_CONTENT_STATUSES = (204, 304)
_MAX_FORWARDS = b"max-forwards"


def forwarded_request(headers: Headers, version: str, name: str) -> Headers:
    """Return the fields to send to the next server, without its Host and the body's framing.

    Args:
        headers: the received fields, names in lower case.
        version: HTTP version of the received message, e.g. "1.1".
        name: pseudonym of this gateway, for the field Via (section 7.6.3).
    """
    dropped = _REQUEST_FIELDS | _nominated(headers)
    kept = [pair for pair in headers if pair[0] not in dropped]
    kept.append((b"via", f"{version} {name}".encode()))
    return kept


def forwarded_response(received: Iterable[tuple[bytes, bytes]], status: int) -> Headers:
    """Return the fields to send to the client, names in lower case.

    Content-Length is left out where Transfer-Encoding overrides it (RFC 9112, section 6.3), and
    where there is no content. A missing Date is added (RFC 9110, section 6.6.1).
    """
    headers = [(name.lower(), value.translate(_CONTROLS)) for name, value in received]
    names = {name for name, _ in headers}
    dropped = _HOP_FIELDS | _nominated(headers)
    if b"transfer-encoding" in names or status in _NO_CONTENT_STATUSES:
        dropped = dropped | {b"content-length"}
    kept = [pair for pair in headers if pair[0] not in dropped]
    if b"date" not in names:
        kept.append((b"date", _date(int(time.time()))))
    return kept


def hops_left(headers: Headers) -> int | None:
    """Return the value of Max-Forwards (section 7.6.2); None if it is absent or not a number."""
    value = next((value for name, value in headers if name == _MAX_FORWARDS), b"")
    return int(value) if value.isdigit() and len(value) < 10 else None


def with_hops(headers: Headers, hops: int) -> Headers:
    """Return the fields with another value of Max-Forwards."""
    kept = [pair for pair in headers if pair[0] != _MAX_FORWARDS]
    return [*kept, (_MAX_FORWARDS, str(hops).encode())]


def passed_through(headers: Headers, name: str) -> bool:
    """Return whether a gateway of this name has forwarded the message before: it is in a loop."""
    mark = name.encode()
    return any(
        field == b"via" and mark in value.replace(b",", b" ").split() for field, value in headers
    )


def _nominated(headers: Headers) -> frozenset[bytes]:
    """Return the names of the fields that Connection declares to be for this connection only."""
    values = b",".join([value for name, value in headers if name == b"connection"])
    return _names(values) if values else frozenset()


@lru_cache(maxsize=64)
def _names(values: bytes) -> frozenset[bytes]:
    return frozenset(name.strip().lower() for name in values.split(b","))


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()
