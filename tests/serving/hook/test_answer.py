import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.hook.answer import Answer, Usage
from tests.serving.upstream import Upstream

SSE = b"text/event-stream"


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
    answer = Answer(0.0)
    answer.start(200, SSE, None)
    out, _ = relayed(answer, pieces)
    assert out == [*pieces, b""]
    assert answer.usage == Usage(3, 4, "reported")


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
def test_an_answer_is_complete_before_its_last_event_is_released(route):
    pieces = stream(route)
    answer = Answer(0.0)
    answer.start(200, SSE, None)
    _, complete = relayed(answer, pieces)
    assert complete == len(pieces) - 1
    assert answer.usage == Usage(3, 4, "reported")


def test_an_unstreamed_answer_is_complete_with_its_last_byte():
    answer = Answer(0.0)
    answer.start(200, b"application/json", b"10")
    answer.feed(b"12345", True)
    assert not answer.complete
    answer.feed(b"67890", True)
    assert answer.complete


def test_without_usage_tokens_are_counted_by_events():
    answer = Answer(0.0)
    answer.start(200, SSE, None)
    relayed(answer, stream(usage=False))
    assert answer.usage.method == "counted"
    assert answer.usage.prompt_tokens is None


def test_an_estimate_is_added_to_the_final_usage_and_nothing_else_changes():
    pieces = stream()
    estimate_json = b'"sprout":{"energy_joules":1.5,"method":"estimated"}'
    answer = Answer(0.0, estimate=lambda usage: estimate_json)
    answer.start(200, SSE, None)
    out, _ = relayed(answer, pieces)
    assert b"".join(out).replace(estimate_json + b",", b"") == b"".join(pieces)
    final_event = json.loads(out[2].removeprefix(b"data: "))
    assert final_event["usage"]["sprout"] == {"energy_joules": 1.5, "method": "estimated"}
    assert final_event["usage"]["completion_tokens"] == 4
    # A piece that ends within the usage gets no estimate: bytes would have to be held back for it.
    cut = pieces[2].index(b"completion_tokens")
    answer = Answer(0.0, estimate=lambda usage: estimate_json)
    answer.start(200, SSE, None)
    cut_pieces = [*pieces[:2], pieces[2][:cut], pieces[2][cut:], pieces[3]]
    assert relayed(answer, cut_pieces)[0] == [*cut_pieces, b""]


@given(st.data())
def test_usage_that_only_the_hook_requested_does_not_reach_the_client(data):
    stream_bytes = b"".join(stream(request={"stream_options": {"include_usage": True}}))
    stream_without_usage = b"".join(stream(usage=False))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(stream_bytes) - 1), max_size=8)))
    pieces = [
        stream_bytes[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream_bytes)], strict=True)
    ]
    answer = Answer(0.0, hide_usage=True)
    answer.start(200, SSE, None)
    assert b"".join(relayed(answer, pieces)[0]) == stream_without_usage
    assert answer.usage == Usage(3, 4, "reported")


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_has_its_text_only_if_it_is_kept(route, streamed):
    answer = Answer(0.0, keep=True)
    if streamed:
        answer.start(200, SSE, None)
        relayed(answer, stream(route))
    else:
        answer.start(200, b"application/json", None)
        answer.feed(orjson.dumps(Upstream()._answer(route)), False)
    assert answer.text == "Hello"
    assert Answer(0.0).text is None


@given(st.binary(max_size=300), st.booleans())
def test_no_bytes_break_the_parsing_of_an_answer(data, sse):
    answer = Answer(0.0, estimate=lambda usage: b'"a":1', keep=True)
    answer.start(200, SSE if sse else b"", b"nonsense")
    answer.feed(data, True)
    answer.feed(b"", False)
    assert answer.complete
    _ = answer.usage, answer.text
