"""The append-only journal between the hook and the ledger's database.

Each writer has its own file, and each entry is one line of JSON, written before the last byte of
the answer is released. A line that the kernel has accepted survives any end of the process, but
not a crash of the machine: nothing is synced to disk. The keeper copies the lines to the
database, and deletes a file when its writer has ended and all its lines are copied.
"""

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from serving.ledger.quality.feedback import Feedback
from serving.ledger.quality.verdict import Verdict
from serving.ledger.record import Amendment, Record

FOLDER = "journal"
ROTATE_BYTES = 8 << 20
# When the journal exceeds this, the database has been unreachable for too long: requests are
# still served, and counted as unrecorded.
FULL_BYTES = 2 << 30
# A NUL character, as JSON writes it.
_NUL = b"\\u0000"
# How long a full journal is not measured again.
_FULL_SECONDS = 1.0


Entry = Record | Amendment | Verdict | Feedback
# A line is a JSON object with a single member, named by the kind of the entry.
KINDS: dict[str, type[Entry]] = {
    "record": Record,
    "amendment": Amendment,
    "verdict": Verdict,
    "feedback": Feedback,
}
KIND_OF = {entry: kind for kind, entry in KINDS.items()}


class JournalFullError(OSError):
    """The journal's folder has reached its size limit."""


class Journal:
    """Writes entries; each process has one, for all its threads.

    Args:
        folder: the replica's state folder.
        full_bytes: size limit of all journal files together, bytes.
    """

    def __init__(self, folder: Path, full_bytes: int = FULL_BYTES) -> None:
        self._folder = folder / FOLDER
        self._full_bytes = full_bytes
        self._handle: int | None = None
        self._size = 0
        self._broken = False
        self._full_until = 0.0
        self._lock = threading.Lock()

    def write(self, entry: Entry) -> None:
        """Append one entry.

        Raises:
            OSError: the disk or the journal is full. Earlier and later entries are unaffected.
        """
        line = orjson.dumps({KIND_OF[type(entry)]: entry}) + b"\n"
        with self._lock:
            self._append(line)

    def _append(self, line: bytes) -> None:
        if self._handle is None or self._size > ROTATE_BYTES:
            self._open()
        assert self._handle is not None
        if self._broken:
            # Ends the line that a full disk cut short; the reader skips that line.
            line = b"\n" + line
        try:
            written = os.write(self._handle, line)
        except OSError:
            self._broken = True
            raise
        self._size += written
        self._broken = written < len(line)
        if self._broken:
            raise OSError(f"the disk of {self._folder} is full")

    def close(self) -> None:
        """Close the file."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _open(self) -> None:
        self.close()
        if time.monotonic() < self._full_until:
            raise JournalFullError(f"{self._folder} is full")
        self._folder.mkdir(parents=True, exist_ok=True)
        if sum(path.stat().st_size for path in journal_files(self._folder)) > self._full_bytes:
            self._full_until = time.monotonic() + _FULL_SECONDS
            raise JournalFullError(f"{self._folder} holds more than {self._full_bytes} bytes")
        path = self._folder / f"{time.time_ns():020d}-{os.getpid()}.jsonl"
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        # Held while the writer lives: tells the keeper that more lines may follow.
        fcntl.flock(self._handle, fcntl.LOCK_EX)
        self._size = 0
        self._broken = False


def journal_files(folder: Path) -> list[Path]:
    """Return the files of a journal folder, oldest first."""
    return sorted(folder.glob("*.jsonl"))


class Tail:
    """Reads one journal file from where it last stopped.

    Attributes:
        path: the journal file.
        damaged: number of lines read so far that held no valid entry.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged = 0
        self._offset = 0

    def batches(self, size: int = 1000) -> Iterator[list[Entry]]:
        """Yield unread entries; a batch counts as read once the next one is requested."""
        with self.path.open("rb") as file:
            file.seek(self._offset)
            batch: list[Entry] = []
            damaged, offset = 0, self._offset
            for line in file:
                if not line.endswith(b"\n"):
                    break
                offset += len(line)
                if (entry := _entry(line)) is not None:
                    batch.append(entry)
                else:
                    damaged += line != b"\n"
                if len(batch) == size:
                    yield batch
                    self._offset, batch = offset, []
                    self.damaged, damaged = self.damaged + damaged, 0
            if batch:
                yield batch
            self._offset = offset
            self.damaged += damaged

    def abandoned(self) -> bool:
        """Return whether the file's writer has ended, so that no more lines will follow."""
        with self.path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return False
        return True


def _without_nul(fields: Any) -> Any:
    """Return parsed JSON without NUL characters, which PostgreSQL cannot store."""
    if isinstance(fields, str):
        return fields.replace("\x00", "")
    if isinstance(fields, dict):
        return {name: _without_nul(value) for name, value in fields.items()}
    return fields


def _entry(line: bytes) -> Entry | None:
    """Return the entry of a line, or None if the line is damaged."""
    try:
        ((kind, fields),) = orjson.loads(line).items()
        return KINDS[kind](**(_without_nul(fields) if _NUL in line else fields))
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
