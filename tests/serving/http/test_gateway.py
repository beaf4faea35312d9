"""The gateway on real sockets: what clients see, what upstream sees."""

import json
import socket
import time
import urllib.request

import openai
import pytest

from agents.policy.network import Policy
from serving.http.relay import Relay
from serving.processes.gateway import Gateway
from tests.serving.hooks import CHAT, hook, metric, post, records
from tests.serving.upstream import Upstream, served


@pytest.fixture
def made(tmp_path):
    return hook(tmp_path)


@pytest.fixture
def gateway(upstream, made):
    with served(Gateway(made, Relay(upstream.url))) as url:
        yield url


def client(url, **given):
    return openai.OpenAI(base_url=f"{url}/v1", api_key="sk-user", max_retries=0, **given)


def last(upstream):
    return json.loads(upstream.received[-1][3])


def test_private_headers_stay_and_the_key_travels(upstream, gateway):
    post(gateway, CHAT, {"Authorization": "Bearer k", "x-sprout-task": "a"})
    headers = upstream.received[-1][2]
    assert headers[b"authorization"] == b"Bearer k"
    assert not [name for name in headers if name.startswith(b"x-sprout")]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[1]",
        b"\xff\xfe",
        b'{"model": "made"}',
        b'{"model": "made", "messages": 3}',
        b'{"model": "made", "messages": [{"role": "user", "content": 5}]}',
        b'{"model": "made", "messages": ["x"]}',
        b"[" * 100_000,
        b'{"model": "made", "messages": [], "x": "' + b"y" * 2_000_000 + b'"}',
    ],
)
def test_what_we_cannot_read_is_passed_on_untouched_and_counted(upstream, made, gateway, data):
    status, body, headers = post(gateway, data)
    assert status == 200
    assert json.loads(body)["choices"][0]["message"]["content"] == "Hello"
    assert upstream.received[-1][3] == data
    assert headers["x-sprout-reason"] in ("unreadable", "too_large")
    assert metric(made, "sprout_fail_open_total{") == 1


def test_a_raising_policy_does_not_fail_the_request(upstream, made, gateway, monkeypatch, caplog):
    def raises(self, observation):
        raise RuntimeError("broken by sk-secret")

    monkeypatch.setattr(Policy, "probabilities_of", raises)
    data = json.dumps(CHAT).encode()
    status, _, headers = post(gateway, data)
    assert metric(made, 'sprout_fail_open_total{reason="failed"}') == 1
    assert status == 200
    assert upstream.received[-1][3] == data
    assert headers["x-sprout-reason"] == "failed"
    assert "RuntimeError at" in caplog.text
    assert "sk-secret" not in caplog.text


def test_a_policy_that_is_too_slow_is_not_waited_for(upstream, tmp_path, monkeypatch):
    slow = hook(tmp_path, deadline=0.02)

    def sleeps(self, observation):
        time.sleep(0.3)
        return [0.0, 0.0, 1.0]

    monkeypatch.setattr(Policy, "probabilities_of", sleeps)
    data = json.dumps(CHAT).encode()
    with served(Gateway(slow, Relay(upstream.url))) as url:
        for _ in range(6):
            status, _, headers = post(url, data)
            assert (status, headers["x-sprout-reason"]) == (200, "deadline")
            assert upstream.received[-1][3] == data
        # After some decisions that were too late, decisions are waited for beside the loop.
        assert records(slow)[-1]["decision_seconds"] < 0.2
        assert metric(slow, 'sprout_fail_open_total{reason="deadline"}') == 6


def test_a_number_that_could_not_be_kept_leaves_the_request_to_the_byte(upstream, gateway):
    data = json.dumps(CHAT | {"seed": 2**64}).encode()
    assert post(gateway, data)[2]["x-sprout-reason"] == "format"
    assert upstream.received[-1][3] == data
    status, said, _ = post(f"{gateway}/v1/decide", {"body": CHAT | {"seed": 2**64}})
    assert (status, b"19 digits" in said) == (400, True)


def test_a_nesting_that_could_not_be_written_leaves_the_request_to_the_byte(upstream, gateway):
    deep: list = []
    for _ in range(400):
        deep = [deep]
    body = CHAT | {"metadata": {"deep": deep}}
    data = json.dumps(body).encode()
    status, _, headers = post(gateway, data)
    assert (status, headers["x-sprout-reason"]) == (200, "unwritable")
    assert headers["x-sprout-directive"] == "none"
    assert upstream.received[-1][3] == data
    status, said, _ = post(f"{gateway}/v1/decide", {"body": body})
    assert (status, b"nested too deeply" in said) == (422, True)


def test_upstreams_refusal_is_the_clients(upstream, gateway):
    upstream.mode = "refuse"
    with pytest.raises(openai.RateLimitError):
        client(gateway).chat.completions.create(model="made", messages=CHAT["messages"])


def test_what_upstream_refuses_steered_is_sent_as_it_came(upstream, made, gateway):
    upstream.mode = "strict"
    data = json.dumps(CHAT).encode()
    status, _, headers = post(gateway, data)
    assert status == 200
    assert (headers["x-sprout-directive"], headers["x-sprout-reason"]) == ("none", "refused")
    assert [received[3] == data for received in upstream.received] == [False, True]
    assert metric(made, 'sprout_fail_open_total{reason="refused"}') == 1
    assert [r["reason"] for r in records(made)] == ["refused"]


def test_one_clients_cookies_are_not_anothers(upstream, made):
    # By name: a cookie jar would not keep cookies for an address.
    named = upstream.url.replace("127.0.0.1", "localhost")
    with served(Gateway(made, Relay(named))) as url:
        _, _, headers = post(url, CHAT)
        assert headers["set-cookie"] == "session=first"
        post(url, CHAT, {"Cookie": "mine=1"})
    assert upstream.received[-1][2][b"cookie"] == b"mine=1"


def test_an_absent_upstream_is_a_502_that_says_so(made):
    with served(Gateway(made, Relay("http://127.0.0.1:9"))) as url:
        status, body, _ = post(url, CHAT)
    assert status == 502
    assert "upstream did not answer" in json.loads(body)["error"]["message"]
    assert metric(made, 'sprout_outcomes_total{outcome="upstream_failed"}') == 1


def test_a_stream_that_dies_breaks_for_the_client_too(upstream, made, gateway):
    upstream.mode = "die"
    stream = client(gateway).chat.completions.create(
        model="made", messages=CHAT["messages"], stream=True
    )
    with pytest.raises((openai.APIError, Exception), match=r"(?i)incomplete|peer|connection"):
        list(stream)
    upstream.mode = "answer"
    assert post(gateway, CHAT)[0] == 200
    assert [r["outcome"] for r in records(made)] == ["upstream_broke", "completed"]


def test_a_body_that_ends_early_breaks_for_the_client_too(upstream, made, gateway):
    upstream.mode = "cut"
    with pytest.raises(openai.APIConnectionError):
        client(gateway).chat.completions.create(model="made", messages=CHAT["messages"])
    assert [r["outcome"] for r in records(made)] == ["upstream_broke"]


def test_a_client_that_leaves_stops_upstream(upstream, made, gateway):
    upstream.mode = "hang"
    host, port = gateway.removeprefix("http://").split(":")
    data = json.dumps(CHAT).encode()
    with socket.create_connection((host, int(port))) as connection:
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        connection.sendall(head.encode() + data)
        while not upstream.received:
            connection.settimeout(5)
    assert upstream.cancelled.wait(1)
    deadline = time.monotonic() + 5
    while not records(made) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [r["outcome"] for r in records(made)] == ["client_left"]
    assert made.in_flight == 0


def test_other_routes_are_proxied_untouched(upstream, gateway):
    with urllib.request.urlopen(f"{gateway}/v1/models?a=%2Fb", timeout=10):
        pass
    method, path, _, body = upstream.received[-1]
    assert (method, path, body) == ("GET", "/v1/models", b"")
    # Upstream's own metrics stay reachable.
    with urllib.request.urlopen(f"{gateway}/metrics", timeout=10):
        pass
    assert upstream.received[-1][1] == "/metrics"


def test_a_long_upload_is_relayed_as_it_comes(upstream, gateway):
    data = bytes(range(256)) * 40_000
    assert post(f"{gateway}/v1/audio/transcriptions", data)[0] == 200
    assert upstream.received[-1][3] == data
    assert upstream.received[-1][2][b"content-length"] == str(len(data)).encode()


def test_models_go_to_their_own_upstreams(upstream, made):
    other = Upstream()
    with (
        served(other) as theirs,
        served(Gateway(made, Relay(upstream.url, {"other": theirs}))) as url,
    ):
        post(url, CHAT | {"model": "other"})
        assert (len(other.received), len(upstream.received)) == (1, 0)
        post(url, CHAT)
        assert (len(other.received), len(upstream.received)) == (1, 1)


def test_health_is_ours(upstream, gateway):
    with urllib.request.urlopen(f"{gateway}/healthz", timeout=10) as answer:
        assert json.load(answer) == {"status": "ok"}
    assert not upstream.received
