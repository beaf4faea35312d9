"""Servers that refuse a directive's text, as many chat templates make them do."""

import json
import urllib.request

import pytest

from serving.hook import refusals
from serving.http.relay import Relay
from serving.processes.gateway import Gateway
from tests.serving.hooks import CHAT, hook, metric, post, records
from tests.serving.upstream import served
from tests.serving.wire import answer, scripted

ANSWER = json.dumps({"choices": [{"message": {"content": "Hello"}}]}).encode()
STREAM = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\ndata: [DONE]\n\n'
ERROR = b'data: {"error":{"message":"System role not supported","code":400}}\n\n'


def refusing(status):
    """Return a server that answers `status` to every request with a system text."""

    def pieces(head, body):
        if b'"system"' in body:
            return [answer(b'{"error":{"message":"Jinja"}}', status=f"{status} No")]
        return [answer(ANSWER)]

    return scripted(pieces, closes=False)


def ask(url, body=CHAT):
    status, data, headers = post(url, body)
    return status, data, headers.get("x-sprout-reason")


@pytest.mark.parametrize("status", [400, 404, 422, 500])
def test_a_model_that_refuses_directives_is_left_alone_after_a_few_times(tmp_path, status):
    made_hook = hook(tmp_path)
    with (
        refusing(status) as upstream,
        served(Gateway(made_hook, Relay(upstream.url))) as url,
    ):
        for _ in range(refusals.ENOUGH):
            assert ask(url)[::2] == (200, "refused")
        assert len(upstream.requests) == 2 * refusals.ENOUGH
        assert ask(url)[::2] == (200, "refuses_directives")
        assert len(upstream.requests) == 2 * refusals.ENOUGH + 1
    refused = metric(made_hook, 'sprout_fail_open_total{reason="refused"}')
    assert refused == refusals.ENOUGH
    # What was randomised stays in its arm, and completes.
    assert [r["lottery"] for r in records(made_hook)] == [True] * refusals.ENOUGH + [False]
    assert {r["outcome"] for r in records(made_hook)} == {"completed"}


def test_single_refusals_between_answers_do_not_add_up(tmp_path):
    made_hook = hook(tmp_path)
    with scripted(answer(ANSWER), closes=False) as upstream:
        answering = upstream.pieces
        with served(Gateway(made_hook, Relay(upstream.url))) as url:
            for _ in range(2 * refusals.ENOUGH):
                upstream.pieces = (
                    lambda head, body: [
                        answer(ANSWER, status="400 No" if b'"system"' in body else "200 OK")
                    ],
                )
                assert ask(url)[2] == "refused"
                upstream.pieces = answering
                assert ask(url)[2] == "policy"


def test_a_server_that_is_down_gets_no_double_load(tmp_path):
    made_hook = hook(tmp_path)
    with (
        scripted(answer(b"{}", status="500 Down"), closes=False) as upstream,
        served(Gateway(made_hook, Relay(upstream.url))) as url,
    ):
        for _ in range(20):
            assert ask(url)[0] == 500
        assert len(upstream.requests) == 21
        for status in ("502 Bad", "503 Busy", "429 Slow"):
            upstream.pieces = (answer(b"{}", status=status),)
            upstream.requests.clear()
            assert ask(url)[0] == int(status[:3])
            assert len(upstream.requests) == 1
    assert {r["outcome"] for r in records(made_hook)} == {"upstream_failed", "completed"}


def test_an_error_as_a_streams_first_event_is_a_refusal_too(tmp_path):
    made_hook = hook(tmp_path)

    def pieces(head, body):
        content = ERROR if b'"system"' in body else STREAM
        return [answer(content, kind="text/event-stream")]

    with (
        scripted(pieces, closes=False) as upstream,
        served(Gateway(made_hook, Relay(upstream.url))) as url,
    ):
        status, data, reason = ask(url, CHAT | {"stream": True})
        assert (status, data, reason) == (200, STREAM, "refused")
        assert len(upstream.requests) == 2


def test_an_error_in_the_middle_of_a_stream_is_passed_on_and_recorded(tmp_path):
    made_hook = hook(tmp_path)
    content = STREAM.partition(b"data: [DONE]")[0] + ERROR
    with (
        scripted(answer(content, kind="text/event-stream"), closes=False) as upstream,
        served(Gateway(made_hook, Relay(upstream.url))) as url,
    ):
        assert ask(url, CHAT | {"stream": True})[:2] == (200, content)
        assert len(upstream.requests) == 1
    assert records(made_hook)[0]["outcome"] == "answer_failed"
    assert records(made_hook)[0]["completion_tokens"] == 1


def test_such_a_model_is_steered_with_directives_in_the_user_message(tmp_path):
    made_hook = hook(tmp_path, directive_place="user")
    with (
        refusing(500) as upstream,
        served(Gateway(made_hook, Relay(upstream.url))) as url,
    ):
        assert ask(url)[::2] == (200, "policy")
        (message,) = json.loads(upstream.requests[-1][1])["messages"]
        assert message["content"].endswith("\n\nAlways answer very briefly.")


def test_a_request_that_forbids_transformation_is_not_steered(upstream, tmp_path):
    made_hook = hook(tmp_path)
    with served(Gateway(made_hook, Relay(upstream.url))) as url:
        _, _, headers = post(url, CHAT, {"Cache-Control": "no-transform"})
    assert headers["x-sprout-reason"] == "no_transform"
    assert json.loads(upstream.received[-1][3]) == CHAT


def test_two_gateways_in_a_row_add_their_headers_once_and_hide_the_usage(upstream, tmp_path):
    for name in ("inner", "outer"):
        (tmp_path / name).mkdir()
    inner = hook(tmp_path / "inner", ask_usage=True)
    outer = hook(tmp_path / "outer", ask_usage=True)
    with (
        served(Gateway(inner, Relay(upstream.url, name="inner"))) as inner_url,
        served(Gateway(outer, Relay(inner_url, name="outer"))) as url,
    ):
        request = urllib.request.Request(
            f"{url}/v1/chat/completions",
            data=json.dumps(CHAT | {"stream": True}).encode(),
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as got:
            names = [name.lower() for name, _ in got.getheaders() if name.startswith("x-sprout")]
            data = got.read()
        assert len(names) == len(set(names)) > 5
        assert got.headers["x-sprout-decision-id"] == records(outer)[0]["decision_id"]
    assert b'"usage"' not in data
    assert b"[DONE]" in data
    assert [r["completion_tokens"] for r in records(inner) + records(outer)] == [4, 4]
