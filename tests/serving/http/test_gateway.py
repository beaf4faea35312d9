"""The gateway on real sockets, as clients and upstream see it."""

import json
import socket
import time
import urllib.request

import openai
import pytest

from agents.policy.network import Policy
from serving.http.relay import Relay
from serving.http.routing import Upstreams
from serving.processes.gateway import Gateway
from tests.serving.hooks import CHAT, hook, metric, post, records
from tests.serving.upstream import Upstream, served


def client(url, **options):
    return openai.OpenAI(base_url=f"{url}/v1", api_key="sk-user", max_retries=0, **options)


def test_the_api_key_reaches_upstream_and_sprout_headers_do_not(upstream, gateway):
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
def test_unreadable_bodies_are_sent_unchanged_and_counted(upstream, made_hook, gateway, data):
    status, body, headers = post(gateway, data)
    assert status == 200
    assert json.loads(body)["choices"][0]["message"]["content"] == "Hello"
    assert upstream.received[-1][3] == data
    assert headers["x-sprout-reason"] in ("unreadable", "too_large")
    assert metric(made_hook, "sprout_fail_open_total{") == 1


def test_a_raising_policy_does_not_fail_the_request(
    upstream, made_hook, gateway, monkeypatch, caplog
):
    def raises(self, observation):
        raise RuntimeError("broken by sk-secret")

    monkeypatch.setattr(Policy, "probabilities_of", raises)
    data = json.dumps(CHAT).encode()
    status, _, headers = post(gateway, data)
    assert metric(made_hook, 'sprout_fail_open_total{reason="failed"}') == 1
    assert status == 200
    assert upstream.received[-1][3] == data
    assert headers["x-sprout-reason"] == "failed"
    assert "RuntimeError at" in caplog.text
    assert "sk-secret" not in caplog.text


def test_a_policy_that_is_too_slow_is_not_waited_for(upstream, tmp_path, monkeypatch):
    made_hook = hook(tmp_path, deadline=0.02)

    def sleeps(self, observation):
        time.sleep(0.3)
        return [0.0, 0.0, 1.0]

    monkeypatch.setattr(Policy, "probabilities_of", sleeps)
    data = json.dumps(CHAT).encode()
    with served(Gateway(made_hook, Relay(upstream.url))) as url:
        for _ in range(6):
            status, _, headers = post(url, data)
            assert (status, headers["x-sprout-reason"]) == (200, "deadline")
            assert upstream.received[-1][3] == data
        # After several late decisions, a thread decides, and the wait ends at the deadline.
        assert records(made_hook)[-1]["decision_seconds"] < 0.2
        assert metric(made_hook, 'sprout_fail_open_total{reason="deadline"}') == 6


def test_a_body_with_a_too_large_integer_is_sent_unchanged(upstream, gateway):
    data = json.dumps(CHAT | {"seed": 2**64}).encode()
    assert post(gateway, data)[2]["x-sprout-reason"] == "format"
    assert upstream.received[-1][3] == data
    status, answer, _ = post(f"{gateway}/v1/decide", {"body": CHAT | {"seed": 2**64}})
    assert (status, b"19 digits" in answer) == (400, True)


def test_a_body_that_is_nested_too_deeply_is_sent_unchanged(upstream, gateway):
    nested: list = []
    for _ in range(400):
        nested = [nested]
    body = CHAT | {"metadata": {"deep": nested}}
    data = json.dumps(body).encode()
    status, _, headers = post(gateway, data)
    assert (status, headers["x-sprout-reason"]) == (200, "unwritable")
    assert headers["x-sprout-directive"] == "none"
    assert upstream.received[-1][3] == data
    status, answer, _ = post(f"{gateway}/v1/decide", {"body": body})
    assert (status, b"nested too deeply" in answer) == (422, True)


def test_upstreams_refusal_reaches_the_client(upstream, gateway):
    upstream.mode = "refuse"
    with pytest.raises(openai.RateLimitError):
        client(gateway).chat.completions.create(model="made", messages=CHAT["messages"])


def test_a_steered_request_that_upstream_refuses_is_sent_again_unchanged(
    upstream, made_hook, gateway
):
    upstream.mode = "strict"
    data = json.dumps(CHAT).encode()
    status, _, headers = post(gateway, data)
    assert status == 200
    assert (headers["x-sprout-directive"], headers["x-sprout-reason"]) == ("none", "refused")
    assert [received[3] == data for received in upstream.received] == [False, True]
    assert metric(made_hook, 'sprout_fail_open_total{reason="refused"}') == 1
    assert [r["reason"] for r in records(made_hook)] == ["refused"]


def test_one_clients_cookies_are_not_sent_for_another(upstream, made_hook):
    # The URL uses a host name, because a cookie jar keeps no cookies for an IP address.
    named_url = upstream.url.replace("127.0.0.1", "localhost")
    with served(Gateway(made_hook, Relay(named_url))) as url:
        _, _, headers = post(url, CHAT)
        assert headers["set-cookie"] == "session=first"
        post(url, CHAT, {"Cookie": "mine=1"})
    assert upstream.received[-1][2][b"cookie"] == b"mine=1"


def test_an_absent_upstream_gives_a_502_with_the_reason(made_hook):
    with served(Gateway(made_hook, Relay("http://127.0.0.1:9"))) as url:
        status, body, _ = post(url, CHAT)
    assert status == 502
    message = json.loads(body)["error"]["message"]
    assert message.startswith("upstream http://127.0.0.1:")
    assert message.endswith("did not answer: ClientConnectorError: Connection refused")
    assert metric(made_hook, 'sprout_outcomes_total{outcome="upstream_failed"}') == 1


def test_a_stream_that_breaks_upstream_is_an_error_for_the_client(upstream, made_hook, gateway):
    upstream.mode = "die"
    stream = client(gateway).chat.completions.create(
        model="made", messages=CHAT["messages"], stream=True
    )
    with pytest.raises((openai.APIError, Exception), match=r"(?i)incomplete|peer|connection"):
        list(stream)
    upstream.mode = "answer"
    assert post(gateway, CHAT)[0] == 200
    assert [r["outcome"] for r in records(made_hook)] == ["upstream_broke", "completed"]


def test_a_body_that_ends_early_is_an_error_for_the_client(upstream, made_hook, gateway):
    upstream.mode = "cut"
    with pytest.raises(openai.APIConnectionError):
        client(gateway).chat.completions.create(model="made", messages=CHAT["messages"])
    assert [r["outcome"] for r in records(made_hook)] == ["upstream_broke"]


def test_a_client_that_disconnects_cancels_the_upstream_request(upstream, made_hook, gateway):
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
    while not records(made_hook) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [r["outcome"] for r in records(made_hook)] == ["client_left"]
    assert made_hook.in_flight == 0


def test_other_routes_are_proxied_unchanged(upstream, gateway):
    with urllib.request.urlopen(f"{gateway}/v1/models?a=%2Fb", timeout=10):
        pass
    method, path, _, body = upstream.received[-1]
    assert (method, path, body) == ("GET", "/v1/models", b"")
    # Upstream's own metrics stay reachable.
    with urllib.request.urlopen(f"{gateway}/metrics", timeout=10):
        pass
    assert upstream.received[-1][1] == "/metrics"


def test_a_long_upload_is_relayed_unchanged(upstream, gateway):
    data = bytes(range(256)) * 40_000
    assert post(f"{gateway}/v1/audio/transcriptions", data)[0] == 200
    assert upstream.received[-1][3] == data
    assert upstream.received[-1][2][b"content-length"] == str(len(data)).encode()


def test_each_model_is_routed_to_its_own_upstream(upstream, made_hook):
    other = Upstream()
    with (
        served(other) as other_url,
        served(Gateway(made_hook, Relay(Upstreams(upstream.url, {"other": other_url})))) as url,
    ):
        post(url, CHAT | {"model": "other"})
        assert (len(other.received), len(upstream.received)) == (1, 0)
        post(url, CHAT)
        assert (len(other.received), len(upstream.received)) == (1, 1)


def test_the_gateway_answers_health_checks_itself(upstream, gateway):
    with urllib.request.urlopen(f"{gateway}/healthz", timeout=10) as answer:
        assert json.load(answer) == {"status": "ok"}
    assert not upstream.received
