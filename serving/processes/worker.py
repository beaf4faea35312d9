"""One worker process of the gateway; it assembles its own application."""

import asyncio
import ctypes
import gc
import os
import secrets
import signal
import sys
import threading
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

from envs.errors import SproutError
from envs.plausible import UnitWarning
from serving.http.asgi import App, Receive, Scope, Send
from serving.settings.gateway import GatewayConfig
from serving.telemetry.log import configure_logging, log, log_internal_error

if TYPE_CHECKING:
    from serving.hook.core import Hook
    from serving.http.readiness import Readiness

# Files in the folder that all workers share. They mean: the operators' settings have been read;
# the command's settings are wrong (the file says how); a worker has announced that it serves.
READY_FILE, REFUSED_FILE, ANNOUNCED_FILE = "ready", "refused", "said"
# Content of the first file at a first start, which may be refused.
FIRST = "first"
# Suffix of a file named by process id: this worker handles SIGHUP.
LISTENING_SUFFIX = ".hears"
# Read by the Prometheus client library when it is imported.
METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
# Longest wait for the operators' settings; the database may not answer.
SETTINGS_SECONDS = 10.0
# Garbage collection thresholds: new objects, and collections of the younger generations.
COLLECT_AFTER = (20_000, 20, 50)
_PR_SET_PDEATHSIG = 1


@dataclass
class Worker:
    """The application of one worker process.

    Args:
        runtime: folder that all workers share.
        parent: process id of the supervisor.
        places: URLs of the gateway and of the admin port.
        name: pseudonym of the gateway in the field Via, which no other gateway has.
    """

    config: GatewayConfig
    runtime: Path
    parent: int
    places: list[str]
    name: str = field(default_factory=lambda: f"sprout-{secrets.token_hex(4)}")
    _app: App | None = field(default=None, repr=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection; the first one, the lifespan, assembles the application."""
        if self._app is not None:
            await self._app(scope, receive, send)
            return
        os.environ[METRICS_VARIABLE] = str(self.runtime)
        # Imported late: the parent, which starts first, does not need these modules.
        from serving.hook.assembly import Upkeep, make_hook
        from serving.http.relay import Relay
        from serving.http.routing import Upstreams
        from serving.processes.gateway import Gateway
        from serving.quality.sampling.sampler import SocketSender

        configure_logging(self.config.log_format)
        # The grid reports such values itself.
        warnings.simplefilter("ignore", UnitWarning)
        die_with_parent(self.parent)
        reload_requested = threading.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload_requested.set)
        # The parent's signal; one sent to the whole group must not end the workers.
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        (self.runtime / f"{os.getpid()}{LISTENING_SUFFIX}").touch()
        await self._settings_read()
        first = self._is_first_start()
        missing = [str(folder) for folder in self.config.folders if not folder.is_dir()]
        if first and missing:
            self._refuse(
                f"--policy {missing[0]}: there is no such folder; give the folder of a bundle, as "
                "`sprout train --out` writes it, or an empty one that waits for its bundle"
            )
        try:
            sender = SocketSender(self.runtime)
            hook = make_hook(self.config, self.runtime, first=first, send=sender)
        except SproutError as error:
            self._refuse(str(error))
        except Exception as error:
            log_internal_error("a worker did not start", error)
            self._refuse(f"a worker did not start: {type(error).__name__}")
        upstreams = Upstreams(*self.config.upstreams)
        relay = Relay(upstreams, self.config.tls(), self.config.routed_bytes, self.name)
        self._app = gateway = Gateway(hook, relay)
        await relay.open()
        unlisted = await gateway.readiness.check()
        if first and unlisted:
            self._refuse(f"--policy: {next(iter(unlisted.values()))}")

        def step() -> None:
            hook.refresh(reload=take_reload_request(reload_requested))

        upkeep = Upkeep([step])
        tasks = [
            asyncio.ensure_future(self._announce(gateway.readiness, hook)),
            asyncio.ensure_future(gateway.readiness.watch()),
        ]
        # The objects made so far live as long as the worker. Frozen, they are no longer scanned,
        # which would be the costliest part of a collection.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*COLLECT_AFTER)
        try:
            await self._app(scope, receive, send)
        finally:
            for task in tasks:
                task.cancel()
            upkeep.close()
            hook.close()

    async def _settings_read(self) -> None:
        """Wait for the operators' settings: a kill switch must apply from the first request on."""
        deadline = time.monotonic() + SETTINGS_SECONDS
        while not (self.runtime / READY_FILE).exists() and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
            if (self.runtime / REFUSED_FILE).exists():
                os._exit(2)

    def _refuse(self, reason: str) -> NoReturn:
        """End this worker, and the gateway if no worker has served yet; else another one tries."""
        if (self.runtime / ANNOUNCED_FILE).exists():
            log_internal_error(f"a new worker did not start; another one will: {reason}")
            os._exit(2)
        refuse_start(self.runtime, reason)
        os._exit(2)

    def _is_first_start(self) -> bool:
        if (self.runtime / ANNOUNCED_FILE).exists():
            return False
        try:
            return (self.runtime / READY_FILE).read_text() == FIRST
        except OSError:
            # The database does not answer.
            return False

    async def _announce(self, readiness: "Readiness", hook: "Hook") -> None:
        """Print that the gateway serves, once it accepts connections; only the first worker does.

        Uvicorn opens the port after the application has started.
        """
        place = urlsplit(self.places[0])
        while True:
            try:
                _, writer = await asyncio.open_connection(place.hostname, place.port)
                writer.close()
                break
            except OSError:
                await asyncio.sleep(0.01)
        try:
            (self.runtime / ANNOUNCED_FILE).touch(exist_ok=False)
        except FileExistsError:
            return
        for problem in hook.policies.problems.values():
            log.error("%s; requests pass through unchanged until the bundle is valid", problem)
        from serving.http.readiness import lines

        state = await readiness.report()
        for line in lines(state):
            log.info("%s", line)
        for problem in state["problems"]:
            log.warning("%s", problem)
        versions = [bundle["version"] for bundle in state["bundles"]]
        for variable in self.config.unused_proxies:
            log.warning("%s is not used: the gateway connects to --upstream directly", variable)
        upstreams = ", ".join(self.config.upstream)
        print(
            f"sprout serves {self.places[0]} -> {upstreams} with policy "
            f"{', '.join(versions) or 'none yet'}; metrics and settings at {self.places[1]}",
            flush=True,
        )


def take_reload_request(requested: threading.Event) -> bool:
    """Clear the event if it was set; return whether it was.

    A request that arrives later, even during the reload that follows, is handled the next time.
    """
    if not requested.is_set():
        return False
    requested.clear()
    return True


def refuse_start(runtime: Path, reason: str) -> None:
    """Make the gateway end with `reason` as its error message."""
    draft = runtime / f"{REFUSED_FILE}.{os.getpid()}"
    draft.write_text(reason)
    draft.replace(runtime / REFUSED_FILE)


def die_with_parent(parent: int) -> None:
    """Get a SIGTERM when the parent ends, even if the parent is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)
