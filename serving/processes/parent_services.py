"""Services in the workers' parent process: the keeper and the admin port."""

import os
import socket
import threading
from contextlib import suppress
from pathlib import Path

import uvicorn

from envs.errors import LedgerError, SproutError
from serving.hook.assembly import Upkeep, open_grid
from serving.hook.policies import Policies
from serving.http.admin import TOKEN_VARIABLE, Admin
from serving.ledger.keeper import Keeper
from serving.ledger.known_names import known_names
from serving.processes.protocol import GuardedProtocol
from serving.processes.worker import ANNOUNCED_FILE, FIRST, READY_FILE
from serving.quality.sampling.sampler import SocketReceiver
from serving.settings.control import Control, LocalControl
from serving.settings.gateway import GatewayConfig
from serving.settings.guard_levels import GuardLevels
from serving.settings.rules import check_names
from serving.telemetry.log import log
from serving.watching import make_watch

# The flag of each run-time setting.
FLAGS = {
    "mode": "--mode",
    "canary_ratio": "--canary",
    "canary_tasks": "--canary-tasks",
    "hold_out_ratio": "--hold-out",
    "rules": "--rules",
}


class ParentServices:
    """The keeper and the admin port.

    They are created in a thread while the workers start, because the database's libraries take
    long to import.

    Args:
        runtime: folder that all workers share; `READY_FILE` is created in it once the operators'
            settings have been read, or the database turned out to be unreachable.
        listener: bound socket of the admin port.
        admin_url: URL of the admin port.
        off_requested: set when a signal asks for the kill switch.
    """

    def __init__(
        self,
        config: GatewayConfig,
        runtime: Path,
        listener: socket.socket,
        admin_url: str,
        off_requested: threading.Event,
    ) -> None:
        first, others = config.upstreams
        urls = tuple(dict.fromkeys((first, *others.values())))
        kill = config.kill_switch(runtime)
        control = LocalControl(config.state, config.initial_control(), kill)
        self._keeper = Keeper(config, control, urls, admin_url)
        # Apart from the keeper's rounds, which may wait for the database.
        self._off_requested = off_requested
        self._kill_upkeep = Upkeep([self._obey_signal, self._keeper.settings.watch_kill_switch])
        self._keeper.step()
        if self._keeper.settings.first_start:
            self._check_rules(config)
        draft = runtime / f"{READY_FILE}.new"
        draft.write_text(FIRST if self._keeper.settings.first_start else "")
        draft.replace(runtime / READY_FILE)
        for line in overridden(config.initial_control(), control.stored):
            log.warning("%s", line)
        self._announced = runtime / ANNOUNCED_FILE
        self._watching = Watching(config, runtime, self._keeper) if config.judges else None
        if self._watching is None and (moved := GuardLevels(config.state).moved):
            tasks = ", ".join(cell.task or "untagged" for cell in moved)
            log.warning("without --judge the guard is off: steered as asked again: %s", tasks)
        self._upkeep = Upkeep([self._keeper.step, self._note_start])
        self._listener = listener
        self._admin = uvicorn.Server(
            uvicorn.Config(
                Admin(
                    self._keeper,
                    str(runtime),
                    os.environ.get(TOKEN_VARIABLE),
                    None if self._watching is None else self._watching.watch,
                ),
                http=GuardedProtocol,
                log_config=None,
                lifespan="off",
                server_header=False,
            )
        )

    def _check_rules(self, config: GatewayConfig) -> None:
        with suppress(LedgerError):
            known = known_names(self._keeper.ledger)
            check_names(config.initial_control().rules, known, str(config.rules), first=True)

    def _note_start(self) -> None:
        if self._announced.exists():
            with suppress(LedgerError):
                self._keeper.settings.started()

    def _obey_signal(self) -> None:
        if self._off_requested.is_set():
            self._off_requested.clear()
            self._keeper.settings.kill(self._keeper.settings.control.kill.state.engage("signal"))

    def run(self) -> None:
        """Serve the admin port until `close` is called."""
        self._admin.run([self._listener])

    def close(self) -> None:
        """Stop, after copying all that the workers have written to the database."""
        self._admin.should_exit = True
        self._upkeep.close()
        self._kill_upkeep.close()
        if self._watching is not None:
            # The keeper's last round takes its verdicts along.
            self._watching.close()
        self._keeper.close()


class Watching:
    """The watch over the quality of answers, with the samples of the workers.

    Attributes:
        watch: judges the samples.

    Raises:
        ConfigError, DataError: a flag or a file of the judges is missing or wrong.
    """

    def __init__(self, config: GatewayConfig, runtime: Path, keeper: Keeper) -> None:
        default, by_model = config.upstreams
        self._grid = open_grid(config, first=False)
        # As the workers have them, so that candidates are made as users would get them.
        self._policies = Policies(
            config.folders, self._grid.kind, config.directive_place, config.explore
        )
        self.watch = make_watch(
            config,
            keeper,
            self._policies,
            self._grid,
            lambda model: by_model.get(model, default),
        )
        self._receiver = SocketReceiver(runtime, self.watch.take)
        self._upkeep = Upkeep([self._refresh, self.watch.step])

    def close(self) -> None:
        """Stop."""
        self._receiver.close()
        self._upkeep.close()
        self.watch.close()

    def _refresh(self) -> None:
        # The workers log what is wrong with either.
        self._policies.use_kind(self._grid.kind)
        self._policies.refresh()
        with suppress(SproutError, OSError):
            self._grid.refresh()


def overridden(given: Control, stored: Control) -> list[str]:
    """Return a line for each setting of the flags that the ledger has with another value."""
    lines = []
    for name, flag in FLAGS.items():
        ours, theirs = getattr(given, name), getattr(stored, name)
        differ = ours != theirs
        if name == "canary_tasks":
            ours, theirs = ", ".join(ours), ", ".join(theirs)
        if name == "rules":
            ours, theirs = ([rule.name for rule in rules] for rules in (ours, theirs))
        if differ:
            lines.append(
                f"{flag} is {theirs!r}, as set in the ledger, not {ours!r}; flags only initialise "
                "a new ledger, so change it with `sprout mode` or `sprout rules set`"
            )
    return lines
