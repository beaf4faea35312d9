import gzip
import json
import zlib

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.apis.routes import APIS
from serving.hook.answer import Answer
from serving.hook.outcome import Usage
from serving.streams.coding import CodingError
from tests.serving.upstream import Upstream

SSE = b"text/event-stream"
CHAT_ROUTE = "/v1/chat/completions"


def started(kind=SSE, *fields, route=CHAT_ROUTE, **options):
    """Return an observer of an answer whose head has come, and the fields that are passed on."""
    answer = Answer(APIS[route], 0.0, **options)
    return answer, answer.start(200, [(b"content-type", kind), *fields])


def stream(route="/v1/chat/completions", request=None, usage=True):
    fake = Upstream()
    fake.usage = usage
    return list(fake._events(route, request or {}))


def relayed(answer, pieces):
    """Return the output for each piece, and the index of the piece that completed the answer."""
    outputs, completed_at = [], None
    for index, piece in enumerate(pieces):
        outputs.append(answer.feed(piece, True))
        if answer.complete and completed_at is None:
            completed_at = index
    outputs.append(answer.feed(b"", False))
    return outputs, completed_at


@given(st.data())
def test_a_stream_passes_byte_for_byte_however_it_is_cut(data):
    stream_bytes = b"".join(stream())
    cuts = sorted(data.draw(st.sets(st.integers(1, len(stream_bytes) - 1), max_size=8)))
    pieces = [
        stream_bytes[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream_bytes)], strict=True)
    ]
    answer, _ = started()
    out, _ = relayed(answer, pieces)
    assert out == [*pieces, b""]
    assert answer.usage == Usage(3, 4, "reported")


@pytest.mark.parametrize("route", APIS)
def test_an_answer_is_complete_before_its_last_event_is_released(route):
    pieces = stream(route)
    answer, _ = started(route=route)
    _, complete = relayed(answer, pieces)
    assert complete == len(pieces) - 1
    assert answer.usage == Usage(3, 4, "reported")


def test_an_unstreamed_answer_is_complete_with_its_last_byte():
    answer, _ = started(b"application/json", (b"content-length", b"10"))
    answer.feed(b"12345", True)
    assert not answer.complete
    answer.feed(b"67890", True)
    assert answer.complete


def test_without_usage_tokens_are_counted_by_events():
    answer, _ = started()
    relayed(answer, stream(usage=False))
    assert answer.usage.method == "counted"
    assert answer.usage.prompt_tokens is None


def test_an_estimate_is_added_to_the_final_usage_and_nothing_else_changes():
    pieces = stream()
    estimate_json = b'"sprout":{"energy_joules":1.5,"method":"estimated"}'
    answer, _ = started(estimate=lambda usage, model: estimate_json)
    out, _ = relayed(answer, pieces)
    assert b"".join(out).replace(estimate_json + b",", b"") == b"".join(pieces)
    final_event = json.loads(out[2].removeprefix(b"data: "))
    assert final_event["usage"]["sprout"] == {"energy_joules": 1.5, "method": "estimated"}
    assert final_event["usage"]["completion_tokens"] == 4
    # Nothing changes where the event is cut, but its parts are released together.
    cut = pieces[2].index(b"completion_tokens")
    answer, _ = started(estimate=lambda usage, model: estimate_json)
    cut_pieces = [*pieces[:2], pieces[2][:cut], pieces[2][cut:], pieces[3]]
    assert relayed(answer, cut_pieces)[0] == [*out[:2], b"", *out[2:]]


@given(st.data())
def test_usage_that_only_the_hook_requested_does_not_reach_the_client(data):
    stream_bytes = b"".join(stream(request={"stream_options": {"include_usage": True}}))
    stream_without_usage = b"".join(stream(usage=False))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(stream_bytes) - 1), max_size=8)))
    pieces = [
        stream_bytes[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream_bytes)], strict=True)
    ]
    answer, _ = started(hide_usage=True)
    assert b"".join(relayed(answer, pieces)[0]) == stream_without_usage
    assert answer.usage == Usage(3, 4, "reported")


@pytest.mark.parametrize("route", APIS)
@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_has_its_text_only_if_it_is_kept(route, streamed):
    for keep in (True, False):
        kind = SSE if streamed else b"application/json"
        answer, _ = started(kind, route=route, keep=keep)
        if streamed:
            relayed(answer, stream(route))
        else:
            answer.feed(orjson.dumps(Upstream()._answer(route)), False)
        assert answer.text == ("Hello" if keep else None)


@given(st.binary(max_size=300), st.booleans(), st.sampled_from(list(APIS)))
def test_no_bytes_break_the_parsing_of_an_answer(data, sse, route):
    fields = ((b"content-length", b"nonsense"),)
    answer, _ = started(
        SSE if sse else b"", *fields, route=route, estimate=lambda usage, model: b'"a":1', keep=True
    )
    assert answer.feed(data, True) + answer.feed(b"", False) == data
    assert answer.complete
    _ = answer.usage, answer.text


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "delta", "usage", "error", "type", "response", "message", "content"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON_VALUES, st.sampled_from(list(APIS)), st.booleans())
def test_no_json_breaks_the_reading_of_an_answer(value, route, sse):
    data = json.dumps(value).encode()
    kind = SSE if sse else b"application/json"
    answer, _ = started(kind, route=route, hide_usage=True, keep=True)
    answer.feed(b"data: " + data + b"\n\n" if sse else data, False)
    assert answer.complete
    assert not answer.misread
    _ = answer.usage, answer.text


def event(**members):
    return b"data: " + orjson.dumps(members) + b"\n\n"


USAGE = {"prompt_tokens": 3, "completion_tokens": 4}
TEXT = event(choices=[{"index": 0, "delta": {"content": "a"}}])
LAST = event(choices=[], usage=USAGE)
DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_usage_is_hidden_with_any_line_end_and_without_delay(end):
    pieces = [piece.replace(b"\n", end) for piece in (TEXT, TEXT, LAST, DONE)]
    answer, _ = started(hide_usage=True)
    assert [answer.feed(piece, True) for piece in pieces] == [*pieces[:2], b"", pieces[3]]
    assert answer.complete
    assert answer.usage == Usage(3, 4, "reported")


def test_only_a_chunk_of_nothing_but_usage_is_hidden():
    filtered = event(choices=[], prompt_filter_results=[{"prompt_index": 0}])
    with_both = event(choices=[], usage=USAGE, prompt_filter_results=[1])
    with_text = event(choices=[{"index": 0, "delta": {"content": "b"}}], usage=USAGE)
    pinged = b": ping\n\n"
    for kept in (filtered, with_text, pinged, event(choices=[]), event(choices=[], usage=None)):
        assert started(hide_usage=True)[0].feed(kept, True) == kept
    shown = started(hide_usage=True)[0].feed(with_both, True)
    assert json.loads(shown[6:]) == {"choices": [], "prompt_filter_results": [1]}


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_chunk_without_its_usage_keeps_its_other_lines(end):
    with_both = event(choices=[], usage=USAGE, prompt_filter_results=[1])
    marked = (b"\xef\xbb\xbf: seen\nid: 7\nevent: chunk\n" + with_both).replace(b"\n", end)
    shown = started(hide_usage=True)[0].feed(marked, True)
    data = b'data: {"choices":[],"prompt_filter_results":[1]}'
    assert shown == end.join([b"\xef\xbb\xbf: seen", b"id: 7", b"event: chunk", data, b"", b""])


def test_usage_and_marks_in_the_text_are_not_taken_for_the_streams_own():
    said = 'data: [DONE] {"usage": {"completion_tokens": 9}, "choices": [], "error": 1}\n\n'
    text = event(choices=[{"index": 0, "delta": {"content": said}}])
    answer, _ = started(hide_usage=True)
    assert answer.feed(text, True) == text
    assert not answer.complete
    assert not answer.facts.failure
    assert answer.usage == Usage(None, 1, "counted")


@pytest.mark.parametrize(
    ("route", "last", "failure"),
    [
        (CHAT_ROUTE, event(error={"message": "engine died", "code": 500}), "failed"),
        (CHAT_ROUTE, b"event: error\ndata: {}\n\n", "failed"),
        (CHAT_ROUTE, event(choices=[{"delta": {}, "finish_reason": "error"}]), "failed"),
        ("/v1/responses", event(type="response.failed", response={}), "failed"),
        ("/v1/responses", event(type="error", message="x"), "failed"),
        ("/v1/responses", event(type="response.incomplete", response={}), "incomplete"),
        ("/v1/messages", b'event: error\ndata: {"type": "error"}\n\n', "failed"),
    ],
)
def test_a_stream_that_says_that_it_failed_is_known(route, last, failure):
    answer, _ = started(route=route)
    answer.feed(last, False)
    assert answer.facts.failure == failure


@pytest.mark.parametrize(
    ("route", "body", "usage"),
    [
        (CHAT_ROUTE, {"usage": USAGE, "choices": [{"message": {"content": "w" * 9000}}]}, (3, 4)),
        (CHAT_ROUTE, {"choices": [], "usage": USAGE, "prompt_token_ids": [7] * 9000}, (3, 4)),
        (CHAT_ROUTE, {"choices": [{"message": {"usage": USAGE}}]}, (None, None)),
        ("/v1/responses", {"usage": {"input_tokens": 3, "output_tokens": 4}}, (3, 4)),
        (
            "/v1/messages",
            {"usage": {"input_tokens": 1, "cache_read_input_tokens": 2, "output_tokens": 4}},
            (3, 4),
        ),
    ],
)
@pytest.mark.parametrize("coding", [None, b"gzip"])
def test_usage_is_read_wherever_it_stands(route, body, usage, coding):
    data = orjson.dumps(body)
    fields = [] if coding is None else [(b"content-encoding", coding)]
    sent = data if coding is None else gzip.compress(data)
    answer, _ = started(b"application/json", *fields, route=route)
    assert b"".join(answer.feed(sent[i : i + 100], True) for i in range(0, len(sent), 100)) == sent
    answer.feed(b"", False)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == usage


def test_the_framing_follows_what_is_edited():
    length = (b"content-length", b"9")
    assert length in started(SSE, length)[1]
    assert length not in started(SSE, length, hide_usage=True)[1]
    assert length in started(b"application/json", length, hide_usage=True)[1]


def test_a_compressed_stream_is_edited_without_its_coding_and_without_delay():
    encoder = zlib.compressobj(wbits=31)
    pieces = [encoder.compress(e) + encoder.flush(zlib.Z_SYNC_FLUSH) for e in (TEXT, LAST, DONE)]
    coding = (b"content-encoding", b"gzip")
    answer, fields = started(SSE, coding, hide_usage=True)
    assert coding not in fields
    assert [answer.feed(piece, True) for piece in pieces] == [TEXT, b"", DONE]
    # Only watched, it keeps its coding; with an unknown coding it is neither read nor held back.
    watched, fields = started(SSE, coding)
    assert coding in fields
    assert [watched.feed(piece, True) for piece in pieces] == pieces
    assert watched.usage == Usage(3, 4, "reported")
    unknown, fields = started(SSE, (b"content-encoding", b"new"), hide_usage=True)
    assert [unknown.feed(piece, True) for piece in pieces] == pieces
    assert unknown.usage.method is None


@pytest.mark.parametrize("coding", [b"gzip", b"deflate", b"br", b"zstd"])
def test_a_plain_stream_with_a_wrong_coding_in_its_head_still_arrives(coding):
    field = (b"content-encoding", coding)
    for options in ({"hide_usage": True}, {}):
        answer, _ = started(SSE, field, **options)
        # Also if the pieces are too short to tell at once.
        pieces = [TEXT[i : i + 1] for i in range(len(TEXT))] + [LAST, DONE]
        output = b"".join([answer.feed(piece, True) for piece in pieces])
        assert output == (TEXT + DONE if options else TEXT + LAST + DONE)
        assert answer.usage == Usage(3, 4, "reported")


def test_a_compressed_stream_that_breaks_later_is_not_passed_on_as_if_whole():
    encoder = zlib.compressobj(wbits=31)
    piece = encoder.compress(TEXT) + encoder.flush(zlib.Z_SYNC_FLUSH)
    answer, _ = started(SSE, (b"content-encoding", b"gzip"), hide_usage=True)
    assert answer.feed(piece, True) == TEXT
    with pytest.raises(CodingError):
        answer.feed(b"\xff\xff\xff" + LAST, True)


def test_nothing_is_added_where_the_upstream_forbids_it():
    fields = ((b"cache-control", b"no-cache, no-transform"),)
    answer, _ = started(SSE, *fields, estimate=lambda usage, model: b'"sprout":{}')
    assert answer.feed(LAST, True) == LAST


def test_a_second_gateway_does_not_add_its_estimate_again():
    estimate = lambda usage, model: b'"sprout":{"energy_joules":1}'  # noqa: E731
    once = started(estimate=estimate)[0].feed(LAST, True)
    assert started(estimate=estimate)[0].feed(once, True) == once


def test_an_anthropic_stream_is_read():
    pieces = stream("/v1/messages")
    answer, _ = started(route="/v1/messages", keep=True)
    assert b"".join(answer.feed(piece, True) for piece in pieces) == b"".join(pieces)
    assert answer.complete
    assert (answer.usage, answer.text) == (Usage(3, 4, "reported"), "Hello")
    broken, _ = started(route="/v1/messages")
    broken.feed(b"".join(pieces[:3]), True)
    assert broken.usage.method == "counted"
