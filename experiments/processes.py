"""Servers as child processes: started, waited for, and always stopped with their parent."""

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
    """A healthy server: its URL (loopback), process, log, and seconds until it was ready."""

    name: str
    url: str
    process: "subprocess.Popen[bytes]"
    log: Path
    ready_seconds: float

    def check(self, patience_seconds: float = 0.0) -> None:
        """Raise UpstreamError, quoting its last words, if the process has ended.

        Args:
            patience_seconds: its connections are reset a moment before it has ended.
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
    """Run a server, wait until `health_url` answers 200, and stop the server in the end.

    Args:
        folder: working directory.
        environment: None passes on this process's own.

    Raises:
        UpstreamError: it ended early or was not healthy in time; quotes its last line.
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
    """URL of a path of a server on this machine."""
    return f"http://{HOST}:{port}{path}"


def free_port(port: int = 0) -> int:
    """`port` if nothing listens there, or any free one for 0.

    Raises:
        ConfigError: the port is in use.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ConfigError(f"port {port} is in use; choose another with --port") from error
        return int(probe.getsockname()[1])


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "no output")


def _wait(started: ChildProcess, health: str, deadline: float) -> None:
    while time.monotonic() < deadline:
        started.check()
        try:
            with urllib.request.urlopen(health, timeout=2) as answer:  # noqa: S310
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(POLL_SECONDS)
    raise UpstreamError(f"{started.name} was not healthy in time (log: {started.log})")


def die_with_parent() -> None:
    """For `preexec_fn`: the process ends when the thread that started it does."""
    # PR_SET_PDEATHSIG: even a parent killed outright leaves no orphan (Linux only).
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    _signal_group(process.pid, signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    # Workers that outlast their leader go too.
    _signal_group(process.pid, signal.SIGKILL)
    process.wait(STOP_SECONDS)


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        pass
