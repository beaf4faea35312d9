"""Runs the gateway: uvicorn workers, and the keeper and admin port in their parent."""

import fcntl
import os
import resource
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Callable
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
    refuse_start,
)
from serving.settings.gateway import GatewayConfig
from serving.telemetry.log import configure_logging, log_internal_error

KEEP_ALIVE_SECONDS = 75
_PREFIX = "sprout-"


class Workers(Multiprocess):
    """Uvicorn's supervisor, which also removes the gauges of ended workers from the metrics.

    SIGHUP makes the workers reload their bundles. Uvicorn would instead replace the workers one by
    one, and wait for the last answer of each.

    Args:
        runtime: folder that all workers share.
    """

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket], runtime: Path) -> None:
        super().__init__(config, sockets)
        self._runtime = runtime
        self._pids: set[int] = set()

    def handle_hup(self) -> None:
        """Forward SIGHUP to the workers that listen for it."""
        for process in self.processes:
            # SIGHUP would end a worker that is still starting; it loads the bundles anyway.
            listening = self._runtime / f"{process.pid}{LISTENING_SUFFIX}"
            if process.pid is not None and listening.exists():
                # A worker that has ended is replaced; its successor loads the bundles at its start.
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGHUP)

    def terminate_all(self) -> None:
        """Stop the workers, and refuse new connections instead of leaving them waiting."""
        super().terminate_all()
        for listener in self.sockets:
            listener.close()

    def keep_subprocess_alive(self) -> None:
        """Replace workers that have ended, unless the settings were refused."""
        if (self._runtime / REFUSED_FILE).exists():
            # A new worker would refuse the settings as well.
            self.should_exit.set()
            return
        super().keep_subprocess_alive()
        pids = {process.pid for process in self.processes if process.pid is not None}
        if ended := self._pids - pids:
            # Imported late, so that the start does not wait for the metrics library.
            from serving.telemetry.metrics import remove_worker

            for pid in ended:
                remove_worker(pid, str(self._runtime))
        self._pids = pids


def serve(config: GatewayConfig) -> None:
    """Serve until interrupted; requests in flight finish first.

    A missing or broken bundle does not stop the start: until there is a valid one, requests pass
    through unchanged and are counted. The workers start before this process imports anything
    heavy, and they check the settings: this way they are ready sooner.

    Raises:
        SproutError: a URL, the trace or the rules are wrong, or a port is in use.
    """
    off_requested = threading.Event()

    def request_off(number: int, frame: object) -> None:
        off_requested.set()

    # A kill switch that needs neither the database nor the admin port. First of all: by default the
    # signal ends the process.
    signal.signal(signal.SIGUSR1, request_off)
    configure_logging(config.log_format)
    _ = config.upstreams, config.tls(), config.initial_control()
    config.create_state_folder()
    _raise_file_limit()
    # The parent's own metrics do not belong to those that the workers share.
    os.environ.pop(METRICS_VARIABLE, None)
    listener = _bound(config.host, config.port, "--port")
    admin = _bound(config.admin_host, config.admin_port, "--admin-port")
    runtime, lock = _shared_folder()
    urls = [
        f"http://{f'[{host}]' if ':' in host else host}:{bound.getsockname()[1]}"
        for host, bound in ((config.host, listener), (config.admin_host, admin))
    ]
    app = Worker(config, runtime, os.getpid(), urls)
    workers = Workers(_uvicorn(app, config), [listener], runtime)
    # Uvicorn's supervisor has taken the signal for itself.
    signal.signal(signal.SIGUSR1, request_off)

    def make_services() -> Any:
        # Imported late, so that the workers do not wait for the import.
        from serving.processes.parent_services import ParentServices

        return ParentServices(config, runtime, admin, urls[1], off_requested)

    services = _ParentServicesServer(runtime, make_services)
    services.start()
    try:
        workers.run()
        if (runtime / REFUSED_FILE).exists():
            raise ConfigError((runtime / REFUSED_FILE).read_text())
    finally:
        services.close()
        shutil.rmtree(runtime, ignore_errors=True)
        os.close(lock)


class _ParentServicesServer(threading.Thread):
    """Thread of the parent's services.

    Args:
        runtime: folder that all workers share.
        make: creates the services.
    """

    def __init__(self, runtime: Path, make: Callable[[], Any]) -> None:
        super().__init__(name="sprout-beside", daemon=True)
        self._runtime = runtime
        self._make = make
        self._ready = threading.Event()
        self._services: Any = None

    def run(self) -> None:
        """Start the keeper and the admin port, and serve until `close` is called."""
        try:
            self._services = self._make()
        except SproutError as error:
            refuse_start(self._runtime, str(error))
            return
        except Exception as error:
            log_internal_error("the ledger and the admin port did not start", error)
            refuse_start(
                self._runtime,
                f"the ledger and the admin port did not start: {type(error).__name__}",
            )
            return
        finally:
            self._ready.set()
        self._services.run()

    def close(self) -> None:
        """Stop the services; do nothing if they did not start."""
        self._ready.wait()
        if self._services is not None:
            self._services.close()


def _uvicorn(app: Worker, config: GatewayConfig) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        workers=config.workers,
        http=GuardedProtocol,
        ws="none",
        # Nothing here asks for the client's address.
        proxy_headers=False,
        log_config=None,
        access_log=False,
        lifespan="on",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=config.drain_seconds,
        # The upstream's own headers are relayed.
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
            f"{flag}: cannot listen on {host}:{port} ({error.strerror}); choose another one"
        ) from error
    listener.set_inheritable(True)
    return listener


def _shared_folder() -> tuple[Path, int]:
    """Create the folder that the workers share; return it and its lock, an open file descriptor.

    The lock ends with this process. Folders of processes that were killed are deleted.
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
    # Locked before the file has the name that other gateways look for.
    draft = runtime / "locking"
    lock = os.open(draft, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    draft.rename(runtime / "lock")
    return runtime, lock


def _memory_folder() -> str | None:
    """Return a folder in memory, which a full disk does not affect, or None if there is none."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108


def _raise_file_limit() -> None:
    """Allow as many open files as the system permits: each connection is one."""
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
