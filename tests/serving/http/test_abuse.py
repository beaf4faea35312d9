"""Hostile clients: the hook does not break, and other clients are served meanwhile."""

import asyncio
import json
import socket
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.apis.routes import APIS
from serving.http.decide_routes import DecideRoutes
from serving.http.relay import Relay
from serving.middleware import SproutMiddleware
from serving.processes import protocol
from serving.processes.gateway import Gateway
from serving.processes.protocol import GuardedProtocol
from tests.serving.hooks import CHAT, hook, post
from tests.serving.upstream import served

PATH = "/v1/chat/completions"


@pytest.fixture
def gateway(upstream, tmp_path):
    app = Gateway(hook(tmp_path), Relay(upstream.url))
    with served(app, http=GuardedProtocol) as url:
        yield url


def connected(url):
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    connection.settimeout(10)
    return connection


def received_until_close(connection):
    """Return all bytes that the server sends until it closes the connection."""
    parts = []
    while data := connection.recv(65536):
        parts.append(data)
    return b"".join(parts)


def test_slow_request_heads_are_cut_off_while_others_are_served(upstream, tmp_path, monkeypatch):
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.5)
    app = Gateway(hook(tmp_path), Relay(upstream.url))
    with served(app, http=GuardedProtocol) as url:
        slow_connections = [connected(url) for _ in range(200)]
        for connection in slow_connections[:100]:
            connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-A")
        assert post(url, CHAT)[0] == 200
        # The connections that sent nothing are closed too.
        assert [received_until_close(connection) for connection in slow_connections] == [b""] * 200
        assert post(url, CHAT)[0] == 200


def test_a_reused_connection_is_closed_if_its_next_head_is_slow(upstream, tmp_path, monkeypatch):
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.5)
    app = Gateway(hook(tmp_path), Relay(upstream.url))
    with served(app, http=GuardedProtocol) as url, connected(url) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in connection.recv(65536)
        connection.sendall(b"GET /healthz HT")
        assert received_until_close(connection) == b""


def test_an_endless_request_head_is_refused(gateway):
    with connected(gateway) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        try:
            for n in range(4000):
                connection.sendall(b"X-%d: %s\r\n" % (n, b"y" * 100))
        except OSError:
            pass
        try:
            assert b"431" in received_until_close(connection)
        except ConnectionResetError:
            pass
    assert post(gateway, CHAT)[0] == 200


@pytest.mark.parametrize(
    "framing",
    [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Content-Length: 5\r\nContent-Length: 50",
        "Content-Length: -1",
        "Content-Length: 5, 5",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding : chunked",
        "Content-Length: 5\r\n X: folded",
        "X: a\nTransfer-Encoding: chunked",
    ],
)
def test_ambiguous_framing_never_smuggles_a_request_upstream(upstream, gateway, framing):
    hidden = "GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n"
    with connected(gateway) as connection:
        connection.sendall((head + "0\r\n\r\n" + hidden).encode())
        connection.shutdown(socket.SHUT_WR)
        answer = received_until_close(connection)
    # Each request that reaches upstream gets an answer: none is smuggled inside another.
    assert answer.count(b"HTTP/1.1 200") == len(upstream.received)
    assert b" 5" not in answer[:14] or answer[9:12] in (b"501", b"502")
    for method, path, headers, _ in upstream.received:
        assert (method, path) in (("POST", PATH), ("GET", "/hidden"))
        assert b"transfer-encoding" not in headers or b"content-length" not in headers


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "ä" * 10, "\x00", "a" * 5000])
def test_a_task_header_is_not_echoed_in_the_answer(gateway, value):
    with connected(gateway) as connection:
        body = json.dumps(CHAT).encode()
        head = (
            f"POST {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}"
        )
        connection.sendall(f"{head}\r\nX-Sprout-Task: {value}\r\n\r\n".encode() + body)
        answer = received_until_close(connection)
    assert b"200 OK" in answer or b"400 Bad Request" in answer
    assert b"evil" not in answer.lower()


def test_hundreds_of_idle_connections_leave_room_for_others(gateway):
    idle = [connected(gateway) for _ in range(800)]
    try:
        assert all(post(gateway, CHAT)[0] == 200 for _ in range(20))
    finally:
        for connection in idle:
            connection.close()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=12,
)
PARTS = st.lists(st.fixed_dictionaries({}, optional={"type": JSON, "text": JSON}), max_size=3)
TURN = st.fixed_dictionaries(
    {}, optional={"role": JSON | st.sampled_from(["user", "system"]), "content": JSON | PARTS}
)
FIELDS = {
    "model": JSON | st.just("made"),
    "messages": JSON | st.lists(TURN | JSON, max_size=4),
    "prompt": JSON,
    "input": JSON | st.lists(TURN | JSON, max_size=3),
    "instructions": JSON,
    "text": JSON,
    "max_tokens": JSON,
    "stream": JSON,
    "stream_options": JSON,
    "tools": JSON,
    "system": JSON | PARTS,
    "response_format": JSON,
    "output_config": JSON,
    "chat_template_kwargs": JSON,
}
BODIES = st.fixed_dictionaries({}, optional=FIELDS) | JSON
ROUTES = st.sampled_from(list(APIS))


async def _echo(scope, receive, send):
    event = await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": event["body"]})


def through(app, path, raw):
    """Return status and body of one request to an ASGI application, without a socket."""
    events = []

    async def receive():
        return {"type": "http.request", "body": raw, "more_body": False}

    async def send(event):
        events.append(event)

    scope = {"type": "http", "method": "POST", "path": path, "headers": []}
    asyncio.run(app(scope, receive, send))
    return events[0]["status"], b"".join(e.get("body", b"") for e in events[1:])


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    # A directive with a token cap uses every way in which the hook changes a body.
    from envs.requests.directive import Catalogue, Directive

    catalogue = Catalogue((Directive("none"), Directive("short", "Be brief.", 50)))
    folder = tmp_path_factory.mktemp("fuzz")
    return hook(folder, (0.0, 50.0), catalogue=catalogue, ask_usage=True)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
@given(route=ROUTES, body=BODIES)
def test_no_body_breaks_the_hook(fuzzed, route, body):
    raw = json.dumps(body).encode()
    status, sent = through(SproutMiddleware(_echo, fuzzed), route, raw)
    assert status == 200
    if sent != raw:
        # A changed body is valid JSON, and only the fields that the hook may set differ.
        changed = json.loads(sent)
        steered_fields = {"messages", "prompt", "instructions", "input", "system", "stream_options"}
        steered_fields |= {"max_tokens", "max_output_tokens", "max_completion_tokens"}
        assert json.dumps(
            {k: v for k, v in changed.items() if k not in steered_fields}, sort_keys=True
        ) == (
            json.dumps({k: v for k, v in body.items() if k not in steered_fields}, sort_keys=True)
        )
    assert fuzzed.in_flight == 0


@settings(max_examples=250, deadline=None, database=None)
@given(
    path=st.sampled_from(["/v1/decide", "/v1/outcome"]),
    raw=st.binary(max_size=50)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries(
        {},
        optional={"route": ROUTES | JSON, "body": BODIES, "decision_id": JSON, "seconds": JSON},
    ).map(lambda value: json.dumps(value).encode()),
)
def test_decide_and_outcome_answer_any_body_with_json(fuzzed, path, raw):
    status, sent = through(DecideRoutes(fuzzed), path, raw)
    assert status in (200, 400, 413, 422)
    assert json.loads(sent)


@pytest.mark.long
def test_memory_does_not_grow_with_the_number_of_requests(fuzzed):
    app = SproutMiddleware(_echo, fuzzed)

    def send_requests(count):
        for n in range(count):
            body = CHAT | {"messages": [{"role": "user", "content": f"What is {n}?"}]}
            through(app, PATH, json.dumps(body).encode())
        fuzzed.metrics.flush(0)

    send_requests(300)
    tracemalloc.start()
    try:
        send_requests(300)
        first_bytes, _ = tracemalloc.get_traced_memory()
        send_requests(1500)
        last_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Less than 100 bytes for each of 1,500 requests.
    assert last_bytes - first_bytes < 150_000
