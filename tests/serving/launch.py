"""`sprout serve` as processes, for tests."""

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
        """The directive in an answer's headers."""
        return post(self.url, CHAT)[2].get("x-sprout-directive", "off")


@contextmanager
def serving(upstream, folder, *flags, ledger=None, inside=(), secrets=None):
    """Flags replace those given here; `inside` is a command that runs the command it is given.

    `secrets` are variables of its environment.
    """
    port, admin = free_port(), free_port()
    state = folder / f"state{port}"
    ledger = ledger or f"sqlite:///{folder}/ledger.db"
    command = [sys.executable, "-P", "-m", "experiments.cli", "serve", "--upstream", upstream]
    given = {
        "policy": folder / "bundle",
        "port": port,
        "admin-port": admin,
        "state": state,
        "ledger": ledger,
        "hold-out": 0,
    }
    if "--intensity" not in flags:
        given["clock-start"] = "2024-01-02T00:00"
    for name, value in given.items():
        command += [f"--{name}", str(value)]
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
    found = Served(process, port, admin, state, ledger)
    try:
        up = lambda: healthy(found.url) and healthy(found.admin)  # noqa: E731
        waited(lambda: process.poll() is not None or up(), 30)
        ready = process.poll() is None and up()
        assert ready, (folder / f"log{port}").read_text()
        yield found
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, number)
                process.wait(20)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
        found.ledger.close()


def healthy(url):
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False
