"""`sprout serve` as a running program: processes, signals, the admin port, faults."""

import http.client
import json
import os
import signal
import subprocess
import threading
import time

import pytest

from tests import made
from tests.serving.hooks import CHAT, post, waited
from tests.serving.launch import healthy, serving


@pytest.mark.long
def test_a_kill_switch_reaches_all_workers_and_replicas_within_two_seconds(
    upstream, folder, postgres
):
    url = postgres.database("switch")
    with (
        serving(upstream.url, folder, "--workers", "2", ledger=url) as replica,
        serving(upstream.url, folder, ledger=url) as other_replica,
    ):
        assert {replica.chosen() for _ in range(8)} == {other_replica.chosen()} == {"very_brief"}
        status, body = replica.ask("/v1/control", "PATCH", {"mode": "off"})
        started = time.monotonic()
        assert (status, json.loads(body)["mode"]) == (200, "off")
        assert "salt" not in json.loads(body)
        # Eight requests in a row, so that both workers have answered some.
        off = {"off"}
        assert waited(
            lambda: {replica.chosen() for _ in range(8)} | {other_replica.chosen()} == off, 2.0
        ), time.monotonic() - started
        # A replica that starts now takes this mode, whatever its flags are.
        with serving(upstream.url, folder, "--mode", "on", ledger=url) as late_replica:
            assert late_replica.chosen() == "off"


def test_without_the_token_nothing_is_shown_or_changed(upstream, folder):
    with serving(upstream.url, folder) as server:
        for token in (None, "wrong"):
            for path, method in (("/v1/control", "GET"), ("/v1/control", "PATCH")):
                assert server.ask(path, method, token=token)[0] == 401
            assert server.ask("/v1/savings", token=token)[0] == 401
        assert server.ask("/healthz", token=None)[0] == 200
        assert server.ask("/metrics", token=None)[0] == 200
        # Invalid settings are refused and named.
        status, answer = server.ask("/v1/control", "PATCH", {"mode": "maybe"})
        assert (status, b"mode" in answer) == (422, True)
        assert server.ask("/v1/control", "PATCH", {"salt": "0"})[0] == 422
        status, answer = server.ask("/v1/control", "PATCH", {"rules": [{"name": "a"}]})
        assert (status, b"rule 1" in answer) == (422, True)


def test_a_record_can_be_read_and_deleted_by_its_id(upstream, folder):
    with serving(upstream.url, folder) as server:
        decision = post(server.url, CHAT)[2]["x-sprout-decision-id"]
        assert waited(lambda: server.ask(f"/v1/requests/{decision}")[0] == 200)
        record = json.loads(server.ask(f"/v1/requests/{decision}")[1])
        assert (record["directive"], record["completion_tokens"]) == ("very_brief", 4)
        assert server.ask(f"/v1/requests/{decision}", "DELETE")[0] == 200
        assert server.ask(f"/v1/requests/{decision}")[0] == 404


def test_metrics_are_summed_over_several_workers(upstream, folder):
    with serving(upstream.url, folder, "--workers", "3") as server:
        for _ in range(30):
            post(server.url, CHAT)
        assert waited(lambda: server.metric("sprout_requests_total{") == 30)
        assert server.metric("sprout_tokens_total{") == 30 * 7
        assert server.metric("sprout_decision_duration_seconds_count") == 30
        assert server.metric("sprout_requests_in_flight") == 0
        assert server.metric("sprout_policy_info{") == 1
        assert server.metric("sprout_emissions_grams_total{") > 0
        # A worker that dies is replaced, and its gauges disappear.
        workers = subprocess.run(
            ["pgrep", "-P", str(server.process.pid)], capture_output=True, text=True, check=True
        ).stdout.split()
        os.kill(int(workers[-1]), signal.SIGKILL)
        assert waited(lambda: server.metric("sprout_requests_total{") == 30)
        assert all(post(server.url, CHAT)[0] == 200 for _ in range(10))


def test_a_changed_bundle_is_loaded_and_a_broken_one_refused_while_serving(upstream, folder):
    with serving(upstream.url, folder) as server:
        assert server.chosen() == "very_brief"
        made.bundle(folder / "bundle", (0.0, 50.0, 0.0))
        assert waited(lambda: server.chosen() == "brief", 5)
        # A broken bundle is refused, and the old one stays.
        (folder / "bundle" / "policy.safetensors").write_bytes(b"broken")
        assert server.ask("/v1/reload", "POST")[0] == 200
        assert waited(lambda: server.metric('sprout_bundle_loads_total{result="refused"}') == 1)
        assert server.chosen() == "brief"


def test_requests_are_served_unsteered_until_there_is_a_bundle(upstream, tmp_path):
    (tmp_path / "bundle").mkdir()
    with serving(upstream.url, tmp_path) as server:
        assert server.chosen() == "none"
        assert waited(lambda: server.metric('sprout_fail_open_total{reason="no_bundle"}') == 1)
        made.bundle(tmp_path / "bundle")
        assert waited(lambda: server.chosen() == "very_brief", 5)


def send_requests(url, stop, answered):
    """Send requests until `stop` is set or the server ends; collect ids of complete answers."""
    while not stop.is_set():
        try:
            status, body, headers = post(url, CHAT)
        except (OSError, http.client.HTTPException):
            return
        if status == 200 and json.loads(body)["choices"]:
            answered.append(headers["x-sprout-decision-id"])


def under_load(server, end_load, clients=6):
    """Call `end_load` under load; return the ids of all complete answers that clients received."""
    stop, answered = threading.Event(), []
    threads = [
        threading.Thread(target=send_requests, args=(server.url, stop, answered))
        for _ in range(clients)
    ]
    for thread in threads:
        thread.start()
    assert waited(lambda: len(answered) > 100, 30)
    end_load()
    for thread in threads:
        thread.join(30)
    stop.set()
    return answered


@pytest.mark.long
def test_the_port_accepts_connections_once_the_start_is_announced(upstream, folder):
    for _ in range(3):
        with serving(upstream.url, folder, "--workers", "2", awaited="sprout serves") as server:
            assert post(server.url, CHAT)[0] == 200


def test_after_kill_9_under_load_every_answered_request_is_in_the_ledger(upstream, folder):
    with serving(upstream.url, folder, "--workers", "2") as server:
        state = server.state
        answered = under_load(server, lambda: os.killpg(server.process.pid, signal.SIGKILL))
    with serving(upstream.url, folder, "--state", str(state)) as server:
        assert waited(lambda: not list((state / "journal").glob("*.jsonl")))
        recorded = {decision for (decision,) in server.ledger.rows(["decision_id"])}
    assert len(answered) > 100
    assert set(answered) <= recorded


def test_when_the_parent_alone_is_killed_its_workers_end_too(upstream, folder):
    with serving(upstream.url, folder) as server:
        post(server.url, CHAT)
        server.process.kill()
        assert waited(lambda: not healthy(server.url), 15)


def test_sigterm_under_load_lets_requests_finish(upstream, folder):
    with serving(upstream.url, folder) as server:
        upstream.mode = "slow"
        answers = []
        threads = [
            threading.Thread(target=lambda: answers.append(post(server.url, CHAT)[0]))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        assert waited(lambda: len(upstream.received) == 8)
        server.process.terminate()
        upstream.release.set()
        for thread in threads:
            thread.join(30)
        assert answers == [200] * 8
        assert server.process.wait(30) == 0
        assert len(list(server.ledger.rows(["decision_id"]))) == 8
