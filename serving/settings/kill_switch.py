"""The kill switch: it holds all requests at mode "off" until an operator releases it.

Each engagement has a name of its own, and a release names those that it lifts. Replicas and the
database merge both sets by union. So a release lifts only what its operator could see, an
engagement is never lost, and no clock is involved (an observed-remove set: Shapiro et al., 2011).
"""

import fcntl
import os
import secrets
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from serving.file_stamp import FileStamp, file_stamp

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
        unwritten: files that do not have the state, because they could not be written.
    """

    def __init__(self, folders: Sequence[Path], mounted: Path | None = None) -> None:
        self._paths = [folder / FILE for folder in folders]
        self._mounted = mounted
        self._stamps: dict[Path, FileStamp] = {}
        self.unwritten: list[Path] = []
        self._mounted_stamp: FileStamp | None = None
        self.state = KillState()
        self.refresh()

    @property
    def reasons(self) -> list[str]:
        """Why requests are held at "off"; empty if they are not."""
        present = file_stamp(self._mounted) is not None
        return [*self.state.active, *([f"file {self._mounted}"] if present else [])]

    def refresh(self) -> None:
        """Read the files that have changed. A file that is missing or damaged changes nothing."""
        for path in self._paths:
            stamp = file_stamp(path)
            if stamp is None or stamp == self._stamps.get(path):
                continue
            with suppress(OSError, ValidationError):
                self.state = self.state.merged(KillState.model_validate_json(path.read_bytes()))
                # Not before: a file that could not be read is read again.
                self._stamps[path] = stamp

    def merge(self, state: KillState) -> None:
        """Take over what another replica, the database or an operator knows.

        Raises:
            OSError: no file could be written; this process knows the state nevertheless.
        """
        self.state = merged = self.state.merged(state)
        problem: OSError | None = None
        unwritten = []
        for path in self._paths:
            try:
                self.state = merged = _merge_into(path, merged)
            except OSError as error:
                unwritten.append(path)
                problem = error
        self.unwritten = unwritten
        if problem is not None and len(unwritten) == len(self._paths):
            raise problem

    def watch(self) -> None:
        """Engage the switch if the mounted file has appeared, and write what is not written yet.

        The removal of the mounted file does not release the switch.

        Raises:
            OSError: see `merge`.
        """
        stamp = file_stamp(self._mounted)
        appeared, self._mounted_stamp = stamp != self._mounted_stamp, stamp
        own = f"file on {socket.gethostname()} "
        if stamp is not None and appeared and not any(n.startswith(own) for n in self.state.active):
            self.merge(self.state.engage("file"))
        elif self.unwritten:
            self.merge(self.state)


def _merge_into(path: Path, state: KillState) -> KillState:
    """Add a state to a file, and return all that the file then knows."""
    # Operators' commands write this file too.
    with _locked(path.parent / f"{FILE}.lock"):
        with suppress(FileNotFoundError, ValidationError):
            known = KillState.model_validate_json(path.read_bytes())
            state = known.merged(state)
            if state == known:
                return state
        draft = path.with_name(f"{FILE}.{os.getpid()}")
        with draft.open("w") as file:
            file.write(state.model_dump_json())
            file.flush()
            os.fsync(file.fileno())
        # The gateway must be able to read what another user wrote.
        draft.chmod(0o644)
        draft.replace(path)
    return state


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock; go on without it if another user's file forbids it."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:
        yield
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
