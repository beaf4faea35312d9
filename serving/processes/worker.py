"""One worker process of the gateway: its application, put together there."""

import asyncio
import ctypes
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from envs.errors import SproutError
from serving.http.asgi import App, Receive, Scope, Send
from serving.settings.gateway import GatewayConfig
from serving.telemetry.log import log_internal_error

# Files in the folder that the workers share: the operators' settings are known; something is
# wrong with the command's settings, and how; a worker has said that it serves.
READY_FILE, REFUSED_FILE, ANNOUNCED_FILE = "ready", "refused", "said"
# Suffix of a file by process id: that worker hears SIGHUP.
LISTENING_SUFFIX = ".hears"
# Of the metrics' client library, which reads it when it is imported.
METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
# A database that does not answer is not waited for any longer.
SETTINGS_SECONDS = 10.0
# Objects made since the last collection, and collections of younger generations.
COLLECT_AFTER = (20_000, 20, 50)
_PR_SET_PDEATHSIG = 1


@dataclass
class Worker:
    """The application of one worker process.

    Args:
        runtime: folder that all workers share.
        places: URLs of the gateway and of the admin port.
    """

    config: GatewayConfig
    runtime: Path
    parent: int
    places: list[str]
    _app: App | None = field(default=None, repr=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection; the first is the lifespan."""
        if self._app is not None:
            await self._app(scope, receive, send)
            return
        os.environ[METRICS_VARIABLE] = str(self.runtime)
        # Here: the parent, which starts first, has no use for all this.
        from serving.hook.assembly import Upkeep, make_hook
        from serving.http.relay import Relay
        from serving.processes.gateway import Gateway

        die_with_parent(self.parent)
        reload_requested = threading.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload_requested.set)
        (self.runtime / f"{os.getpid()}{LISTENING_SUFFIX}").touch()
        # Before the first request: a kill switch that was set must hold from the start.
        deadline = time.monotonic() + SETTINGS_SECONDS
        while not (self.runtime / READY_FILE).exists() and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
            if (self.runtime / REFUSED_FILE).exists():
                os._exit(2)
        try:
            hook = make_hook(self.config, self.runtime / "conversations")
        except SproutError as error:
            self._refuse(str(error))
        except Exception as error:
            log_internal_error("a worker did not start", error)
            self._refuse(f"a worker did not start: {type(error).__name__}")
        first, by_model = self.config.upstreams
        self._app = Gateway(hook, Relay(first, by_model, self.config.tls()))

        def step() -> None:
            hook.refresh(reload=take_request(reload_requested))

        upkeep = Upkeep([step])
        self._say([d.bundle.version for d in hook.policies.loaded], hook.policies.problems.values())
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

    def _refuse(self, why: str) -> NoReturn:
        """End, and let the parent say why; once all went well, another worker tries again."""
        if (self.runtime / ANNOUNCED_FILE).exists():
            log_internal_error(f"a new worker did not start; another one will: {why}")
            os._exit(2)
        refuse(self.runtime, why)
        os._exit(2)

    def _say(self, versions: Iterable[str], problems: Iterable[str]) -> None:
        try:
            (self.runtime / ANNOUNCED_FILE).touch(exist_ok=False)
        except FileExistsError:
            return
        for problem in problems:
            print(f"sprout: {problem}; requests pass untouched until it is there", file=sys.stderr)
        upstreams = ", ".join(self.config.upstream)
        print(
            f"sprout serves {self.places[0]} -> {upstreams} with policy "
            f"{', '.join(versions) or 'none yet'}; metrics and settings at {self.places[1]}",
            flush=True,
        )


def take_request(requested: threading.Event) -> bool:
    """Clear the event if it was set; return whether it was.

    A request that comes after this, also during the load that follows, is seen the next time.
    """
    if not requested.is_set():
        return False
    requested.clear()
    return True


def refuse(runtime: Path, why: str) -> None:
    """Have the gateway end, and say why."""
    draft = runtime / f"{REFUSED_FILE}.{os.getpid()}"
    draft.write_text(why)
    draft.replace(runtime / REFUSED_FILE)


def die_with_parent(parent: int) -> None:
    """Be asked to end when the parent ends, also when that is killed outright."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)
