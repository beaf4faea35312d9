"""`sprout serve` as it runs: processes, signals, the admin port, faults."""

import http.client
import json
import os
import signal
import subprocess
import threading
import time

from tests import made
from tests.serving.hooks import CHAT, post, waited
from tests.serving.launch import healthy, serving


def test_a_kill_switch_reaches_all_workers_and_replicas_within_two_seconds(
    upstream, folder, postgres
):
    url = postgres.database("switch")
    with (
        serving(upstream.url, folder, "--workers", "2", ledger=url) as one,
        serving(upstream.url, folder, ledger=url) as other,
    ):
        assert {one.chosen() for _ in range(8)} == {other.chosen()} == {"very_brief"}
        status, body = one.ask("/v1/control", "PATCH", {"mode": "off"})
        begun = time.monotonic()
        assert (status, json.loads(body)["mode"]) == (200, "off")
        assert "salt" not in json.loads(body)
        # Eight in a row: both workers have answered some.
        off = {"off"}
        assert waited(lambda: {one.chosen() for _ in range(8)} | {other.chosen()} == off, 2.0), (
            time.monotonic() - begun
        )
        # A replica that starts now starts with it, whatever its flags say.
        with serving(upstream.url, folder, "--mode", "on", ledger=url) as late:
            assert late.chosen() == "off"


def test_without_the_token_nothing_is_shown_or_changed(upstream, folder):
    with serving(upstream.url, folder) as found:
        for token in (None, "wrong"):
            for path, method in (("/v1/control", "GET"), ("/v1/control", "PATCH")):
                assert found.ask(path, method, token=token)[0] == 401
            assert found.ask("/v1/savings", token=token)[0] == 401
        assert found.ask("/healthz", token=None)[0] == 200
        assert found.ask("/metrics", token=None)[0] == 200
        # Settings that make no sense are refused by name.
        status, said = found.ask("/v1/control", "PATCH", {"mode": "maybe"})
        assert (status, b"mode" in said) == (422, True)
        assert found.ask("/v1/control", "PATCH", {"salt": "0"})[0] == 422
        status, said = found.ask("/v1/control", "PATCH", {"rules": [{"name": "a"}]})
        assert (status, b"rule 1" in said) == (422, True)


def test_a_record_can_be_read_and_deleted_by_its_id(upstream, folder):
    with serving(upstream.url, folder) as found:
        decision = post(found.url, CHAT)[2]["x-sprout-decision-id"]
        assert waited(lambda: found.ask(f"/v1/requests/{decision}")[0] == 200)
        record = json.loads(found.ask(f"/v1/requests/{decision}")[1])
        assert (record["directive"], record["completion_tokens"]) == ("very_brief", 4)
        assert found.ask(f"/v1/requests/{decision}", "DELETE")[0] == 200
        assert found.ask(f"/v1/requests/{decision}")[0] == 404


def test_metrics_are_right_with_several_workers(upstream, folder):
    with serving(upstream.url, folder, "--workers", "3") as found:
        for _ in range(30):
            post(found.url, CHAT)
        assert waited(lambda: found.metric("sprout_requests_total{") == 30)
        assert found.metric("sprout_tokens_total{") == 30 * 7
        assert found.metric("sprout_decision_duration_seconds_count") == 30
        assert found.metric("sprout_requests_in_flight") == 0
        assert found.metric("sprout_policy_info{") == 1
        assert found.metric("sprout_emissions_grams_total{") > 0
        # A worker that dies is replaced, and takes its gauges along.
        workers = subprocess.run(
            ["pgrep", "-P", str(found.process.pid)], capture_output=True, text=True, check=True
        ).stdout.split()
        os.kill(int(workers[-1]), signal.SIGKILL)
        assert waited(lambda: found.metric("sprout_requests_total{") == 30)
        assert all(post(found.url, CHAT)[0] == 200 for _ in range(10))


def test_a_bundle_is_loaded_while_serving_by_watch_and_by_demand(upstream, folder):
    with serving(upstream.url, folder) as found:
        assert found.chosen() == "very_brief"
        made.bundle(folder / "bundle", (0.0, 50.0, 0.0))
        assert waited(lambda: found.chosen() == "brief", 5)
        # A broken one is refused, and the old one stays.
        (folder / "bundle" / "policy.safetensors").write_bytes(b"broken")
        assert found.ask("/v1/reload", "POST")[0] == 200
        assert waited(lambda: found.metric('sprout_bundle_loads_total{result="refused"}') == 1)
        assert found.chosen() == "brief"


def test_it_serves_without_a_bundle_until_there_is_one(upstream, tmp_path):
    with serving(upstream.url, tmp_path) as found:
        assert found.chosen() == "none"
        assert waited(lambda: found.metric('sprout_fail_open_total{reason="no_bundle"}') == 1)
        made.bundle(tmp_path / "bundle")
        assert waited(lambda: found.chosen() == "very_brief", 5)


def hammered(url, stop, answered):
    """Requests one after another until told to stop or refused; ids of whole answers."""
    while not stop.is_set():
        try:
            status, body, headers = post(url, CHAT)
        except (OSError, http.client.HTTPException):
            return
        if status == 200 and json.loads(body)["choices"]:
            answered.append(headers["x-sprout-decision-id"])


def under_load(found, end, clients=6):
    """Load, and `end` in its midst; ids of all whole answers that clients have."""
    stop, answered = threading.Event(), []
    threads = [
        threading.Thread(target=hammered, args=(found.url, stop, answered)) for _ in range(clients)
    ]
    for thread in threads:
        thread.start()
    assert waited(lambda: len(answered) > 100, 30)
    end()
    for thread in threads:
        thread.join(30)
    stop.set()
    return answered


def test_after_kill_9_under_load_every_answered_request_is_in_the_ledger(upstream, folder):
    with serving(upstream.url, folder, "--workers", "2") as found:
        state = found.state
        answered = under_load(found, lambda: os.killpg(found.process.pid, signal.SIGKILL))
    with serving(upstream.url, folder, "--state", str(state)) as found:
        assert waited(lambda: not list((state / "journal").glob("*.jsonl")))
        kept = {i for (i,) in found.ledger.rows(["decision_id"])}
    assert len(answered) > 100
    assert set(answered) <= kept


def test_when_the_parent_alone_is_killed_its_workers_end_too(upstream, folder):
    with serving(upstream.url, folder) as found:
        post(found.url, CHAT)
        found.process.kill()
        assert waited(lambda: not healthy(found.url), 15)


def test_sigterm_under_load_lets_requests_finish(upstream, folder):
    with serving(upstream.url, folder) as found:
        upstream.mode = "slow"
        answers = []
        threads = [
            threading.Thread(target=lambda: answers.append(post(found.url, CHAT)[0]))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        assert waited(lambda: len(upstream.received) == 8)
        found.process.terminate()
        upstream.release.set()
        for thread in threads:
            thread.join(30)
        assert answers == [200] * 8
        assert found.process.wait(30) == 0
        assert len(list(found.ledger.rows(["decision_id"]))) == 8
