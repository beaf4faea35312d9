"""Faults around the hook: a full disk, old intensities, signals, replicas without a link."""

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
from serving.processes.worker import LISTENING_SUFFIX, take_reload_request
from tests import made
from tests.serving.hooks import CHAT, post, waited
from tests.serving.launch import serving

# A private file system of 3 MB that no other process sees.
SMALL_DISK = (
    *("unshare", "--user", "--map-root-user", "--mount", "sh", "-c"),
    'mount -t tmpfs -o size=3m tmpfs "$0" && exec "$@"',
)


def can_mount():
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "--user", "--map-root-user", "--mount", "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def fill(path):
    """Write a file until its disk is full."""
    with path.open("wb", 0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass


@pytest.mark.skipif(not can_mount(), reason="no mount namespaces for users here")
def test_with_a_full_disk_requests_are_served_and_counted(upstream, folder):
    small = folder / "small"
    small.mkdir()
    flags = ("--state", str(small / "state"))
    ledger = f"sqlite:///{small}/ledger.db"
    with serving(
        upstream.url, folder, *flags, ledger=ledger, inside=(*SMALL_DISK, str(small))
    ) as server:
        assert server.chosen() == "very_brief"
        small_disk = Path(f"/proc/{server.process.pid}/root{small}")
        fill(small_disk / "filler")
        answers = [post(server.url, CHAT) for _ in range(60)]
        assert {answer[0] for answer in answers} == {200}
        assert {answer[2]["x-sprout-directive"] for answer in answers} == {"very_brief"}
        unrecorded = 'sprout_unrecorded_total{reason="write_failed"}'
        assert waited(lambda: server.metric(unrecorded) > 0)
        (small_disk / "filler").unlink()
        decision = post(server.url, CHAT)[2]["x-sprout-decision-id"]
        assert waited(lambda: server.ask(f"/v1/requests/{decision}")[0] == 200)
        # Each request is in the ledger or was counted as missing.
        unrecorded_count = server.metric(unrecorded)
        recorded = [
            a
            for a in answers
            if server.ask(f"/v1/requests/{a[2]['x-sprout-decision-id']}")[0] == 200
        ]
        assert len(recorded) + unrecorded_count == len(answers)


def test_an_intensity_reading_of_a_day_ago_is_replaced_by_the_mean(upstream, folder):
    now = time.time() // 3600 * 3600
    rows = [(now - 3600 * (24 + h), 900 if h == 0 else 100 + h) for h in range(47, -1, -1)]
    trace = folder / "grid.csv"
    write(trace, rows)
    with serving(upstream.url, folder, "--intensity", str(trace)) as server:
        headers = post(server.url, CHAT)[2]
        # The decision uses the mean, and reports it, instead of the high reading of a day ago.
        mean = np.mean([value for _, value in rows])
        assert headers["x-sprout-intensity-step"] == "yearly_mean"
        assert float(headers["x-sprout-intensity"]) == pytest.approx(mean, abs=0.1)
        assert 23 * 3600 < float(headers["x-sprout-intensity-age"]) < 26 * 3600
        assert server.metric("sprout_carbon_intensity_age_seconds") > 23 * 3600
        assert server.metric('sprout_carbon_intensity_info{scope="direct",') == 1
        path = f"/v1/requests/{headers['x-sprout-decision-id']}"
        assert waited(lambda: server.ask(path)[0] == 200)
        record = json.loads(server.ask(path)[1])
        assert record["intensity_step"] == "yearly_mean"
        assert record["intensity_kind"] == "average direct"
        features = np.frombuffer(base64.b64decode(record["features"]), np.float32)
        names = Featurizer(("arithmetic",)).names
        assert features[names.index("log_intensity")] == pytest.approx(np.log1p(mean))
        # New readings end this.
        write(trace, [*rows, *((now - 3600 * h, 333) for h in range(23, -1, -1))])
        assert waited(lambda: float(post(server.url, CHAT)[2]["x-sprout-intensity"]) == 333)


def write(trace, rows):
    lines = [f"{iso(at)},X,{value}" for at, value in rows]
    trace.write_text("\n".join(["timestamp_utc,zone,carbon_intensity_g_per_kwh", *lines]) + "\n")


def test_sighup_under_load_reloads_the_bundle_and_fails_no_request(upstream, folder):
    with serving(upstream.url, folder, "--workers", "2") as server:
        stop, statuses = threading.Event(), []

        def load():
            while not stop.is_set():
                statuses.append(post(server.url, CHAT)[0])

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        loaded = 'sprout_bundle_loads_total{result="loaded"}'
        assert waited(lambda: len(statuses) > 20)
        # A worker that is still starting is not sent the signal, since it loads the bundle anyway.
        assert waited(lambda: sum(is_ready(pid) for pid in workers(server)) == 2, 60)
        os.kill(server.process.pid, signal.SIGHUP)
        # Both workers load it again, although nothing in the folder has changed.
        assert waited(lambda: server.metric(loaded) == 2, 60)
        stop.set()
        for thread in threads:
            thread.join(10)
    assert set(statuses) == {200}


def test_a_signal_that_arrives_during_the_check_is_not_lost():
    class SetAfterCheck(threading.Event):
        """An event that is set just after a check has found it unset."""

        def is_set(self):
            was_set = super().is_set()
            self.set()
            return was_set

    hup_requested = SetAfterCheck()
    assert not take_reload_request(hup_requested)
    # The signal that arrived after the check is taken now.
    assert take_reload_request(hup_requested)
    hup_requested = threading.Event()
    hup_requested.set()
    assert take_reload_request(hup_requested)
    assert not take_reload_request(hup_requested)


def test_sighup_reaches_running_workers_when_another_has_just_ended(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    (tmp_path / f"{ended.pid}{LISTENING_SUFFIX}").touch()
    ended_worker, running_worker = SimpleNamespace(pid=ended.pid), SimpleNamespace(pid=os.getpid())
    (tmp_path / f"{running_worker.pid}{LISTENING_SUFFIX}").touch()
    signal_received = threading.Event()
    previous_handler = signal.signal(signal.SIGHUP, lambda *_: signal_received.set())
    try:
        parent = SimpleNamespace(processes=[ended_worker, running_worker], _runtime=tmp_path)
        Workers.handle_hup(parent)
        assert signal_received.wait(10)
    finally:
        signal.signal(signal.SIGHUP, previous_handler)


def test_a_worker_that_starts_again_with_a_broken_trace_steers_nothing_until_it_is_mended(
    upstream, folder
):
    now = time.time() // 3600 * 3600
    rows = [(now - 3600 * h, 100 + h) for h in range(47, -1, -1)]
    trace = folder / "grid.csv"
    write(trace, rows)
    with serving(upstream.url, folder, "--intensity", str(trace)) as server:
        assert server.chosen() == "very_brief"
        log = next(folder.glob("log*"))
        (worker,) = workers(server)
        trace.write_text("broken")
        os.kill(worker, signal.SIGKILL)
        assert waited(lambda: "model *: not steered" in log.read_text(), 20)
        status, _, headers = post(server.url, CHAT)
        assert (status, headers["x-sprout-reason"]) == (200, "no_intensity")
        assert "x-sprout-intensity" not in headers
        write(trace, rows)
        assert waited(lambda: server.chosen() == "very_brief")
        assert server.process.poll() is None


def is_ready(pid):
    """Return whether the worker has read its settings and handles SIGHUP."""
    try:
        return any("gauge_livemax" in m.path for m in psutil.Process(pid).memory_maps())
    except psutil.Error:
        # The process has ended.
        return False


def workers(server):
    """Return the process ids of the server's workers."""
    children = psutil.Process(server.process.pid).children()
    return [p.pid for p in children if "resource_tracker" not in " ".join(p.cmdline())]


def test_requests_on_open_connections_are_answered_during_shutdown(upstream, folder):
    with serving(upstream.url, folder) as server:
        host, port = server.url.removeprefix("http://").split(":")
        idle = [http.client.HTTPConnection(host, int(port), timeout=10) for _ in range(20)]
        for index, connection in enumerate(idle):
            connection.connect()
            if index % 2:
                # This connection is kept alive after an earlier request.
                connection.request("GET", "/healthz")
                connection.getresponse().read()
        server.process.terminate()
        probe = idle.pop()
        address = ("127.0.0.1", int(port))

        def is_draining():
            probe.request("GET", "/healthz")
            answer = probe.getresponse()
            return answer.read() and answer.getheader("connection") == "close"

        assert waited(is_draining)
        answers = []
        for connection in idle:
            connection.request("POST", "/v1/chat/completions", json.dumps(CHAT))
            answer = connection.getresponse()
            answers.append((answer.status, answer.getheader("connection"), len(answer.read()) > 9))
        assert answers == [(200, "close", True)] * 19
        # A new connection is refused at once.
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, timeout=5)
        assert server.process.wait(20) == 0


@pytest.mark.long
def test_replicas_choose_the_same_directive_without_communicating(upstream, folder, postgres):
    made.bundle(folder / "bundle", (0.0, 0.0, 0.0))
    url = postgres.database("sticky")
    with ExitStack() as stack:
        replicas = [
            stack.enter_context(serving(upstream.url, folder, ledger=url)) for _ in range(2)
        ]
        all_directives = set()
        for number in range(20):
            first_turn = [{"role": "user", "content": f"Question {number}"}]
            next_turn = [*first_turn, {"role": "assistant", "content": "A."}, *first_turn]
            turns = [CHAT | {"messages": chat} for chat in (first_turn, next_turn)]
            directives = {
                post(replica.url, turn)[2]["x-sprout-directive"]
                for replica, turn in zip(replicas, turns, strict=True)
            }
            assert len(directives) == 1
            all_directives |= directives
    assert all_directives == {"none", "brief", "very_brief"}


def test_usage_that_the_client_did_not_ask_for_is_recorded_and_hidden(upstream, folder):
    with serving(upstream.url, folder, "--ask-usage") as server:
        _, body, headers = post(server.url, CHAT | {"stream": True})
        sent = json.loads(upstream.received[-1][3])
        assert sent["stream_options"] == {"include_usage": True}
        assert b"usage" not in body
        assert body.rstrip().endswith(b"data: [DONE]")
        path = f"/v1/requests/{headers['x-sprout-decision-id']}"
        assert waited(lambda: server.ask(path)[0] == 200)
        assert json.loads(server.ask(path)[1])["tokens_method"] == "reported"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--ledger", "mysql://user@host/db"), "--ledger: give sqlite"),
        (("--intensity", "absent.csv"), "absent.csv"),
        (("--intensity", "absent.csv", "--workers", "3"), "absent.csv"),
        (("--policy", "typo", "--intensity", "300"), "--policy typo: there is no such folder"),
    ],
)
def test_a_wrong_setting_gives_one_line_and_exit_status_2(tmp_path, flags, message):
    command = [sys.executable, "-P", "-m", "experiments.cli", "serve", "--upstream", "http://a:1"]
    required_flags = ["--policy", "bundle", "--state", "state", "--port", "0", "--admin-port", "0"]
    clock = ["--clock-start", "2024-01-02T00:00"] if "--ledger" in flags else []
    (tmp_path / "bundle").mkdir()
    completed = subprocess.run(
        [*command, *required_flags, *clock, *flags],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert completed.returncode == 2
    lines = [line for line in completed.stderr.splitlines() if "no policy bundle" not in line]
    assert len(lines) == 1
    assert message in lines[0]


def test_no_series_is_shown_twice(upstream, folder):
    with serving(upstream.url, folder, "--workers", "2") as server:
        post(server.url, CHAT)
        assert waited(lambda: server.metric("sprout_ledger_rows_total") == 1)
        lines = server.ask("/metrics")[1].decode().splitlines()
    series = [line.rsplit(" ", 1)[0] for line in lines if line.startswith("sprout_")]
    kinds = [line for line in lines if line.startswith("# TYPE")]
    assert len(set(series)) == len(series)
    assert len(set(kinds)) == len(kinds)
    assert sum(line.startswith("sprout_journal_bytes") for line in series) == 1


def test_a_ledger_of_a_later_schema_version_does_not_stop_the_server(
    upstream, folder, ledger_of_later
):
    with serving(upstream.url, folder, ledger=ledger_of_later) as server:
        assert server.chosen() == "very_brief"
        assert server.metric("sprout_ledger_up") == 0


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
