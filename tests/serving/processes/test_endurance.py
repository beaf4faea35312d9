"""Many connections and many broken bodies against a `sprout serve` process; `make test-long`."""

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
    """Return the memory of the hook's processes, bytes."""
    parent = psutil.Process(process.pid)
    return sum(p.memory_info().rss for p in (parent, *parent.children(recursive=True)))


def test_ten_thousand_idle_connections_leave_room_for_others(upstream, folder):
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard_limit < IDLE + 1000:
        pytest.skip(f"only {hard_limit} open files are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    with serving(upstream, folder) as server:
        host, port = urlsplit(server.url).hostname, urlsplit(server.url).port
        idle = []
        try:
            while len(idle) < IDLE:
                idle.append(socket.create_connection((host, port), timeout=30))
            memory_bytes = memory(server.process)
            answers = [post(server.url, CHAT)[0] for _ in range(200)]
            assert answers == [200] * 200
            # Each idle connection is closed, because its head did not arrive in time.
            assert all(connection.recv(1) == b"" for connection in idle)
        finally:
            for connection in idle:
                connection.close()
        assert post(server.url, CHAT)[0] == 200
        assert memory_bytes < 1 << 30


def value(rng, depth=0):
    """Return a random JSON value."""
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
    """Return the bytes of a chat with random faults."""
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
        position = rng.randrange(len(raw))
        raw[position : position + rng.randrange(2)] = rng.randbytes(rng.randrange(3))
    return bytes(raw) * rng.choice([1] * 50 + [2])


def test_a_hundred_thousand_broken_bodies_cause_no_error_and_no_memory_growth(upstream, folder):
    with serving(upstream, folder) as server:
        statuses, memory_by_round = set(), []

        def send(seed, count):
            rng = random.Random(seed)
            address = urlsplit(server.url)
            connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
            for _ in range(count):
                connection.request("POST", rng.choice(ROUTES), broken(rng))
                answer = connection.getresponse()
                answer.read()
                statuses.add(answer.status)

        def play_round(number, count):
            threads = [
                threading.Thread(target=send, args=(1000 * number + n, count // CLIENTS))
                for n in range(CLIENTS)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert waited(lambda: server.metric("sprout_journal_bytes") < 20 << 20, 60)
            memory_by_round.append(memory(server.process))

        for number in range(5):
            play_round(number, BODIES // 5)
        assert statuses == {200}
        assert waited(lambda: server.metric("sprout_requests_total{") == BODIES)
        # No body caused an internal error, and no request went unrecorded.
        assert server.metric('sprout_fail_open_total{reason="failed"}') == 0
        assert server.metric("sprout_unrecorded_total") == 0
        assert server.metric("sprout_fail_open_total{") > BODIES / 10
        assert memory_by_round[-1] < 1.05 * memory_by_round[0], memory_by_round
