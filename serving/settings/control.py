"""What an operator sets at run time, the same for all workers and replicas.

It is kept in the ledger's database. A replica's keeper polls it and writes it to a local
file; the hook reads only that, so that no database stands in a request's way and the last
known setting holds while the database is away.
"""

import os
import secrets
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.settings.rules import Mode, Ratio, Rule

FILE = "control.json"
# What an operator may change of it.
SETTABLE = frozenset(("mode", "canary_ratio", "canary_tasks", "hold_out_ratio", "rules"))


class Control(BaseModel):
    """Mode, hold-out and rules.

    Attributes:
        mode: "off": relay only; "shadow": decide and record, change nothing; "canary":
            steer `canary_ratio` of conversations and all of `canary_tasks`; "on".
        hold_out_ratio: share of conversations kept at L0, by which savings are measured.
        salt: of the lottery, one for all replicas; not shown to clients.
        reloads: counts the operator's demands to load the bundles anew.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Mode = "on"
    canary_ratio: Ratio = 0.05
    canary_tasks: tuple[str, ...] = ()
    hold_out_ratio: Ratio = 0.05
    rules: tuple[Rule, ...] = ()
    salt: str = Field(default_factory=lambda: secrets.token_hex(16), pattern="^[0-9a-f]{32}$")
    reloads: int = 0
    revision: int = 0


class LocalControl:
    """The control file of a state folder, read anew when it has changed.

    Args:
        initial: holds until there is a file.
    """

    def __init__(self, folder: Path, initial: Control) -> None:
        self._path = folder / FILE
        self._stamp: tuple[int, int] | None = None
        self.now = initial
        self.refresh()

    @property
    def on_file(self) -> bool:
        """Whether what holds was read from the file."""
        return self._stamp is not None

    def refresh(self) -> bool:
        """Look once; whether something changed. A damaged file leaves the last known."""
        try:
            stat = self._path.stat()
            stamp = stat.st_mtime_ns, stat.st_ino
            if stamp == self._stamp:
                return False
            found = Control.model_validate_json(self._path.read_bytes())
        except (OSError, ValidationError):
            return False
        self._stamp = stamp
        changed = found != self.now
        self.now = found
        return changed

    def write(self, control: Control) -> None:
        """Replace the file, in one step."""
        draft = self._path.with_name(f"{FILE}.{os.getpid()}")
        draft.write_text(control.model_dump_json())
        draft.replace(self._path)
