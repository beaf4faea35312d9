"""Start `sprout serve` as processes for tests."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager

from experiments.processes import die_with_parent, free_port
from serving.ledger.database import Ledger
from tests.serving.hooks import CHAT, post, waited

TOKEN = "admin-secret"


class Served:
    def __init__(self, process, port, admin, state, ledger):
        self.process = process
        self.url = f"http://127.0.0.1:{port}"
        self.admin = f"http://127.0.0.1:{admin}"
        self.state = state
        self.ledger = Ledger(ledger)

    def ask(self, path, method="GET", body=None, token=TOKEN):
        request = urllib.request.Request(
            self.admin + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
        )
        if token:
            request.add_header("authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def metric(self, name):
        lines = self.ask("/metrics")[1].decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    def chosen(self):
        """Send a chat and return the directive in the answer's headers ("off" if none)."""
        return post(self.url, CHAT)[2].get("x-sprout-directive", "off")


@contextmanager
def serving(upstream, folder, *flags, ledger=None, inside=(), secrets=None, awaited=None):
    """Start `sprout serve` and yield it once it is healthy, or has printed `awaited`; end it after.

    `flags` override the default flags below. `inside` is a command that runs the server's command.
    `secrets` are additional environment variables of the server.
    """
    port, admin = free_port(), free_port()
    state = folder / f"state{port}"
    ledger = ledger or f"sqlite:///{folder}/ledger.db"
    default_flags = {"port": port, "admin-port": admin, "state": state, "ledger": ledger}
    if "--intensity" not in flags:
        default_flags["clock-start"] = "2024-01-02T00:00"
    command = [*_command(upstream, folder), *_flags(default_flags)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SPROUT_")}
    with (folder / f"log{port}").open("wb") as log:
        process = subprocess.Popen(
            [*inside, *command, *flags],
            env=environment | {"SPROUT_ADMIN_TOKEN": TOKEN} | (secrets or {}),
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
    server = Served(process, port, admin, state, ledger)
    try:
        text = (folder / f"log{port}").read_text
        is_up = lambda: (  # noqa: E731
            awaited in text() if awaited else healthy(server.url) and healthy(server.admin)
        )
        waited(lambda: process.poll() is not None or is_up(), 30)
        ready = process.poll() is None and is_up()
        assert ready, text()
        yield server
    finally:
        for signal_number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, signal_number)
                process.wait(20)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
        server.ledger.close()


def ended(upstream, folder, *flags, clock=True):
    """Run `sprout serve` until it ends; return its exit status and the lines of its errors."""
    default_flags = {"port": 0, "admin-port": 0, "state": folder / "ended"}
    if clock:
        default_flags["clock-start"] = "2024-01-02T00:00"
    done = subprocess.run(
        [*_command(upstream, folder), *_flags(default_flags), *flags],
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stderr.splitlines()


def _command(upstream, folder):
    steering = {"policy": folder / "bundle", "mode": "on", "hold-out": 0}
    command = [sys.executable, "-P", "-m", "experiments.cli", "serve", "--upstream", upstream]
    return [*command, *_flags(steering)]


def _flags(values):
    return [part for name, value in values.items() for part in (f"--{name}", str(value))]


def healthy(url):
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False
