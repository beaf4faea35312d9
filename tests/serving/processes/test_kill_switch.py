"""The kill switch works whatever the database does, and only its release lifts it."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import urllib.request
from contextlib import closing, suppress

import pytest

from serving.embedded import make_embedded_hook
from serving.hook.assembly import make_hook
from serving.http.admin import Admin
from serving.ledger.keeper import Keeper
from tests.serving.hooks import config, keeper, waited
from tests.serving.launch import TOKEN, serving
from tests.serving.upstream import served


def sprout_mode(server, *flags, ledger=None):
    """Run `sprout mode` and return its exit status and output."""
    command = [sys.executable, "-P", "-m", "experiments.cli", "mode", "--state", server.state]
    ledger = ledger or f"sqlite:///{server.state.parent}/ledger.db"
    done = subprocess.run(
        [*command, "--ledger", ledger, *flags],
        env=os.environ | {"SPROUT_ADMIN_TOKEN": TOKEN},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


def becomes(server, directive, seconds=15.0):
    return waited(lambda: {server.chosen() for _ in range(4)} == {directive}, seconds)


@pytest.fixture
def locked(folder):
    """Lock the ledger's database against writing while the test asks for it."""
    with closing(sqlite3.connect(folder / "ledger.db", isolation_level=None)) as connection:

        def lock(on):
            connection.execute("BEGIN IMMEDIATE" if on else "ROLLBACK")

        yield lock


@pytest.mark.long
def test_the_command_works_while_the_database_is_locked(upstream, folder, locked):
    with serving(upstream.url, folder, "--workers", "2") as server:
        assert becomes(server, "very_brief")
        salt = server.ledger.control().salt
        locked(True)
        status, shown = sprout_mode(server, "--set", "off")
        assert becomes(server, "off")
        assert status == 0, shown
        assert "database is locked" in shown
        assert "Traceback" not in shown
        assert salt not in shown
        assert len(shown.splitlines()) < 6
        assert server.metric("sprout_kill_switch") == 1
        # Another setting does not undo it, and its error is one line without parameters.
        status, shown = sprout_mode(server, "--set", "on")
        assert (status != 0, len(shown.strip().splitlines()), salt in shown) == (True, 1, False)
        locked(False)
        # The replica writes it to the database as soon as it can.
        assert waited(lambda: server.ledger.control().kill.active)
        assert sprout_mode(server, "--set", "on")[0] == 0
        assert becomes(server, "off")
        # Nor does the release need the database.
        locked(True)
        status, shown = sprout_mode(server, "--release-off")
        assert (status, "NOT reached" in shown) == (0, False), shown
        assert becomes(server, "very_brief")
        locked(False)
        assert waited(lambda: not server.ledger.control().kill.active)
        assert "the kill switch is engaged" in (folder / f"log{server.url[-5:]}").read_text()


def test_the_admin_port_engages_and_releases_it_while_the_database_is_locked(
    upstream, folder, locked
):
    with serving(upstream.url, folder) as server:
        assert becomes(server, "very_brief")
        locked(True)
        status, body = server.ask("/v1/control", "PATCH", {"mode": "off"})
        assert (status, json.loads(body)["mode"]) == (200, "off")
        assert becomes(server, "off")
        status, body = server.ask("/v1/control", "PATCH", {"release_off": True})
        assert (status, json.loads(body)["off"]) == (200, [])
        assert becomes(server, "very_brief")
        status, body = server.ask("/v1/control", "PATCH", {"mode": "off", "release_off": True})
        assert (status, b"not both" in body) == (422, True)
        locked(False)


@pytest.mark.long
def test_a_signal_engages_it_and_a_restart_does_not_release_it(upstream, folder):
    with serving(upstream.url, folder, "--workers", "2") as server:
        assert becomes(server, "very_brief")
        # To the whole group: the workers must survive it.
        os.killpg(server.process.pid, signal.SIGUSR1)
        assert becomes(server, "off")
        state = server.state
    # The database is away, but the volume is there.
    (folder / "ledger.db").unlink()
    with serving(upstream.url, folder, "--state", str(state)) as server:
        assert becomes(server, "off")
        assert waited(lambda: server.ledger.control().kill.active)


@pytest.mark.long
def test_a_mounted_file_engages_it_and_its_removal_does_not_release_it(upstream, folder):
    file = folder / "off"
    with serving(upstream.url, folder, "--off-file", str(file)) as server:
        assert becomes(server, "very_brief")
        file.touch()
        assert becomes(server, "off")
        # The file holds it off, and the release says so.
        status, shown = sprout_mode(server, "--release-off")
        assert (status, f"off: file {file}" in shown.splitlines()[-1]) == (2, True), shown
        assert not becomes(server, "very_brief", 1.0)
        file.unlink()
        assert becomes(server, "very_brief")
        file.touch()
        assert becomes(server, "off")
        file.unlink()
        assert not becomes(server, "very_brief", 1.0)


@pytest.mark.long
def test_the_command_names_the_replicas_that_it_did_not_reach(upstream, folder, postgres):
    url = postgres.database("reach")
    with (
        serving(upstream.url, folder, ledger=url) as near,
        serving(upstream.url, folder, ledger=url) as far,
    ):
        assert becomes(far, "very_brief")
        assert waited(lambda: len(near.ledger.replicas()) == 2)
        assert waited(
            lambda: (near.state / "replicas.json").read_text().count("admin_url") == 2, 15
        )
        os.killpg(far.process.pid, signal.SIGSTOP)
        try:
            postgres.stop()
            status, shown = sprout_mode(near, "--set", "off", ledger=url)
            assert becomes(near, "off")
        finally:
            os.killpg(far.process.pid, signal.SIGCONT)
            postgres.start()
        assert status != 0
        assert "NOT reached: " in shown
        assert str(far.state) in shown.splitlines()[-1]
        assert str(near.state) not in shown.splitlines()[-1]
        # Through the database, it reaches that replica too.
        assert becomes(far, "off", 20)
        status, shown = sprout_mode(near, "--release-off", ledger=url)
        assert (status, "NOT reached" in shown) == (0, False), shown
        assert becomes(far, "very_brief")


def test_the_admin_port_engages_it_while_other_requests_wait_for_the_database(folder, monkeypatch):
    answers = threading.Event()
    ledger_keeper = keeper(make_hook(config(folder)))
    for name in ("control", "policies"):
        monkeypatch.setattr(ledger_keeper.ledger, name, lambda: answers.wait(30))
    headers = {"authorization": f"Bearer {TOKEN}"}
    with served(Admin(ledger_keeper, str(folder), TOKEN), lifespan="off") as url:

        def ask(method="GET", body=None):
            request = urllib.request.Request(f"{url}/v1/control", body, headers, method=method)
            with urllib.request.urlopen(request, timeout=40) as answer:
                return answer.status

        waiting = [threading.Thread(target=suppressed, args=(ask,)) for _ in range(40)]
        for thread in waiting:
            thread.start()
        try:
            # Rules are checked against the database, but not before the kill switch.
            both = b'{"mode": "off", "rules": []}'
            waiting.append(threading.Thread(target=suppressed, args=(ask, "PATCH", both)))
            waiting[-1].start()
            assert waited(lambda: bool(ledger_keeper.settings.control.kill.reasons))
            assert ask("PATCH", b'{"mode": "off"}') == 200
            assert not answers.is_set()
            assert ledger_keeper.settings.control.kill.reasons
        finally:
            answers.set()
            for thread in waiting:
                thread.join()
    ledger_keeper.close()


def suppressed(ask, *request):
    with suppress(OSError):
        ask(*request)


def test_an_embedded_hook_obeys_it_while_the_database_hangs(folder, monkeypatch):
    hanging = threading.Event()
    monkeypatch.setattr(Keeper, "step", hangs_after_the_start(hanging))
    off = folder / "off"
    made_hook = make_embedded_hook(config(folder, off_file=off))
    try:
        off.touch()
        assert waited(lambda: made_hook.control.now.mode == "off", 5)
        assert not hanging.is_set()
    finally:
        hanging.set()


def hangs_after_the_start(hanging):
    calls = []

    def stepped(self, *settings):
        calls.append(self)
        if len(calls) > 1:
            hanging.wait(30)

    return stepped
