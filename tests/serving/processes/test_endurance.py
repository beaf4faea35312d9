"""Many connections, many broken bodies, against `sprout serve` as a process; `make test-long`."""

import http.client
import json
import random
import resource
import socket
import threading
from urllib.parse import urlsplit

import psutil
import pytest

from experiments.bench.canned import canned
from tests.serving.hooks import CHAT, post, waited
from tests.serving.launch import serving

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

ROUTES = ("/v1/chat/completions", "/v1/completions", "/v1/responses")
IDLE = 10_000
BODIES = 100_000
CLIENTS = 4


@pytest.fixture
def upstream():
    with canned() as started:
        yield started.url


def memory(process):
    """Bytes held by the hook's processes."""
    found = psutil.Process(process.pid)
    return sum(p.memory_info().rss for p in (found, *found.children(recursive=True)))


def test_ten_thousand_idle_connections_leave_room_for_others(upstream, folder):
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < IDLE + 1000:
        pytest.skip(f"only {most} open files are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with serving(upstream, folder) as found:
        host, port = urlsplit(found.url).hostname, urlsplit(found.url).port
        idle = []
        try:
            while len(idle) < IDLE:
                idle.append(socket.create_connection((host, port), timeout=30))
            held = memory(found.process)
            answers = [post(found.url, CHAT)[0] for _ in range(200)]
            assert answers == [200] * 200
            # Each is cut off, as its head did not come in time.
            assert all(connection.recv(1) == b"" for connection in idle)
        finally:
            for connection in idle:
                connection.close()
        assert post(found.url, CHAT)[0] == 200
        assert held < 1 << 30


def value(rng, depth=0):
    """Some JSON value."""
    kinds = [
        lambda: None,
        lambda: rng.random() < 0.5,
        lambda: rng.choice([0, -1, 7, 2**31, 2**63, 10**30, 0.5, -1e300]),
        lambda: rng.choice(["", "user", "system", "text", "Hi", "\u0000", "ä" * 9, "\ud83d\ude00"]),
        lambda: "x" * rng.randrange(5000),
    ]
    if depth < 4:
        kinds += [
            lambda: [value(rng, depth + 1) for _ in range(rng.randrange(4))],
            lambda: {name: value(rng, depth + 1) for name in rng.sample(NAMES, rng.randrange(5))},
        ]
    return rng.choice(kinds)()


NAMES = (
    *("model", "messages", "role", "content", "prompt", "input", "instructions", "text", "format"),
    *("type", "max_tokens", "max_output_tokens", "stream", "stream_options", "tools", "n", "user"),
)


def broken(rng):
    """A chat with something wrong in it, as bytes."""
    body = json.loads(json.dumps(CHAT | {"prompt": "[INST] Hi [/INST]", "input": "Hi"}))
    body["messages"] += rng.choice(
        [[], [{"role": "assistant", "content": "A"}, CHAT["messages"][0]]]
    )
    for _ in range(rng.randrange(3)):
        body[rng.choice(NAMES)] = value(rng)
    if rng.random() < 0.3:
        body["messages"] = [*CHAT["messages"], value(rng)]
    if rng.random() < 0.3 and isinstance(body["messages"], list):
        body["messages"] = [{"role": value(rng), "content": value(rng)}, *body["messages"]]
    raw = bytearray(json.dumps(body, ensure_ascii=rng.random() < 0.5).encode("utf-8", "replace"))
    for _ in range(rng.choice([0, 0, 1, 5])):
        place = rng.randrange(len(raw))
        raw[place : place + rng.randrange(2)] = rng.randbytes(rng.randrange(3))
    return bytes(raw) * rng.choice([1] * 50 + [2])


def test_a_hundred_thousand_broken_bodies_break_nothing(upstream, folder):
    with serving(upstream, folder) as found:
        statuses, held = set(), []

        def send(seed, count):
            rng = random.Random(seed)
            where = urlsplit(found.url)
            connection = http.client.HTTPConnection(where.hostname, where.port, timeout=30)
            for _ in range(count):
                connection.request("POST", rng.choice(ROUTES), broken(rng))
                answer = connection.getresponse()
                answer.read()
                statuses.add(answer.status)

        def round_of(number, count):
            threads = [
                threading.Thread(target=send, args=(1000 * number + n, count // CLIENTS))
                for n in range(CLIENTS)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert waited(lambda: found.metric("sprout_journal_bytes") < 20 << 20, 60)
            held.append(memory(found.process))

        for number in range(5):
            round_of(number, BODIES // 5)
        assert statuses == {200}
        assert waited(lambda: found.metric("sprout_requests_total{") == BODIES)
        # None of them met an error of ours, and each is in the ledger.
        assert found.metric('sprout_fail_open_total{reason="failed"}') == 0
        assert found.metric("sprout_unrecorded_total") == 0
        assert found.metric("sprout_fail_open_total{") > BODIES / 10
        assert held[-1] < 1.05 * held[0], held
