import json
import socket
import urllib.error
import urllib.request

import numpy as np
import openai
import pytest

from agents.policy import Policy
from envs.carbon_reader import synthetic_day
from serving.decision import Decider
from serving.gateway import Gateway
from tests import made
from tests.serving.upstream import Upstream, served

CHAT = {"model": "made", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}


@pytest.fixture
def upstream():
    fake = Upstream()
    with served(fake) as url:
        fake.url = url
        yield fake


def decider(folder, logits=(0.0, 0.0, 50.0), **given):
    trace = synthetic_day()
    return Decider(made.bundle(folder, logits, **given), trace, lambda: trace.start + 40_000, 0)


@pytest.fixture
def gateway(upstream, tmp_path):
    with served(Gateway(upstream.url, decider(tmp_path))) as url:
        yield url


def client(url, **given):
    return openai.OpenAI(base_url=f"{url}/v1", api_key="sk-user", max_retries=0, **given)


def post(url, data, headers=None):
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        data=data,
        headers={"content-type": "application/json", **(headers or {})},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read(), dict(error.headers)


def metric(url, name):
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def last(upstream):
    return json.loads(upstream.received[-1][3])


def test_a_request_is_steered_and_says_so(upstream, gateway):
    raw = client(gateway).chat.completions.with_raw_response.create(
        model="made", messages=[{"role": "user", "content": "Hi"}]
    )
    assert raw.parse().choices[0].message.content == "Hello"
    assert last(upstream)["messages"][0] == {
        "role": "system",
        "content": "Always answer very briefly.",
    }
    assert raw.headers["x-sprout-directive"] == "very_brief"
    assert float(raw.headers["x-sprout-probability"]) > 0.99
    assert raw.headers["x-sprout-policy-version"]
    assert raw.headers["x-request-id"] == "7"
    assert metric(gateway, "sprout_completion_tokens_total") == 4


def test_a_stream_is_relayed(upstream, gateway):
    stream = client(gateway).chat.completions.create(
        model="made", messages=[{"role": "user", "content": "Hi"}], stream=True
    )
    pieces = [c.choices[0].delta.content for c in stream if c.choices[0].delta.content]
    assert pieces == ["Hel", "lo"]
    assert metric(gateway, "sprout_completion_tokens_total") == 4


def test_private_headers_stay_and_the_key_travels(upstream, gateway):
    post(gateway, json.dumps(CHAT).encode(), {"Authorization": "Bearer k", "x-sprout-task": "a"})
    headers = upstream.received[-1][2]
    assert headers[b"authorization"] == b"Bearer k"
    assert not [name for name in headers if name.startswith(b"x-sprout")]


@pytest.mark.parametrize(
    ("changed", "headers", "reason"),
    [
        ({}, {"x-sprout-opt-out": "1"}, "opt_out"),
        ({"model": "another"}, {}, "unknown_model"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, {}, "format"),
        ({"response_format": {"type": "json_object"}}, {}, "format"),
        ({"messages": [{"role": "user", "content": "Why? Be brief."}]}, {}, "own_length"),
    ],
)
def test_some_requests_are_left_alone_to_the_byte(upstream, gateway, changed, headers, reason):
    data = json.dumps(CHAT | changed, indent=3).encode()
    _, _, answered = post(gateway, data, headers)
    assert upstream.received[-1][3] == data
    assert answered["x-sprout-directive"] == "none"
    assert answered["x-sprout-reason"] == reason


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
def test_what_we_cannot_read_is_passed_on_untouched_and_counted(upstream, gateway, data):
    status, body, _ = post(gateway, data)
    assert status == 200
    assert json.loads(body)["choices"][0]["message"]["content"] == "Hello"
    assert upstream.received[-1][3] == data
    assert metric(gateway, "sprout_fail_open_total") == 1


def test_a_raising_policy_does_not_fail_the_request(upstream, tmp_path, monkeypatch):
    def raises(self, observations):
        raise RuntimeError("broken")

    monkeypatch.setattr(Policy, "probabilities", raises)
    data = json.dumps(CHAT).encode()
    with served(Gateway(upstream.url, decider(tmp_path))) as url:
        status, _, headers = post(url, data)
        assert metric(url, 'sprout_fail_open_total{reason="RuntimeError"}') == 1
    assert status == 200
    assert upstream.received[-1][3] == data
    assert headers["x-sprout-reason"] == "passed"


def test_upstreams_refusal_is_the_clients(upstream, gateway):
    upstream.mode = "refuse"
    with pytest.raises(openai.RateLimitError):
        client(gateway).chat.completions.create(model="made", messages=CHAT["messages"])


def test_what_upstream_refuses_steered_is_sent_as_it_came(upstream, gateway):
    upstream.mode = "strict"
    data = json.dumps(CHAT).encode()
    status, _, headers = post(gateway, data)
    assert status == 200
    assert headers["x-sprout-directive"] == "none"
    assert [received[3] == data for received in upstream.received] == [False, True]
    assert metric(gateway, 'sprout_fail_open_total{reason="refused"}') == 1


def test_one_clients_cookies_are_not_anothers(upstream, tmp_path):
    # By name: a cookie jar would not keep cookies for an address.
    named = upstream.url.replace("127.0.0.1", "localhost")
    with served(Gateway(named, decider(tmp_path))) as url:
        _, _, headers = post(url, json.dumps(CHAT).encode())
        assert headers["set-cookie"] == "session=first"
        post(url, json.dumps(CHAT).encode(), {"Cookie": "mine=1"})
    assert upstream.received[-1][2][b"cookie"] == b"mine=1"


def test_an_absent_upstream_is_a_502_that_says_so(tmp_path):
    with served(Gateway("http://127.0.0.1:9", decider(tmp_path))) as url:
        status, body, _ = post(url, json.dumps(CHAT).encode())
        assert metric(url, "sprout_upstream_errors_total") == 1
    assert status == 502
    assert "upstream did not answer" in json.loads(body)["error"]["message"]


def test_a_stream_that_dies_breaks_for_the_client_too(upstream, gateway):
    upstream.mode = "die"
    stream = client(gateway).chat.completions.create(
        model="made", messages=CHAT["messages"], stream=True
    )
    with pytest.raises((openai.APIError, Exception), match=r"(?i)incomplete|peer|connection"):
        list(stream)
    upstream.mode = "answer"
    assert post(gateway, json.dumps(CHAT).encode())[0] == 200


def test_a_client_that_leaves_stops_upstream(upstream, gateway):
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
    assert upstream.cancelled.wait(5)


def test_other_routes_are_proxied_untouched(upstream, gateway):
    with urllib.request.urlopen(f"{gateway}/v1/models?a=%2Fb", timeout=10):
        pass
    method, path, _, body = upstream.received[-1]
    assert (method, path, body) == ("GET", "/v1/models", b"")


def test_health_and_metrics_are_ours(upstream, gateway):
    with urllib.request.urlopen(f"{gateway}/healthz", timeout=10) as answer:
        assert json.load(answer) == {"status": "ok"}
    assert metric(gateway, "sprout_policy_info") == 1
    assert not upstream.received


def test_directives_are_drawn_with_their_probability(tmp_path):
    import math

    choose = decider(tmp_path, (math.log(0.5), math.log(0.3), math.log(0.2)))
    drawn = [choose.decide(CHAT, None, 0).directive for _ in range(4000)]
    names = ("none", "brief", "very_brief")
    for name, share in zip(names, (0.5, 0.3, 0.2), strict=True):
        assert drawn.count(name) / 4000 == pytest.approx(share, abs=0.04)
    # Draw for draw as NumPy's own.
    numpys = np.random.default_rng(0)
    assert drawn == [names[numpys.choice(3, p=(0.5, 0.3, 0.2))] for _ in drawn]


def test_a_directive_without_probability_is_never_drawn(tmp_path):
    choose = decider(tmp_path, (0.0, -1e9, 0.0))
    drawn = [choose.decide(CHAT, None, 0).directive for _ in range(500)]
    assert set(drawn) == {"none", "very_brief"}


def test_a_policy_without_probabilities_decides_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(Policy, "probabilities", lambda self, seen: np.full((1, 3), np.nan))
    with pytest.raises(ValueError, match="no probabilities"):
        decider(tmp_path).decide(CHAT, None, 0)
