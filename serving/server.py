"""Runs the gateway: workers on uvicorn, and beside them the keeper and the admin port."""

import asyncio
import ctypes
import gc
import logging
import os
import resource
import shutil
import signal
import socket
import ssl
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from pydantic import Field
from uvicorn.supervisors import Multiprocess

from envs.errors import ConfigError
from serving import metrics
from serving.asgi import App, Receive, Scope, Send
from serving.assembly import Upkeep, make_hook, refresh
from serving.config import HookConfig, Listed
from serving.protocol import GuardedProtocol
from serving.recorder import complain

KEEP_ALIVE_SECONDS = 75
# Objects made since the last collection, and collections of younger generations.
COLLECT_AFTER = (20_000, 20, 50)
# A database that does not answer is not waited for any longer.
SETTINGS_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1


class GatewayConfig(HookConfig):
    """What `sprout serve` takes."""

    upstream: Listed = Field(
        min_length=1,
        description="the server's URL, e.g. http://127.0.0.1:8000; further ones as MODEL=URL",
    )
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8080, ge=0, le=65535, description="0 takes a free one")
    admin_host: str = Field("127.0.0.1", description="address of metrics and settings")
    admin_port: int = Field(8081, ge=0, le=65535, description="0 takes a free one")
    workers: int = Field(1, ge=1, le=256, description="processes that answer requests")
    drain_seconds: int = Field(120, ge=0, description="s that requests may finish in at the end")
    upstream_ca: Path | None = Field(None, description="PEM of authorities for https upstreams")
    upstream_cert: Path | None = Field(None, description="PEM of a client certificate and key")

    @property
    def upstreams(self) -> tuple[str, dict[str, str]]:
        """The first URL, and those of named models.

        Raises:
            ConfigError: one is no URL.
        """
        named = [given.partition("=") for given in self.upstream]
        urls = {model: url for model, equals, url in named if equals and "://" not in model}
        plain = [url for url in self.upstream if "://" in url.partition("=")[0]]
        if len(plain) != 1 or len(plain) + len(urls) != len(self.upstream):
            plain = plain or [""]
            if len(plain) == 1:
                check_upstream(plain[0])
            raise ConfigError("--upstream: give one URL, and further ones as MODEL=URL")
        for url in (plain[0], *urls.values()):
            check_upstream(url)
        return plain[0], urls

    def tls(self) -> ssl.SSLContext | None:
        """For https upstreams; None is the system's own.

        Raises:
            ConfigError: a file is missing or no PEM.
        """
        if self.upstream_ca is None and self.upstream_cert is None:
            return None
        try:
            context = ssl.create_default_context(cafile=self.upstream_ca)
            if self.upstream_cert is not None:
                context.load_cert_chain(self.upstream_cert)
        except OSError as error:
            raise ConfigError(
                f"--upstream-ca, --upstream-cert: {error.strerror or error}; give PEM files"
            ) from error
        return context


def check_upstream(upstream: str) -> None:
    """Refuse what is no base URL of a server.

    Raises:
        ConfigError: no http(s) URL with a host and a possible port, or one with a
            password, which belongs into the clients' own Authorization header.
    """
    try:
        parts = urlsplit(upstream)
        fits = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        fits = fits and not (parts.username or parts.query or parts.fragment)
    except ValueError:
        fits = False
    if not fits:
        raise ConfigError("--upstream: give a URL like http://127.0.0.1:8000, without a password")


@dataclass
class Worker:
    """The application of one worker process, put together there."""

    config: GatewayConfig
    runtime: Path
    parent: int
    _app: App | None = field(default=None, repr=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection; the first is the lifespan."""
        if self._app is not None:
            await self._app(scope, receive, send)
            return
        # Here: the parent, which starts first, has no use for an HTTP client.
        from serving.gateway import Gateway
        from serving.relay import Relay

        die_with_parent(self.parent)
        told = threading.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, told.set)
        # Before the first request: a kill switch that was set must hold from the start.
        deadline = time.monotonic() + SETTINGS_SECONDS
        while not (self.runtime / "ready").exists() and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        hook = make_hook(self.config, self.runtime / "conversations")
        first, by_model = self.config.upstreams
        self._app = Gateway(hook, Relay(first, by_model, self.config.tls()))

        def step() -> None:
            reload = told.is_set()
            told.clear()
            refresh(hook, reload=reload)

        upkeep = Upkeep([step])
        # What has been made by now stays: looking through it again and again costs more than
        # anything else that a collection does.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*COLLECT_AFTER)
        try:
            await self._app(scope, receive, send)
        finally:
            upkeep.close()
            hook.close()


class Workers(Multiprocess):
    """Uvicorn's supervisor; also takes the gauges of workers that ended out of the metrics.

    SIGHUP has the workers load their bundles anew, where uvicorn would replace them: with one
    worker, whose answers may take minutes to end, nobody would be served meanwhile.
    """

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket], folder: str) -> None:
        super().__init__(config, sockets)
        self._folder = folder
        self._pids: set[int] = set()

    def handle_hup(self) -> None:
        """See `Multiprocess`."""
        for process in self.processes:
            if process.pid is not None:
                os.kill(process.pid, signal.SIGHUP)

    def keep_subprocess_alive(self) -> None:
        """See `Multiprocess`."""
        super().keep_subprocess_alive()
        now = {process.pid for process in self.processes if process.pid is not None}
        for pid in self._pids - now:
            metrics.forget(pid, self._folder)
        self._pids = now


def serve(config: GatewayConfig) -> None:
    """Serve until interrupted; in-flight requests finish first.

    A bundle that is missing or broken does not stop the start: requests then pass untouched,
    and are counted, until there is a sound one.

    Raises:
        SproutError: before listening: wrong URL, trace, rules, or a port in use.
    """
    logging.basicConfig(format="sprout: %(message)s", level=logging.WARNING)
    _ = config.upstreams, config.tls()
    config.make_state()
    _more_files()
    # Settings and the trace are checked here, once, where an error is one line.
    hook = make_hook(config)
    hook.close()
    for problem in hook.policies.problems.values():
        print(f"sprout: {problem}; requests pass untouched until it is there", file=sys.stderr)
    listener = _bound(config.host, config.port, "--port")
    admin = _bound(config.admin_host, config.admin_port, "--admin-port")
    runtime = Path(tempfile.mkdtemp(prefix="sprout-", dir=_memory_folder()))
    # The client library reads it when it is imported: in the workers, not here.
    os.environ[metrics.FOLDER_VARIABLE] = str(runtime)
    app = Worker(config, runtime, os.getpid())
    workers = Workers(_uvicorn(app, config), [listener], str(runtime))
    versions = ", ".join(d.bundle.version for d in hook.policies.loaded) or "none yet"
    print(
        f"sprout serves http://{config.host}:{listener.getsockname()[1]} -> "
        f"{', '.join(config.upstream)} with policy {versions}; metrics and settings at "
        f"http://{config.admin_host}:{admin.getsockname()[1]}",
        flush=True,
    )
    beside = _Besides(config, runtime, admin)
    beside.start()
    try:
        workers.run()
    finally:
        beside.close()
        shutil.rmtree(runtime, ignore_errors=True)


class _Besides(threading.Thread):
    def __init__(self, config: GatewayConfig, runtime: Path, listener: socket.socket) -> None:
        super().__init__(name="sprout-beside", daemon=True)
        self._given = config, runtime, listener
        self._made = threading.Event()
        self._beside: Any = None

    def run(self) -> None:
        try:
            # Here, so that the workers need not wait for it to start.
            from serving.beside import Beside

            self._beside = Beside(*self._given)
        except Exception as error:
            complain("the ledger and the admin port did not start", error)
            os.kill(os.getpid(), signal.SIGTERM)
            return
        finally:
            self._made.set()
        self._beside.run()

    def close(self) -> None:
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


def _memory_folder() -> str | None:
    """Where shared files never meet a full disk, if there is such a place."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108


def _more_files() -> None:
    """A connection is a file: as many as this process may have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def die_with_parent(parent: int) -> None:
    """Be asked to end when the parent ends, also when that is killed outright."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)
