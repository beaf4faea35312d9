"""The model of a body decides the upstream, however the body is made."""

import gzip
import json

import pytest

from serving.http.relay import Relay
from serving.http.routing import UnreadableError, Upstreams, model_of
from serving.processes.gateway import Gateway
from tests.serving.hooks import hook, post
from tests.serving.upstream import Upstream, served

ROUTES = Upstreams("http://first", {"b": "http://second"})
FORM = (
    b"--X\r\nContent-Disposition: form-data; name=file; filename=model\r\n\r\n\x00\xff\r\n"
    b'--X\r\ncontent-disposition: form-data; name="model"\r\n\r\nb\r\n--X--\r\n'
)
JSON = b"application/json"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (JSON, b'{"model": "b"}'),
        (b"", b'{"model": "b"}'),
        (b"text/plain", b'{"model": "b"}'),
        (JSON, b'{"messages": ["cut \\ud83d"], "model": "b"}'),
        (JSON, b'\xef\xbb\xbf{"model": "b", "x": NaN}'),
        (JSON, '{"model": "b"}'.encode("utf-16")),
        (JSON, b'{"model": "b", "x": "\xff"}'),
        (JSON, b'{"Model": "b"}'),
        (JSON, json.dumps({"input": ["w " * 50] * 5000, "model": "b"}).encode()),
        (b"multipart/form-data; boundary=X", FORM),
        (b'Multipart/Form-Data; boundary="X"; charset=utf-8', FORM),
        (b"application/x-www-form-urlencoded", b"a=1&model=b"),
    ],
)
@pytest.mark.parametrize("coding", [None, b"gzip"])
def test_a_model_is_found_in_any_body_that_names_it(kind, body, coding):
    headers = [(b"content-type", kind)]
    if coding is not None:
        headers.append((b"content-encoding", coding))
        body = gzip.compress(body)
    assert ROUTES.choose(headers, body) == "http://second"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (JSON, b""),
        (JSON, b"[1]"),
        (JSON, b'{"model": 5}'),
        (JSON, b'{"model": "c"}'),
        (b"multipart/form-data; boundary=Y", FORM),
        (b"audio/wav", b"\x00\x01"),
    ],
)
def test_a_body_without_a_known_model_goes_to_the_first_upstream(kind, body):
    assert ROUTES.choose([(b"content-type", kind)], body) == "http://first"


@pytest.mark.parametrize("body", [b"{", b'{"model": "b"} x', b"[" * 100_000])
def test_json_whose_model_cannot_be_read_is_an_error(body):
    with pytest.raises(UnreadableError, match="no JSON"):
        model_of(JSON, body)
    with pytest.raises(UnreadableError, match="Content-Encoding"):
        ROUTES.choose([(b"content-encoding", b"new")], b"x")
    # With one upstream, that server judges the body.
    assert Upstreams("http://first").choose([(b"content-type", JSON)], body) == "http://first"


def test_a_body_is_never_sent_to_the_first_upstream_unread(upstream, tmp_path):
    other, limit = Upstream(), 2_000_000
    with served(other) as other_url:
        relay = Relay(Upstreams(upstream.url, {"b": other_url}), longest_routed=limit)
        with served(Gateway(hook(tmp_path), relay)) as url:
            long = json.dumps({"messages": ["x" * 1_500_000], "model": "b"}).encode()
            assert post(url, long)[0] == 200
            assert other.received[-1][3] == long
            status, body, _ = post(url, b'{"pad": "' + b"y" * limit + b'", "model": "b"}')
            assert (status, json.loads(body)["error"]["type"]) == (413, "too_large")
            assert post(url, b'{"model": "b"')[0] == 400
    assert not upstream.received
