from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from serving.streams import event_stream
from serving.streams.event_stream import EventStream

LINE_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
LINES = st.sampled_from(
    [
        *(b"data: a", b"data:b", b"data:  c", b"data", b"event: x", b"event:y", b"id: 1", b":"),
        *(
            b": ping",
            b"retry: 3",
            b"nonsense",
            b"data: \xe6\x97\xa5",
            b"data: [DONE]",
            b": data: z",
        ),
    ]
)
BLOCKS = st.lists(st.tuples(st.lists(LINES, min_size=1, max_size=4), LINE_ENDS), max_size=6)


def cut(data, stream):
    """Cut bytes at random positions."""
    positions = st.sets(st.integers(0, len(stream)), max_size=12)
    cuts = [0, *sorted(data.draw(positions)), len(stream)]
    return [stream[a:b] for a, b in pairwise(cuts)]


def parsed(pieces):
    stream, events = EventStream(), []
    for piece in pieces:
        events += stream.feed(piece)
    return events, stream.rest


def reference(text):
    """Parse a complete text line by line, as the standard says; return names and data."""
    plain = text.decode().replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff")
    events, name, data, fields = [], "", None, False
    for line in plain.split("\n")[:-1]:
        if not line:
            if fields:
                events.append((name, data))
            name, data, fields = "", None, False
            continue
        fields = True
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            data = value if data is None else f"{data}\n{value}"
        elif field == "event":
            name = value
    return events


@given(BLOCKS, st.booleans(), st.data())
def test_any_cut_of_any_stream_gives_the_events_of_the_standard(blocks, marked, data):
    text = b"\xef\xbb\xbf" if marked else b""
    text += b"".join(end.join([*lines, b"", b""]) for lines, end in blocks)
    events, rest = parsed(cut(data, text))
    assert b"".join(event.raw for event in events) + rest == text
    said = [(e.name.decode(), None if e.data is None else e.data.decode()) for e in events]
    assert said == reference(text)


@given(
    st.binary(max_size=200) | st.text(alphabet="\r\n:da ", max_size=60).map(str.encode), st.data()
)
@example(b"data: a\r\n\r\n\ndata: b\r\r\n\n", None)
def test_no_bytes_are_lost_and_cuts_do_not_matter(text, data):
    pieces = [text[i : i + 1] for i in range(len(text))] if data is None else cut(data, text)
    events, rest = parsed(pieces)
    assert b"".join(event.raw for event in events) + rest == text
    whole, _ = parsed([text])
    said = [(e.name, e.data) for e in events if e.data is not None]
    assert said == [(e.name, e.data) for e in whole if e.data is not None]


def test_an_event_is_given_as_soon_as_its_blank_line_has_come():
    for end in (b"\n\n", b"\r\n\r\n", b"\r\r"):
        assert [e.data for e in EventStream().feed(b"data: a" + end)] == [b"a"]


def test_an_endless_event_is_told_and_loses_no_bytes(monkeypatch):
    monkeypatch.setattr(event_stream, "LONGEST_EVENT", 10)
    stream = EventStream()
    assert [event.data for event in stream.feed(b"data: a\n\ndata: abcdefgh")] == [b"a"]
    assert stream.endless
    assert stream.rest == b"data: abcdefgh"
