"""The operators' run-time settings, shared by all workers and replicas.

They are stored in the ledger's database. Each replica's keeper polls them and writes them to a
local file. The hook reads only this file, so that no request waits for the database, and the last
known settings apply while the database is unreachable.
"""

import hashlib
import os
import secrets
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.file_stamp import FileStamp, file_stamp
from serving.settings.kill_switch import KillState, KillSwitch
from serving.settings.rules import Mode, Ratio, Rule

FILE = "control.json"
# Header of requests that are made only to judge others: no hook with these settings steers them.
EVALUATION_HEADER = "x-sprout-evaluation"
# Fields of `Control` that an operator may change.
SETTABLE = frozenset(("mode", "canary_ratio", "canary_tasks", "hold_out_ratio", "floors", "rules"))


class Control(BaseModel):
    """The operators' run-time settings: mode, hold-out and rules.

    Attributes:
        mode: "off" only relays; "shadow" decides and records, but changes nothing; "canary"
            steers `canary_ratio` of all conversations and all requests of `canary_tasks`; "on"
            steers all.
        canary_ratio: share of conversations that are steered in mode "canary".
        canary_tasks: tasks whose requests are all steered in mode "canary".
        hold_out_ratio: share of conversations kept at L0, against which savings are measured.
        floors: least quality relative to L0, by task; "*" stands for all others. They take the
            place of the policy's own.
        rules: the operators' rules; the first one that matches a request applies.
        salt: key of the lottery's hashes, the same for all replicas; never shown to clients.
        reloads: number of times that an operator asked to reload the bundles.
        revision: number of changes to these settings.
        kill: the kill switch, as the database knows it.
        started: whether a replica has served with these settings. Only a first start is refused
            for settings that would steer nothing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Mode = "shadow"
    canary_ratio: Ratio = 0.05
    canary_tasks: tuple[str, ...] = ()
    hold_out_ratio: Ratio = 0.05
    floors: dict[str, Ratio] = {}
    rules: tuple[Rule, ...] = ()
    salt: str = Field(default_factory=lambda: secrets.token_hex(16), pattern="^[0-9a-f]{32}$")
    reloads: int = 0
    revision: int = 0
    kill: KillState = KillState()
    started: bool = False

    @property
    def evaluation_mark(self) -> str:
        """Value of `EVALUATION_HEADER`, which nobody can make without the salt."""
        key = bytes.fromhex(self.salt)
        return hashlib.blake2b(b"evaluation", digest_size=16, key=key).hexdigest()

    @classmethod
    def from_json(cls, text: str | bytes) -> "Control":
        """Return stored settings; those of versions that did not note a start have served.

        Raises:
            ValidationError: they are of another version, or damaged.
        """
        control = cls.model_validate_json(text)
        if "started" in control.model_fields_set:
            return control
        return control.model_copy(update={"started": True})


class LocalControl:
    """The control file of a state folder, read again when it changes.

    Args:
        folder: the replica's state folder.
        initial: settings that apply until the file exists.
        kill: the replica's kill switch.

    Attributes:
        initial: see above.
        stored: the settings, as the file has them.
        now: the settings that apply now: mode "off" if the kill switch is engaged.
        kill: the kill switch.
    """

    def __init__(self, folder: Path, initial: Control, kill: KillSwitch) -> None:
        self._path = folder / FILE
        self._stamp: FileStamp | None = None
        self.initial = self.stored = self.now = initial
        self.kill = kill
        self.refresh()

    @property
    def read_from_file(self) -> bool:
        """Return whether the current settings were read from the file."""
        return self._stamp is not None

    def refresh(self) -> None:
        """Read the file and the kill switch if they have changed.

        If the file is missing or damaged, the last known settings stay.
        """
        self._read()
        self.kill.refresh()
        off = bool(self.kill.reasons) and self.stored.mode != "off"
        self.now = self.stored.model_copy(update={"mode": "off"}) if off else self.stored

    def _read(self) -> None:
        stamp = file_stamp(self._path)
        if stamp is None or stamp == self._stamp:
            return
        try:
            self.stored = Control.from_json(self._path.read_bytes())
        except (OSError, ValidationError):
            return
        self._stamp = stamp

    def write(self, control: Control) -> None:
        """Replace the file atomically."""
        draft = self._path.with_name(f"{FILE}.{os.getpid()}")
        draft.write_text(control.model_dump_json())
        draft.replace(self._path)
