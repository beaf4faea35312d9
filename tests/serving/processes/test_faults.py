"""Faults of what is around the hook: a full disk, an old grid, a signal, replicas apart."""

import base64
import http.client
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from envs.carbon.intensity import iso
from envs.requests.features import Featurizer
from serving.ledger.database import Ledger
from serving.processes.supervisor import Workers
from serving.processes.worker import LISTENING_SUFFIX, take_request
from tests import made
from tests.serving.hooks import CHAT, post, waited
from tests.serving.launch import serving

# A file system of 3 MB of its own, seen by nobody else.
SMALL_DISK = (
    *("unshare", "--user", "--map-root-user", "--mount", "sh", "-c"),
    'mount -t tmpfs -o size=3m tmpfs "$0" && exec "$@"',
)


def mounts():
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "--user", "--map-root-user", "--mount", "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def fill(path):
    """Write a file until its disk is full."""
    with path.open("wb", 0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass


@pytest.mark.skipif(not mounts(), reason="no mount namespaces for users here")
def test_with_a_full_disk_requests_are_served_and_counted(upstream, folder):
    small = folder / "small"
    small.mkdir()
    flags = ("--state", str(small / "state"))
    ledger = f"sqlite:///{small}/ledger.db"
    with serving(
        upstream.url, folder, *flags, ledger=ledger, inside=(*SMALL_DISK, str(small))
    ) as found:
        assert found.chosen() == "very_brief"
        inside = Path(f"/proc/{found.process.pid}/root{small}")
        fill(inside / "filler")
        answers = [post(found.url, CHAT) for _ in range(60)]
        assert {answer[0] for answer in answers} == {200}
        assert {answer[2]["x-sprout-directive"] for answer in answers} == {"very_brief"}
        unrecorded = 'sprout_unrecorded_total{reason="write_failed"}'
        assert waited(lambda: found.metric(unrecorded) > 0)
        (inside / "filler").unlink()
        decision = post(found.url, CHAT)[2]["x-sprout-decision-id"]
        assert waited(lambda: found.ask(f"/v1/requests/{decision}")[0] == 200)
        # Each of them is in the ledger, or was counted as missing.
        lost = found.metric(unrecorded)
        kept = [
            a
            for a in answers
            if found.ask(f"/v1/requests/{a[2]['x-sprout-decision-id']}")[0] == 200
        ]
        assert len(kept) + lost == len(answers)


def test_a_grid_that_was_last_seen_a_day_ago_is_aged_and_not_trusted(upstream, folder):
    now = time.time() // 3600 * 3600
    rows = [(now - 3600 * (24 + h), 900 if h == 0 else 100 + h) for h in range(47, -1, -1)]
    trace = folder / "grid.csv"
    write(trace, rows)
    with serving(upstream.url, folder, "--intensity", str(trace)) as found:
        headers = post(found.url, CHAT)[2]
        # The dirty hour that has long passed is not what is acted upon: the mean is, and said so.
        mean = np.mean([value for _, value in rows])
        assert headers["x-sprout-intensity-step"] == "yearly_mean"
        assert float(headers["x-sprout-intensity"]) == pytest.approx(mean, abs=0.1)
        assert 23 * 3600 < float(headers["x-sprout-intensity-age"]) < 26 * 3600
        assert found.metric("sprout_carbon_intensity_age_seconds") > 23 * 3600
        assert found.metric('sprout_carbon_intensity_info{scope="direct",') == 1
        path = f"/v1/requests/{headers['x-sprout-decision-id']}"
        assert waited(lambda: found.ask(path)[0] == 200)
        record = json.loads(found.ask(path)[1])
        assert record["intensity_step"] == "yearly_mean"
        assert record["intensity_kind"] == "average direct"
        seen = np.frombuffer(base64.b64decode(record["features"]), np.float32)
        names = Featurizer(("arithmetic",)).names
        assert seen[names.index("log_intensity")] == pytest.approx(np.log1p(mean))
        # News end it.
        write(trace, [*rows, *((now - 3600 * h, 333) for h in range(23, -1, -1))])
        assert waited(lambda: float(post(found.url, CHAT)[2]["x-sprout-intensity"]) == 333)


def write(trace, rows):
    lines = [f"{iso(at)},X,{value}" for at, value in rows]
    trace.write_text("\n".join(["timestamp_utc,zone,carbon_intensity_g_per_kwh", *lines]) + "\n")


def test_sighup_under_load_loads_the_bundle_and_disturbs_nobody(upstream, folder):
    with serving(upstream.url, folder, "--workers", "2") as found:
        stop, statuses = threading.Event(), []

        def load():
            while not stop.is_set():
                statuses.append(post(found.url, CHAT)[0])

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        loaded = 'sprout_bundle_loads_total{result="loaded"}'
        assert waited(lambda: len(statuses) > 20)
        # One that is only starting is not sent the signal: it loads the bundle anyway.
        assert waited(lambda: sum(shows(pid) for pid in workers(found)) == 2, 60)
        os.kill(found.process.pid, signal.SIGHUP)
        # Both workers, though nothing in the folder has changed.
        assert waited(lambda: found.metric(loaded) == 2, 60)
        stop.set()
        for thread in threads:
            thread.join(10)
    assert set(statuses) == {200}


def test_a_signal_that_comes_while_one_is_looked_for_is_not_lost():
    class Late(threading.Event):
        """Set just after it was found not to be."""

        def is_set(self):
            found = super().is_set()
            self.set()
            return found

    told = Late()
    assert not take_request(told)
    # As one that comes during the load.
    assert take_request(told)
    told = threading.Event()
    told.set()
    assert take_request(told)
    assert not take_request(told)


def test_sighup_for_a_worker_that_has_just_ended_ends_nobody(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    (tmp_path / f"{ended.pid}{LISTENING_SUFFIX}").touch()
    gone, alive = SimpleNamespace(pid=ended.pid), SimpleNamespace(pid=os.getpid())
    (tmp_path / f"{alive.pid}{LISTENING_SUFFIX}").touch()
    heard = threading.Event()
    before = signal.signal(signal.SIGHUP, lambda *_: heard.set())
    try:
        parent = SimpleNamespace(processes=[gone, alive], _runtime=tmp_path)
        Workers.handle_hup(parent)
        assert heard.wait(10)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_worker_that_cannot_start_again_does_not_end_the_others(upstream, folder):
    now = time.time() // 3600 * 3600
    rows = [(now - 3600 * h, 100 + h) for h in range(47, -1, -1)]
    trace = folder / "grid.csv"
    write(trace, rows)
    flags = ("--workers", "2", "--intensity", str(trace))
    with serving(upstream.url, folder, *flags) as found:
        log = next(folder.glob("log*"))
        first, second = workers(found)
        # Both have their settings: their metrics are shown.
        assert waited(lambda: all(shows(pid) for pid in (first, second)))
        trace.write_text("broken")
        os.kill(second, signal.SIGKILL)
        assert waited(lambda: "a new worker did not start" in log.read_text(), 20)
        assert [post(found.url, CHAT)[0] for _ in range(10)] == [200] * 10
        write(trace, rows)
        assert waited(lambda: found.metric("sprout_policy_info{") == 1)
        assert {post(found.url, CHAT)[0] for _ in range(10)} == {200}
        assert found.process.poll() is None


def shows(pid):
    """Whether it has its settings, and hears SIGHUP."""
    try:
        return any("gauge_livemax" in m.path for m in psutil.Process(pid).memory_maps())
    except psutil.Error:
        # It has ended.
        return False


def workers(found):
    """Process ids of those that answer requests."""
    inside = psutil.Process(found.process.pid).children()
    return [p.pid for p in inside if "resource_tracker" not in " ".join(p.cmdline())]


def test_requests_on_their_way_at_the_end_are_answered(upstream, folder):
    with serving(upstream.url, folder) as found:
        host, port = found.url.removeprefix("http://").split(":")
        idle = [http.client.HTTPConnection(host, int(port), timeout=10) for _ in range(20)]
        for place, connection in enumerate(idle):
            connection.connect()
            if place % 2:
                # Kept from an earlier request.
                connection.request("GET", "/healthz")
                connection.getresponse().read()
        found.process.terminate()
        first = idle.pop()
        closed = ("127.0.0.1", int(port))

        def leaving():
            first.request("GET", "/healthz")
            answer = first.getresponse()
            return answer.read() and answer.getheader("connection") == "close"

        assert waited(leaving)
        answers = []
        for connection in idle:
            connection.request("POST", "/v1/chat/completions", json.dumps(CHAT))
            answer = connection.getresponse()
            answers.append((answer.status, answer.getheader("connection"), len(answer.read()) > 9))
        assert answers == [(200, "close", True)] * 19
        # Who comes only now is refused at once.
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(closed, timeout=5)
        assert found.process.wait(20) == 0


def test_replicas_give_a_conversation_the_same_without_asking_each_other(
    upstream, folder, postgres
):
    made.bundle(folder / "bundle", (0.0, 0.0, 0.0))
    url = postgres.database("sticky")
    with ExitStack() as stack:
        replicas = [
            stack.enter_context(serving(upstream.url, folder, ledger=url)) for _ in range(2)
        ]
        drawn = set()
        for number in range(20):
            begun = [{"role": "user", "content": f"Question {number}"}]
            later = [*begun, {"role": "assistant", "content": "A."}, *begun]
            turns = [CHAT | {"messages": chat} for chat in (begun, later)]
            given = {
                post(replica.url, turn)[2]["x-sprout-directive"]
                for replica, turn in zip(replicas, turns, strict=True)
            }
            assert len(given) == 1
            drawn |= given
    assert drawn == {"none", "brief", "very_brief"}


def test_usage_that_the_client_did_not_ask_for_is_recorded_and_hidden(upstream, folder):
    with serving(upstream.url, folder, "--ask-usage") as found:
        _, body, headers = post(found.url, CHAT | {"stream": True})
        sent = json.loads(upstream.received[-1][3])
        assert sent["stream_options"] == {"include_usage": True}
        assert b"usage" not in body
        assert body.rstrip().endswith(b"data: [DONE]")
        path = f"/v1/requests/{headers['x-sprout-decision-id']}"
        assert waited(lambda: found.ask(path)[0] == 200)
        assert json.loads(found.ask(path)[1])["tokens_method"] == "reported"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--ledger", "mysql://user@host/db"), "--ledger: give sqlite"),
        (("--intensity", "absent.csv"), "absent.csv"),
        (("--intensity", "absent.csv", "--workers", "3"), "absent.csv"),
    ],
)
def test_wrong_settings_are_one_line_and_a_status(tmp_path, flags, said):
    command = [sys.executable, "-P", "-m", "experiments.cli", "serve", "--upstream", "http://a:1"]
    given = ["--policy", "bundle", "--state", "state", "--port", "0", "--admin-port", "0"]
    clock = ["--clock-start", "2024-01-02T00:00"] if "--ledger" in flags else []
    ended = subprocess.run(
        [*command, *given, *clock, *flags], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 2
    lines = [line for line in ended.stderr.splitlines() if "no policy bundle" not in line]
    assert len(lines) == 1
    assert said in lines[0]


def test_no_series_is_shown_twice(upstream, folder):
    with serving(upstream.url, folder, "--workers", "2") as found:
        post(found.url, CHAT)
        assert waited(lambda: found.metric("sprout_ledger_rows_total") == 1)
        lines = found.ask("/metrics")[1].decode().splitlines()
    series = [line.rsplit(" ", 1)[0] for line in lines if line.startswith("sprout_")]
    kinds = [line for line in lines if line.startswith("# TYPE")]
    assert len(set(series)) == len(series)
    assert len(set(kinds)) == len(kinds)
    assert sum(line.startswith("sprout_journal_bytes") for line in series) == 1


def test_a_schema_of_a_later_version_ends_nobody(upstream, folder, ledger_of_later):
    with serving(upstream.url, folder, ledger=ledger_of_later) as found:
        assert found.chosen() == "very_brief"
        assert found.metric("sprout_ledger_up") == 0


@pytest.fixture
def ledger_of_later(tmp_path):
    url = f"sqlite:///{tmp_path / 'later.db'}"
    ledger = Ledger(url)
    ledger.migrate()
    ledger.close()
    with closing(sqlite3.connect(tmp_path / "later.db")) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
        database.commit()
    return url
