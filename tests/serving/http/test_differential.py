"""Random requests, once straight to a canned upstream and once through the gateway.

The gateway steers none of them: it is off, in shadow mode, or the request opts out. What upstream
gets and what the client gets must be equal, but for the fields of one connection, the framing, Via
and Date.
"""

import asyncio
import gzip
import json
import random
import zlib
from contextlib import ExitStack

import pytest

from serving.http.relay import Relay
from serving.processes.gateway import Gateway
from tests.serving.hooks import hook
from tests.serving.upstream import served
from tests.serving.wire import fields_of, scripted

ROUTES = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
OTHER_ROUTES = ("/v1/embeddings", "/v1/models?a=%2F&b", "/v1/files/x%20y", "/metrics", "//a/../b;c")
USAGE = {"prompt_tokens": 3, "completion_tokens": 4}
# Fields that may differ on the way to upstream and back.
HOP = {
    *("connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "host", "via"),
    *("content-length", "expect", "http2-settings", "proxy-connection"),
}


def chosen_request(rng):
    """Return a random request: method, target, fields, body, HTTP version."""
    target = rng.choice(ROUTES if rng.random() < 0.7 else OTHER_ROUTES)
    method = "POST" if target in ROUTES else rng.choice(["GET", "POST", "PUT", "DELETE", "PATCH"])
    body = b"" if method == "GET" else chosen_body(rng)
    fields = [("Content-Type", rng.choice(["application/json", "text/plain; charset=x"]))]
    options = [
        ("Accept-Encoding", rng.choice(["gzip", "br, zstd", "identity"])),
        ("X-Custom", rng.choice(["a", "", "\u00e9", "a, b", '"q"'])),
        ("X-Custom", "again"),
        ("Cookie", "a=1; b=2"),
        ("Authorization", "Bearer sk-user"),
        ("Via", "1.0 before"),
        ("TE", "trailers"),
        ("Expect", "100-continue"),
        ("Cache-Control", "no-transform"),
    ]
    fields += [field for field in options if rng.random() < 0.3]
    if rng.random() < 0.3:
        fields += [("Connection", "X-Hop, X-Absent"), ("X-Hop", "1")]
    if rng.random() < 0.2:
        fields += [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c")]
        fields += [("HTTP2-Settings", "AAMAAABkAAQ")]
    return method, target, fields, body, "1.0" if rng.random() < 0.15 else "1.1"


def chosen_body(rng):
    text = rng.choice(["Hi", "x" * 3000, "\u65e5\u672c", 'say "data: [DONE]"', "\\ud83d"])
    body = {"model": "made", "messages": [{"role": "user", "content": text}], "seed": 2**60}
    body |= {"prompt": f"[INST] {text} [/INST]", "input": text, "stream": rng.random() < 0.5}
    if rng.random() < 0.2:
        body["stream_options"] = {"include_usage": True}
    kinds = [
        json.dumps(body, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, 2])).encode(),
        b'{"a":1,"a":2}',
        b"\xff\x00not json",
        b"",
        bytes(rng.randbytes(200)),
        b'{"pad": "' + b"y" * 1_100_000 + b'"}',
    ]
    return rng.choices(kinds, (60, 4, 4, 4, 4, 1))[0]


def request_bytes(rng, method, target, fields, body, version):
    """Return the request's pieces, framed and cut at random."""
    lines = [f"{method} {target} HTTP/{version}", "Host: gateway", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in fields]
    if body and version == "1.1" and rng.random() < 0.4:
        lines.append("Transfer-Encoding: chunked")
        pieces = []
        while body:
            size = rng.randint(1, len(body))
            pieces.append(b"%x;a=b\r\n%b\r\n" % (size, body[:size]))
            body = body[size:]
        body = b"".join(pieces) + rng.choice([b"0\r\n\r\n", b"0\r\nX-Trailer: 1\r\n\r\n"])
    elif body:
        lines.append(f"Content-Length: {len(body)}")
    data = "\r\n".join(lines).encode("utf-8") + b"\r\n\r\n" + body
    cuts = sorted(rng.randrange(len(data)) for _ in range(rng.choice([0, 0, 1, 3])))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def canned(head, body):
    """Return the pieces of the answer that the request's seed asks for."""
    rng = random.Random(dict(fields_of(head))["x-seed"])
    method = head.split(b" ")[0]
    status = rng.choices([200, 400, 404, 429, 500, 204, 304], (80, 4, 3, 3, 4, 3, 3))[0]
    streamed = rng.random() < 0.5
    content = stream_of(rng) if streamed else answer_of(rng)
    coding = rng.choices([None, "gzip", "deflate"], (70, 20, 10))[0]
    if coding is not None:
        zipped = gzip.compress(content, mtime=0)
        content = zipped if coding == "gzip" else zlib.compress(content)
    fields = [
        ("Content-Type", "text/event-stream; charset=utf-8" if streamed else "application/json")
    ]
    fields += [] if coding is None else [("Content-Encoding", coding)]
    options = [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("X-Long", "z" * 20_000)]
    options += [("Cache-Control", "no-cache, no-transform"), ("ETag", '"a"'), ("Vary", "*")]
    options += [("X-Sprout-Directive", "from-upstream"), ("Date", "Thu, 01 Jan 1970 00:00:00 GMT")]
    fields += [field for field in options if rng.random() < 0.3]
    if rng.random() < 0.3:
        fields += [("Connection", "X-Mine"), ("X-Mine", "1"), ("Keep-Alive", "timeout=5")]
    version, empty = "1.1", status in (204, 304) or method == b"HEAD"
    framing = rng.choice(["length", "chunked", "close"])
    if empty:
        content = b""
    elif framing == "length":
        fields.append(("Content-Length", str(len(content))))
    elif framing == "chunked":
        fields.append(("Transfer-Encoding", "chunked"))
        cuts = sorted(rng.randrange(len(content)) for _ in range(4)) if content else []
        pieces = [content[a:b] for a, b in zip([0, *cuts], [*cuts, len(content)], strict=True)]
        content = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces if p)
        content += rng.choice([b"0\r\n\r\n", b"0\r\nX-Trailer: 1\r\n\r\n"])
    else:
        version = "1.0"
    lines = [f"HTTP/{version} {status} Fine", *(f"{name}: {value}" for name, value in fields)]
    data = "\r\n".join(lines).encode() + b"\r\n\r\n" + content
    cuts = sorted(rng.randrange(len(data)) for _ in range(rng.choice([0, 1, 4])))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    asked_to_close = ("connection", "close") in fields_of(head)
    return [*pieces, None] if version == "1.0" or asked_to_close else pieces


def answer_of(rng):
    text = rng.choice(["hello", "w" * 9000, '"usage":{"completion_tokens":9}'])
    answer = {"choices": [{"message": {"content": text}}], "usage": USAGE, "ids": [1] * 500}
    return json.dumps(answer, indent=rng.choice([None, 1])).encode()


def stream_of(rng):
    chunks = [
        {
            "choices": [
                {"index": 0, "delta": {"content": rng.choice(["a", "data: [DONE]", "\u65e5"])}}
            ]
        }
        for _ in range(rng.randint(0, 5))
    ]
    chunks += rng.choice([[], [{"choices": [], "usage": USAGE}], [{"error": {"message": "x"}}]])
    end = rng.choice(["\n", "\r\n", "\r"])
    events = [f"data:{rng.choice(['', ' '])}{json.dumps(chunk)}" for chunk in chunks]
    events += rng.choice([[], [": ping"], ["data: [DONE]"], ["event: error"]])
    return "".join(event + end * 2 for event in events).encode()


async def exchange(url, pieces):
    """Send a request's pieces and return the answer's status, fields, decoded body and framing."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 24)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        received = await asyncio.wait_for(reader.read(), 30)
    finally:
        writer.close()
    while received.startswith(b"HTTP/1.1 100"):
        received = received.partition(b"\r\n\r\n")[2]
    head, _, body = received.partition(b"\r\n\r\n")
    fields = fields_of(head + b"\r\n\r\n")
    if ("transfer-encoding", "chunked") in fields:
        body = dechunked(body)
    return int(head.split(b" ")[1]), fields, body


def dechunked(data):
    body = b""
    while True:
        size, _, data = data.partition(b"\r\n")
        length = int(size.split(b";")[0], 16)
        if not length:
            return body
        body += data[:length]
        assert data[length : length + 2] == b"\r\n"
        data = data[length + 2 :]


def end_to_end(fields, also=frozenset()):
    """Return the fields that are not for one connection only, nor the gateway's own."""
    nominated = {
        token.strip().lower() for n, v in fields if n == "connection" for token in v.split(",")
    }
    dropped = HOP | nominated | also
    return sorted((n, v) for n, v in fields if n not in dropped and not n.startswith("x-sprout"))


@pytest.fixture
def gateways(tmp_path):
    """A canned upstream, and a gateway in front of it for each way not to steer."""
    with ExitStack() as stack:
        upstream = stack.enter_context(scripted(canned, closes=False))
        urls = {}
        for mode in ("off", "shadow", "on"):
            (tmp_path / mode).mkdir()
            made_hook = hook(tmp_path / mode, mode=mode, ask_usage=True)
            urls[mode] = stack.enter_context(served(Gateway(made_hook, Relay(upstream.url))))
        yield upstream, urls


async def compare(upstream, urls, seed):
    rng = random.Random(seed)
    method, target, fields, body, version = chosen_request(rng)
    fields.append(("X-Seed", str(seed)))
    mode = rng.choice(list(urls))
    opt_out = [("X-Sprout-Opt-Out", "1")] if mode == "on" else []
    framing = rng.random()
    answers, received = [], []
    for url, added in ((upstream.url, []), (urls[mode], opt_out)):
        pieces = request_bytes(
            random.Random(framing), method, target, fields + added, body, version
        )
        answers.append(await exchange(url, pieces))
        mark = b"\r\nx-seed: %d\r\n" % seed
        mine = [request for request in upstream.requests if mark in request[0].lower()]
        received.append(mine[-1])
        assert len(mine) == len(received), "the request was sent again, or not at all"
    (straight_head, straight_body), (head, relayed_body) = received
    context = seed, mode, method, target, version
    assert head.split(b" ")[:2] == straight_head.split(b" ")[:2], context
    assert relayed_body == straight_body, context
    assert end_to_end(fields_of(head)) == end_to_end(fields_of(straight_head)), context
    (status, straight_fields, content), (relayed_status, relayed_fields, relayed) = answers
    assert (relayed_status, relayed) == (status, content), context
    dated = {"date"} - {name for name, _ in straight_fields}
    assert end_to_end(relayed_fields, dated) == end_to_end(straight_fields), context
    lengths = [dict(f).get("content-length") for f in (straight_fields, relayed_fields)]
    assert lengths[1] in (None, lengths[0]), context


@pytest.mark.parametrize(
    "count", [200, pytest.param(5000, marks=[pytest.mark.long, pytest.mark.timeout(900)])]
)
def test_what_is_not_steered_is_equal_with_and_without_the_gateway(gateways, count):
    upstream, urls = gateways

    async def all_of():
        limit = asyncio.Semaphore(8)

        async def one(seed):
            async with limit:
                await compare(upstream, urls, seed)

        await asyncio.gather(*(one(seed) for seed in range(count)))

    asyncio.run(all_of())
    # `compare` has seen each request arrive twice, and both of its answers.
    assert len(upstream.requests) == 2 * count
