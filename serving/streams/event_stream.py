"""An incremental parser of event streams that keeps each event's bytes.

The format is that of the WHATWG
(https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream): a line
ends with CR, LF or CR LF; an event ends with a blank line. The libraries at hand give the events'
texts but not their bytes, which a gateway must pass on unchanged.
"""

import re
from dataclasses import dataclass

# An event that grows beyond this size is not waited for, bytes.
LONGEST_EVENT = 8 << 20
_LINE_END = re.compile(rb"\r\n|\r|\n")
_LINE = re.compile(rb"([^\r\n]*)(\r\n|\r|\n)")
# Atomic groups: a CR LF is one line end, never a CR and an LF.
_BLANK_LINE = re.compile(rb"(?>\r\n|\r|\n)(?>\r\n|\r|\n)")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Event:
    """One block of the stream, up to and including its blank line.

    Attributes:
        raw: its bytes.
        name: value of the field `event`; empty if it has none.
        data: values of the fields `data`, joined by LF; None if it has none, as a comment.
    """

    raw: bytes
    name: bytes
    data: bytes | None


def with_data(event: Event, data: bytes) -> bytes:
    """Return an event's bytes with other data; its other fields and comments stay.

    Args:
        data: a single line.
    """
    lines, new_line = [], b"data: " + data
    for line, end in _LINE.findall(event.raw):
        if line.removeprefix(_BYTE_ORDER_MARK).partition(b":")[0] == b"data":
            # The first line of the old data is replaced, further ones are left out.
            line, new_line = new_line, b""
            if not line:
                continue
        lines.append(line + end)
    return b"".join(lines)


class EventStream:
    """Splits a stream into events, wherever its pieces are cut."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._searched = 0
        self._is_first = True
        self._after_cr = False

    def feed(self, piece: bytes) -> list[Event]:
        """Return the events that a piece completes.

        Their `raw` and `rest` together are the bytes fed, in order. The caller must not feed more
        where `endless`.
        """
        text: bytes | bytearray = piece
        if self._rest:
            self._rest += piece
            text = self._rest
        events, start = [], 0
        while True:
            # After a CR that ended an event, an LF belongs to the same line end.
            skipped = 1 if self._after_cr and text[start : start + 1] == b"\n" else 0
            found = _BLANK_LINE.search(text, max(start + skipped, self._searched))
            if found is None:
                break
            events.append(self._event(bytes(text[start : found.end()]), skipped))
            start = self._searched = found.end()
            self._after_cr = text[start - 1] == 0x0D
        if text is self._rest:
            del self._rest[:start]
        else:
            self._rest += text[start:]
        # A blank line may begin in the last three bytes: CR LF CR.
        self._searched = max(0, len(self._rest) - 3)
        return events

    @property
    def rest(self) -> bytes:
        """The bytes of the incomplete last event."""
        return bytes(self._rest)

    @property
    def endless(self) -> bool:
        """True if the last event is longer than `LONGEST_EVENT` and still incomplete."""
        return len(self._rest) > LONGEST_EVENT

    def _event(self, raw: bytes, skipped: int) -> Event:
        block = raw[skipped:]
        if self._is_first:
            self._is_first = False
            block = block.removeprefix(_BYTE_ORDER_MARK)
        name, data = b"", None
        for line in _LINE_END.split(block):
            field, _, value = line.partition(b":")
            if field == b"data":
                value = value.removeprefix(b" ")
                data = value if data is None else data + b"\n" + value
            elif field == b"event":
                name = value.removeprefix(b" ")
        return Event(raw, name, data)
