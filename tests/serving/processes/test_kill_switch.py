"""The kill switch works whatever the database does, and only its release lifts it."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from tests.serving.hooks import waited
from tests.serving.launch import TOKEN, serving


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
        assert sprout_mode(server, "--release-off")[0] == 0
        assert becomes(server, "very_brief")
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
        assert sprout_mode(server, "--release-off")[0] == 0
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
