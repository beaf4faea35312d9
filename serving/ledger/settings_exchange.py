"""Brings the operators' settings from the database to a replica, and the replica's state there.

The kill switch works whatever the database does: each replica keeps it, and tells the database when
it can.
"""

import logging
import time
from contextlib import suppress
from pathlib import Path

from serving.ledger.database import Ledger
from serving.ledger.replica import ANNOUNCE_SECONDS, Replica, write_replicas
from serving.settings.control import SETTABLE, Control, LocalControl
from serving.settings.kill_switch import KillState

log = logging.getLogger("sprout")


class SettingsExchange:
    """Exchanges one replica's settings and state with the database.

    Args:
        name: name of the replica, for operators.
        folder: the replica's state folder.
        control: the operators' settings in that folder.
        ledger: the database.
        admin_url: URL of the replica's admin port; None if it has none.

    Attributes:
        control: the operators' settings, as this replica has them.
        first_start: True while no replica has served with this database; False if one has, or if
            that is not known because the database was never reached.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        control: LocalControl,
        ledger: Ledger,
        admin_url: str | None,
    ) -> None:
        self._name = name
        self._folder = folder
        self.control = control
        self._ledger = ledger
        self._admin_url = admin_url
        self.first_start = False
        self._exchanged = False
        self._announced: Replica | None = None
        self._killed: list[str] = []
        self._kill_problem: str | None = None

    def kill(self, state: KillState) -> None:
        """Take over a change of the kill switch, whatever the database does.

        Raises:
            OSError: the change could not be written, so other processes may not know it.
        """
        try:
            self.control.kill.merge(state)
        finally:
            self.control.refresh()

    def watch_kill_switch(self) -> None:
        """Look at the mounted file, and log changes. Call it twice a second, in its own thread.

        The database must not delay it.
        """
        problem = None
        try:
            self.control.kill.watch()
        except OSError as error:
            problem = error.strerror
        self.control.refresh()
        if unwritten := self.control.kill.unwritten:
            problem = f"{', '.join(map(str, unwritten))}: {problem or 'not written'}"
        if problem != self._kill_problem and problem is not None:
            log.error("the kill switch cannot be written, so a restart may lose it: %s", problem)
        self._kill_problem = problem
        reasons = self.control.kill.reasons
        if bool(reasons) != bool(self._killed):
            if reasons:
                log.warning(
                    "the kill switch is engaged (%s): requests are relayed unchanged until "
                    "`sprout mode --release-off`",
                    ", ".join(reasons),
                )
            else:
                log.warning("the kill switch is released")
        self._killed = reasons

    def exchange(self) -> None:
        """Bring the database's settings here, and this replica's state there."""
        control = self._ledger.control(self.control.stored, renew=not self._exchanged)
        self._exchanged = True
        self.first_start = not control.started
        with suppress(OSError):
            # This process knows it; `watch_kill_switch` tries to write it again, and logs.
            self.kill(control.kill)
        if control.kill != self.control.kill.state:
            control = self._ledger.merge_kill(self.control.kill.state)
        if control != self.control.stored:
            _log_changes(self.control.stored, control)
            self._write(control)
        replica = Replica(
            name=self._name,
            seen=time.time(),
            admin_url=self._admin_url,
            mode=self.control.now.mode,
            off=tuple(self.control.kill.reasons),
        )
        last = self._announced
        if (
            last is None
            or replica != last.model_copy(update={"seen": replica.seen})
            or abs(replica.seen - last.seen) > ANNOUNCE_SECONDS
        ):
            self._ledger.announce(replica)
            self._announced = replica
            write_replicas(self._folder, self._ledger.replicas())

    def started(self) -> None:
        """Note in the database that a replica serves."""
        if self.first_start:
            self._ledger.set_control(started=True)

    def write_initial(self) -> None:
        """Write the settings that apply until the database has others, if there are none yet.

        Also while the database is unreachable: all workers need the same lottery salt.
        """
        # A file without a start is of a start that was refused.
        refused = not self._exchanged and not self.control.stored.started
        if refused or not self.control.read_from_file:
            self._write(self.control.initial)

    def _write(self, control: Control) -> None:
        self.control.write(control)
        self.control.refresh()


def _log_changes(old: Control, new: Control) -> None:
    for name in sorted(SETTABLE):
        before, after = getattr(old, name), getattr(new, name)
        if before != after:
            shown = [rule.name for rule in after] if name == "rules" else after
            log.warning("setting %s is now %s (revision %d)", name, shown, new.revision)
