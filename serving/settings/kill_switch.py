"""The kill switch: it holds all requests at mode "off" until an operator releases it.

Each engagement has a name of its own, and a release names those that it lifts. Replicas and the
database merge both sets by union. So a release lifts only what its operator could see, an
engagement is never lost, and no clock is involved (an observed-remove set: Shapiro et al., 2011).
"""

import fcntl
import os
import secrets
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

FILE = "off.json"


class KillState(BaseModel):
    """The engagements so far.

    Attributes:
        engaged: names of all engagements, each with its origin.
        released: names of those that are lifted.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    engaged: frozenset[str] = frozenset()
    released: frozenset[str] = frozenset()

    @property
    def active(self) -> list[str]:
        """Engagements that are not lifted; empty if requests may be steered."""
        return sorted(self.engaged - self.released)

    def merged(self, other: "KillState") -> "KillState":
        """Return the union of two states."""
        return KillState(
            engaged=self.engaged | other.engaged, released=self.released | other.released
        )

    def engage(self, origin: str) -> "KillState":
        """Return the state with one more engagement.

        Args:
            origin: "command", "admin", "signal" or "file".
        """
        name = f"{origin} on {socket.gethostname()} {secrets.token_hex(4)}"
        return self.merged(KillState(engaged=frozenset((name,))))

    def release(self) -> "KillState":
        """Return the state with all engagements lifted."""
        return self.merged(KillState(released=self.engaged))


class KillSwitch:
    """The kill switch of one replica, kept in files that all its processes read.

    Args:
        folders: folders with a copy each; one that can be written suffices.
        mounted: a file that engages the switch while it exists; None if there is none.

    Attributes:
        state: the state as last read.
    """

    def __init__(self, folders: Sequence[Path], mounted: Path | None = None) -> None:
        self._paths = [folder / FILE for folder in folders]
        self._mounted = mounted
        self._stamps: list[tuple[int, int] | None] = []
        self._mounted_stamp: tuple[int, int] | None = None
        self.state = KillState()
        self.refresh()

    @property
    def reasons(self) -> list[str]:
        """Why requests are held at "off"; empty if they are not."""
        present = self._mounted is not None and self._mounted.exists()
        return [*self.state.active, *([f"file {self._mounted}"] if present else [])]

    def refresh(self) -> None:
        """Read the files that have changed. A file that is missing or damaged changes nothing."""
        stamps = [_stamp(path) for path in self._paths]
        if stamps != self._stamps:
            for path in self._paths:
                with suppress(OSError, ValidationError):
                    self.state = self.state.merged(KillState.model_validate_json(path.read_bytes()))
            self._stamps = stamps

    def merge(self, state: KillState) -> None:
        """Take over what another replica, the database or an operator knows.

        Raises:
            OSError: no file could be written; this process knows the state nevertheless.
        """
        self.state = merged = self.state.merged(state)
        problem: OSError | None = None
        written = 0
        for path in self._paths:
            try:
                self.state = merged = _merge_into(path, merged)
                written += 1
            except OSError as error:
                problem = error
        if problem is not None and not written:
            raise problem

    def watch(self) -> None:
        """Engage the switch if the mounted file has appeared; its removal does not release it.

        Raises:
            OSError: see `merge`.
        """
        stamp = None if self._mounted is None else _stamp(self._mounted)
        if stamp is not None and stamp != self._mounted_stamp:
            self.merge(self.state.engage("file"))
        self._mounted_stamp = stamp


def _merge_into(path: Path, state: KillState) -> KillState:
    """Add a state to a file, and return all that the file then knows."""
    # Operators' commands write this file too.
    with (path.parent / f"{FILE}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with suppress(FileNotFoundError, ValidationError):
            known = KillState.model_validate_json(path.read_bytes())
            state = known.merged(state)
            if state == known:
                return state
        draft = path.with_name(f"{FILE}.{os.getpid()}")
        draft.write_text(state.model_dump_json())
        draft.replace(path)
    return state


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino
