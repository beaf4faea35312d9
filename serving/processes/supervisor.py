"""Runs the gateway: workers on uvicorn, and beside them the keeper and the admin port."""

import fcntl
import logging
import os
import resource
import shutil
import signal
import socket
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.supervisors import Multiprocess

from envs.errors import ConfigError, SproutError
from serving.processes.protocol import GuardedProtocol
from serving.processes.worker import (
    LISTENING_SUFFIX,
    METRICS_VARIABLE,
    REFUSED_FILE,
    Worker,
    refuse,
)
from serving.settings.gateway import GatewayConfig
from serving.telemetry.log import log_internal_error

KEEP_ALIVE_SECONDS = 75
_PREFIX = "sprout-"


class Workers(Multiprocess):
    """Uvicorn's supervisor; also takes the gauges of workers that ended out of the metrics.

    SIGHUP has the workers load their bundles anew, where uvicorn would replace them one by
    one, waiting for the last answer of each.
    """

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket], runtime: Path) -> None:
        super().__init__(config, sockets)
        self._runtime = runtime
        self._pids: set[int] = set()

    def handle_hup(self) -> None:
        """See `Multiprocess`."""
        for process in self.processes:
            # One that is only starting would be ended by it, and loads them anyway.
            listening = self._runtime / f"{process.pid}{LISTENING_SUFFIX}"
            if process.pid is not None and listening.exists():
                # A worker that has ended is replaced, and its successor loads them as it starts.
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGHUP)

    def terminate_all(self) -> None:
        """See `Multiprocess`. Who connects from now on is refused, not left waiting."""
        super().terminate_all()
        for bound in self.sockets:
            bound.close()

    def keep_subprocess_alive(self) -> None:
        """See `Multiprocess`."""
        if (self._runtime / REFUSED_FILE).exists():
            # Another one would be refused as well.
            self.should_exit.set()
            return
        super().keep_subprocess_alive()
        now = {process.pid for process in self.processes if process.pid is not None}
        if gone := self._pids - now:
            # Here: a start need not wait for the library.
            from serving.telemetry.metrics import forget

            for pid in gone:
                forget(pid, str(self._runtime))
        self._pids = now


def serve(config: GatewayConfig) -> None:
    """Serve until interrupted; in-flight requests finish first.

    A bundle that is missing or broken does not stop the start: requests then pass untouched,
    and are counted, until there is a sound one. The workers start before anything heavy is
    loaded here, and find what is wrong in the settings: so they are ready sooner.

    Raises:
        SproutError: wrong URL, trace, rules, or a port in use.
    """
    logging.basicConfig(format="sprout: %(message)s", level=logging.WARNING)
    _ = config.upstreams, config.tls(), config.initial_control()
    config.make_state()
    _more_files()
    # The parent's own metrics are not among those that workers share.
    os.environ.pop(METRICS_VARIABLE, None)
    listener = _bound(config.host, config.port, "--port")
    admin = _bound(config.admin_host, config.admin_port, "--admin-port")
    runtime, lock = _shared_folder()
    places = [
        f"http://{host}:{bound.getsockname()[1]}"
        for host, bound in ((config.host, listener), (config.admin_host, admin))
    ]
    app = Worker(config, runtime, os.getpid(), places)
    workers = Workers(_uvicorn(app, config), [listener], runtime)
    beside = _ParentServicesServer(config, runtime, admin)
    beside.start()
    try:
        workers.run()
        if (runtime / REFUSED_FILE).exists():
            raise ConfigError((runtime / REFUSED_FILE).read_text())
    finally:
        beside.close()
        shutil.rmtree(runtime, ignore_errors=True)
        os.close(lock)


class _ParentServicesServer(threading.Thread):
    def __init__(self, config: GatewayConfig, runtime: Path, listener: socket.socket) -> None:
        super().__init__(name="sprout-beside", daemon=True)
        self._given = config, runtime, listener
        self._made = threading.Event()
        self._beside: Any = None

    def run(self) -> None:
        """Start the keeper and the admin port, and answer there until closed."""
        try:
            # Here, so that the workers need not wait for it to start.
            from serving.processes.parent_services import ParentServices

            self._beside = ParentServices(*self._given)
        except SproutError as error:
            refuse(self._given[1], str(error))
            return
        except Exception as error:
            log_internal_error("the ledger and the admin port did not start", error)
            refuse(self._given[1], f"no ledger and admin port: {type(error).__name__}")
            return
        finally:
            self._made.set()
        self._beside.run()

    def close(self) -> None:
        """End; harmless where it did not start."""
        self._made.wait()
        if self._beside is not None:
            self._beside.close()


def _uvicorn(app: Worker, config: GatewayConfig) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        workers=config.workers,
        http=GuardedProtocol,
        ws="none",
        log_level="warning",
        access_log=False,
        lifespan="on",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=config.drain_seconds,
        # Upstream's own are relayed.
        server_header=False,
        date_header=False,
    )


def _bound(host: str, port: int, flag: str) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another with {flag}"
        ) from error
    listener.set_inheritable(True)
    return listener


def _shared_folder() -> tuple[Path, int]:
    """A folder for the workers, and a lock on it that ends with this process.

    Those of processes that were killed are cleared away.
    """
    memory = _memory_folder()
    for old in Path(memory or tempfile.gettempdir()).glob(f"{_PREFIX}*/lock"):
        with suppress(OSError):
            lock = os.open(old, os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(old.parent, ignore_errors=True)
            finally:
                os.close(lock)
    runtime = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=memory))
    # Locked before it has the name that others look for.
    draft = runtime / "locking"
    lock = os.open(draft, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    draft.rename(runtime / "lock")
    return runtime, lock


def _memory_folder() -> str | None:
    """Where shared files never meet a full disk, if there is such a place."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108


def _more_files() -> None:
    """A connection is a file: as many as this process may have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
