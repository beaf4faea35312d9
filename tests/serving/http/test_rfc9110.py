"""The duties of an intermediary under RFC 9110 and RFC 9112, byte by byte on real sockets."""

import json
import socket
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.http.forwarding import forwarded_request, forwarded_response
from serving.http.relay import Relay
from serving.processes.gateway import Gateway
from tests.serving.hooks import CHAT, records, waited
from tests.serving.upstream import served
from tests.serving.wire import answer, fields_of, request, scripted, send_raw

BODY = json.dumps(CHAT).encode()
STREAM = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'


@pytest.fixture
def behind(made_hook):
    """Start a gateway in front of a scripted upstream; `behind(*pieces)` yields both."""

    @contextmanager
    def start(*pieces, closes=True):
        with (
            scripted(*pieces, closes=closes) as upstream,
            served(Gateway(made_hook, Relay(upstream.url, name="here"))) as url,
        ):
            yield upstream, url

    return start


def test_fields_that_connection_names_are_not_forwarded(behind):
    with behind(answer(b"{}", "Connection: close, X-Mine", "X-Mine: 1", "X-All: 2")) as (up, url):
        data = request(
            BODY, "Connection: X-Hop, keep-alive", "X-Hop: 1", "X-End: 2", "TE: trailers"
        )
        received = dict(fields_of(send_raw(url, data)))
        sent = dict(up.fields())
    assert not {"x-hop", "te"} & set(sent)
    assert sent["x-end"] == "2"
    assert "x-mine" not in received
    assert received["x-all"] == "2"


def test_via_names_each_hop_of_a_request(behind):
    with behind(answer()) as (up, url):
        send_raw(url, request(BODY, "Via: 1.0 first"))
        assert [value for name, value in up.fields() if name == "via"] == ["1.0 first", "1.1 here"]
        send_raw(url, request(BODY, version="1.0"))
        assert dict(up.fields())["via"] == "1.0 here"


def test_a_request_that_comes_back_is_refused(behind):
    with behind(answer()) as (up, url):
        assert send_raw(url, request(BODY, "Via: 1.1 here, 1.1 other")).startswith(b"HTTP/1.1 508")
        assert not up.requests


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE"])
def test_max_forwards_is_counted_down_and_answered_at_zero(behind, method):
    with behind(answer()) as (up, url):
        send_raw(url, request(b"", "Max-Forwards: 3", method=method, path="/v1/models"))
        assert dict(up.fields())["max-forwards"] == "2"
        data = request(b"", "Max-Forwards: 0", method=method, path="/v1/models")
        assert send_raw(url, data).startswith(b"HTTP/1.1 200")
        assert len(up.requests) == 1


@pytest.mark.parametrize("upgrade", ["h2c", "websocket", "TLS/1.0, foo"])
@pytest.mark.parametrize("chunked", [False, True])
def test_an_upgrade_that_is_not_taken_is_served_with_its_body(behind, upgrade, chunked):
    fields = ["Connection: Upgrade, HTTP2-Settings", f"Upgrade: {upgrade}", "HTTP2-Settings: AAMA"]
    lines = ["POST /v1/embeddings HTTP/1.1", "Host: gateway", *fields]
    lines.append("Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(BODY)}")
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY) if chunked else BODY
    data = "\r\n".join(lines).encode() + b"\r\n\r\n" + body
    with behind(answer(), closes=False) as (up, url):
        # The connection stays usable, also if it is cut anywhere.
        for cut in (10, 120, len(data) - 3):
            received = send_raw(url, data[:cut], data[cut:], request(b"", method="GET", path="/x"))
            assert received.count(b"HTTP/1.1 200") == 2
            assert up.requests[-2][1] == BODY
            assert up.requests[-1][0].startswith(b"GET /x")
        names = {name for name, _ in fields_of(up.requests[-2][0])}
        assert not names & {"upgrade", "http2-settings"}


def test_a_websocket_is_refused_with_a_reason(behind):
    fields = ["Upgrade: websocket", "Sec-WebSocket-Key: a", "Sec-WebSocket-Version: 13"]
    lines = ["GET /v1/realtime HTTP/1.1", "Host: g", "Connection: close, Upgrade", *fields]
    with behind(answer()) as (up, url):
        received = send_raw(url, "\r\n".join(lines).encode() + b"\r\n\r\n")
        assert received.startswith(b"HTTP/1.1 501")
        assert b"WebSocket" in received
        assert not up.requests


def test_a_tunnel_is_refused(behind):
    with behind(answer()) as (up, url):
        received = send_raw(url, b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n\x16\x03")
        assert received.startswith(b"HTTP/1.1 501")
        assert not up.requests


def test_a_request_about_the_server_itself_is_answered(behind):
    with behind(answer()) as (up, url):
        assert send_raw(url, request(method="OPTIONS", path="*")).startswith(b"HTTP/1.1 200")
        assert not up.requests


def test_an_absolute_target_is_understood(behind):
    with behind(answer()) as (up, url):
        send_raw(url, request(b"", method="GET", path="http://elsewhere:1/v1/models?a=%2F"))
        assert up.requests[-1][0].startswith(b"GET /v1/models?a=%2F HTTP/1.1\r\n")
        assert dict(up.fields())["host"] == up.url.removeprefix("http://")


@pytest.mark.parametrize(
    "head",
    [
        b"POST /v1/x HTTP/1.1\r\n\r\n",
        b"POST /v1/x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"POST /v1/x HTTP/1.1\r\nHost: a b\r\n\r\n",
        b"POST /v1/x HTTP/2.0\r\nHost: a\r\n\r\n",
        b"POST /v1/x HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n",
        b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: a\r\n\r\n",
    ],
)
def test_a_request_of_unclear_framing_or_host_is_refused(behind, head):
    with behind(answer()) as (up, url):
        received = send_raw(url, head)
        assert received.startswith(b"HTTP/1.1 400")
        assert ("connection", "close") in fields_of(received)
        assert not up.requests


KEPT = request(b"", method="GET", path="/v1/models").replace(b"Connection: close\r\n", b"")


@pytest.mark.parametrize(
    "bad",
    [
        b"BAD\r\n\r\n",
        b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 70_000,
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: ",
    ],
)
def test_answers_before_a_malformed_request_come_whole(behind, bad):
    with behind(0.2, answer(b"x" * 1000), closes=False) as (up, url):
        received = send_raw(url, KEPT + KEPT + bad, half_close=bad.endswith(b": "))
        assert received.count(b"x" * 1000) == 2
        assert received.endswith(b"x")
        assert len(up.requests) == 2


@pytest.mark.parametrize("coding", ["gzip", "gzip, chunked", "chunked, chunked"])
def test_an_unknown_transfer_coding_is_refused(behind, coding):
    with behind(answer()) as (up, url):
        data = request(b"", f"Transfer-Encoding: {coding}") + b"0\r\n\r\n"
        assert send_raw(url, data)[9:12] in (b"501", b"400")
        assert not up.requests


def test_an_endless_trailer_is_refused(behind):
    head = request(b"", "Transfer-Encoding: chunked", path="/v1/files")
    with behind(answer()) as (up, url):
        try:
            received = send_raw(url, head + b"1\r\nx\r\n0\r\nX: ", *[b"y" * 60_000] * 100)
            assert received.startswith(b"HTTP/1.1 431")
        except ConnectionError:
            # The server closed the connection while the client was still sending.
            pass
        assert not up.requests


def test_many_pipelined_upgrades_are_all_answered(behind):
    one = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"
    with behind(answer()) as (_, url):
        received = send_raw(url, one * 1500, request(b"", method="GET", path="/healthz"))
        assert received.count(b"HTTP/1.1 200") == 1501


@pytest.mark.parametrize(("target", "seen"), [("http://a", b"/"), ("http://a:1?b=2", b"/?b=2")])
def test_an_absolute_target_may_have_no_path(behind, target, seen):
    with behind(answer()) as (up, url):
        send_raw(url, request(b"", method="GET", path=target))
        assert up.requests[-1][0].startswith(b"GET " + seen + b" HTTP/1.1\r\n")


def test_a_broken_answer_does_not_look_whole_to_an_http_1_0_client(behind):
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"
    with (
        behind(head) as (_, url),
        pytest.raises(ConnectionResetError),
    ):
        send_raw(url, request(b"", method="GET", path="/v1/m", version="1.0"))


def test_trailers_never_become_headers(behind):
    chunks = b"%x\r\n%b\r\n0\r\nX-Sprout-Opt-Out: 1\r\nAuthorization: stolen\r\n\r\n"
    head = request(b"", "Transfer-Encoding: chunked", "Trailer: X-Sprout-Opt-Out")
    with behind(answer()) as (up, url):
        received = send_raw(url, head + chunks % (len(BODY), BODY))
        assert ("x-sprout-reason", "policy") in fields_of(received)
        assert not {"authorization", "trailer"} & {name for name, _ in up.fields()}


def test_the_trailers_of_an_answer_do_not_spoil_it(behind):
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n"
    with behind(head + b"3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n") as (_, url):
        received = send_raw(url, request(b"", method="GET", path="/v1/models"))
        assert received.endswith(b"\r\n3\r\nabc\r\n0\r\n\r\n")
        assert "trailer" not in dict(fields_of(received))


@pytest.mark.parametrize("kind", ["text/event-stream", "application/json"])
def test_an_http_1_0_client_gets_an_answer_without_chunks(behind, kind):
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    pieces = [head, *(b"%x\r\n%b\r\n" % (len(STREAM), STREAM) for _ in range(3)), b"0\r\n\r\n"]
    with behind(*pieces) as (_, url):
        received = send_raw(
            url, request(BODY, version="1.0").replace(b"Connection: close\r\n", b"")
        )
        names = dict(fields_of(received))
        assert received.partition(b"\r\n\r\n")[2] == STREAM * 3
        assert "transfer-encoding" not in names
        assert names["connection"] == "close"


@pytest.mark.parametrize(("version", "count"), [("1.1", 1), ("1.0", 0)])
def test_100_continue_is_sent_to_http_1_1_only(behind, version, count):
    with behind(answer()) as (up, url):
        head, body = request(BODY, "Expect: 100-continue", version=version), b""
        head, _, body = head.partition(b"\r\n\r\n")
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(head + b"\r\n\r\n")
            if count:
                assert connection.recv(100).startswith(b"HTTP/1.1 100")
            connection.sendall(body)
            received = b""
            while piece := connection.recv(65536):
                received += piece
        assert received.startswith(b"HTTP/1.1 200")
        assert "expect" not in dict(up.fields())


def test_a_client_that_closes_its_sending_side_gets_its_answer(behind):
    with behind(0.3, answer()) as (_, url):
        received = send_raw(url, request(BODY), half_close=True)
        assert received.endswith(b'{"ok":true}')


def test_a_client_that_leaves_stops_the_upstream(behind, made_hook):
    with behind(30.0, answer()) as (up, url):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(request(BODY))
            assert waited(lambda: up.requests)
        assert waited(lambda: [r["outcome"] for r in records(made_hook)] == ["client_left"], 5)


def test_a_response_field_may_be_as_long_as_a_request_head(behind):
    with behind(answer(b"{}", "X-Debug: " + "z" * 60_000)) as (_, url):
        received = send_raw(url, request(BODY))
        assert received.startswith(b"HTTP/1.1 200")
        assert ("x-debug", "z" * 60_000) in fields_of(received)


def test_a_request_is_not_sent_again_after_its_connection_broke(behind):
    # The upstream closes the connection without an answer: the request may have been served.
    with behind() as (up, url):
        for method in ("GET", "POST", "PUT", "DELETE"):
            up.requests.clear()
            data = request(b"x" if method in ("POST", "PUT") else b"", method=method, path="/v1/f")
            assert send_raw(url, data).startswith(b"HTTP/1.1 502")
            assert len(up.requests) == 1


def test_a_request_is_not_sent_again_if_a_kept_connection_breaks(behind):
    with behind(answer(), closes=False) as (up, url):
        keep = request(b"", method="GET", path="/v1/m").replace(b"Connection: close\r\n", b"")
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(keep)
            assert connection.recv(65536)
            up.pieces, up.closes = (), True
            connection.sendall(keep)
            assert connection.recv(65536).startswith(b"HTTP/1.1 502")
        assert len(up.requests) == 2


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\nab", b"502"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", b"502"),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", b"204"),
        (b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + answer(), b"200"),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", b"200"),
    ],
)
def test_an_unusual_answer_is_passed_on_or_a_502(behind, head, status):
    with behind(head) as (_, url):
        received = send_raw(url, request(b"", method="GET", path="/v1/m"))
        assert received.startswith(b"HTTP/1.1 " + status)
        assert status != b"204" or "content-length" not in dict(fields_of(received))
        assert not head.startswith(b"HTTP/1.0") or b"until the end" in received


def test_an_answer_without_a_date_gets_one(behind):
    with behind(answer()) as (_, url):
        assert "GMT" in dict(fields_of(send_raw(url, request(BODY))))["date"]
    with behind(answer(b"{}", "Date: then")) as (_, url):
        assert dict(fields_of(send_raw(url, request(BODY))))["date"] == "then"


names = st.sampled_from([b"x-a", b"x-b", b"accept", b"cache-control", b"x-c-d"])
fields = st.lists(st.tuples(names, st.sampled_from([b"1", b"", b"a, b"])), max_size=8)


@settings(max_examples=200)
@given(fields, st.lists(names, max_size=3), st.sampled_from([b", ", b",", b" ,\t"]))
def test_only_nominated_fields_are_dropped(headers, nominated, separator):
    connection = [(b"connection", separator.join(n.upper() for n in nominated))]
    kept = [pair for pair in headers if pair[0] not in nominated]
    assert forwarded_request(headers + connection, "1.1", "here") == [*kept, (b"via", b"1.1 here")]
    dated = forwarded_response(connection + headers, 200)
    assert [pair for pair in dated if pair[0] != b"date"] == kept
