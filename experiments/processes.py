"""Servers as child processes, which always stop with their parent."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from envs.errors import ConfigError, UpstreamError

HOST = "127.0.0.1"
STOP_SECONDS = 10.0
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class ChildProcess:
    """A healthy server.

    Attributes:
        name: name for messages.
        url: base URL, on loopback.
        process: the process.
        log: file with its output.
        ready_seconds: time until it was healthy, s.
    """

    name: str
    url: str
    process: "subprocess.Popen[bytes]"
    log: Path
    ready_seconds: float

    def check(self, patience_seconds: float = 0.0) -> None:
        """Check that the process still runs.

        Args:
            patience_seconds: time to wait for its end, s, because a dying process resets its
                connections a moment before it ends.

        Raises:
            UpstreamError: the process has ended; the message quotes its last line of output.
        """
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(patience_seconds)
        if self.process.poll() is not None:
            raise UpstreamError(
                f"{self.name} at {self.url} has ended with {self.process.returncode}: "
                f"{last_line(self.log)} (log: {self.log})"
            )


@contextmanager
def start_process(
    name: str,
    command: Sequence[str],
    health_url: str,
    *,
    log: Path | None = None,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    start_seconds: float = 300.0,
) -> Iterator[ChildProcess]:
    """Start a server, wait until it is healthy, and stop it when the context ends.

    Args:
        name: name for messages.
        command: program and arguments.
        health_url: URL that answers 200 once the server is healthy.
        log: file for its output; None makes a temporary file.
        folder: working directory; None keeps this process's.
        environment: environment variables; None passes on this process's.
        start_seconds: longest time until it is healthy, s.

    Raises:
        UpstreamError: the server ended early (the message quotes its last line of output) or was
            not healthy in time.
    """
    if log is None:
        handle, path = tempfile.mkstemp(prefix="sprout-", suffix=".log")
        os.close(handle)
        log = Path(path)
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
    url = urlunsplit((*urlsplit(health_url)[:2], "", "", ""))
    try:
        _wait(ChildProcess(name, url, process, log, 0.0), health_url, started + start_seconds)
        yield ChildProcess(name, url, process, log, time.monotonic() - started)
    finally:
        _stop(process)


def loopback(port: int, path: str) -> str:
    """Return the URL of a path on a server of this machine."""
    return f"http://{HOST}:{port}{path}"


def free_port(port: int = 0) -> int:
    """Return `port` if it is free, or reserve any free port if it is 0.

    For a minute, the kernel gives a reserved port to nobody who asks for any port, but a server can
    listen on it: a connection on it is left in TIME-WAIT (RFC 9293, section 3.3.2).

    Raises:
        ConfigError: the port is in use.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ConfigError(f"port {port} is in use; choose another with --port") from error
        if not port:
            probe.listen()
            # The side that closes first keeps the TIME-WAIT, so the accepted connection does.
            with socket.create_connection(probe.getsockname()):
                probe.accept()[0].close()
        return int(probe.getsockname()[1])


def last_line(log: Path) -> str:
    """Return the last line of a log that is not blank, or "no output"."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "no output")


def _wait(server: ChildProcess, health_url: str, deadline: float) -> None:
    while time.monotonic() < deadline:
        server.check()
        try:
            with urllib.request.urlopen(health_url, timeout=2) as answer:  # noqa: S310
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(POLL_SECONDS)
    raise UpstreamError(f"{server.name} was not healthy in time (log: {server.log})")


def die_with_parent() -> None:
    """Make this process end with the thread that started it; for `preexec_fn`."""
    # PR_SET_PDEATHSIG: even a parent killed outright leaves no orphan (Linux only).
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    _signal_group(process.pid, signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    # Ends workers that survive the leader of their process group.
    _signal_group(process.pid, signal.SIGKILL)
    process.wait(STOP_SECONDS)


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        pass
