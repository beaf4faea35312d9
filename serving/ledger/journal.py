"""The append-only journal between the hook and the ledger's database.

One file a writer, one JSON line an entry, written before the answer's last byte is released.
A line handed to the kernel outlives the process, however that ends (not the machine: nothing
is synced to the disk on the way). The keeper reads the lines into the database; a file whose
writer is gone is deleted once all of it is there.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

import orjson

from serving.ledger.record import Amendment, Record

FOLDER = "journal"
ROTATE_BYTES = 8 << 20
# Beyond this the database has been away too long: requests are served and counted, unrecorded.
FULL_BYTES = 2 << 30
_FULL_SECONDS = 1.0


Entry = Record | Amendment
# A line is a JSON object with one member, whose name is the entry's kind.
KINDS: dict[str, type[Record] | type[Amendment]] = {"record": Record, "amendment": Amendment}
KIND_OF = {entry: kind for kind, entry in KINDS.items()}


class JournalFullError(OSError):
    """The journal's folder holds as much as it may."""


class Journal:
    """Writes entries; one for each process.

    Args:
        folder: the state folder.
    """

    def __init__(self, folder: Path, full_bytes: int = FULL_BYTES) -> None:
        self._folder = folder / FOLDER
        self._full_bytes = full_bytes
        self._handle: int | None = None
        self._size = 0
        self._broken = False
        self._full_until = 0.0

    def write(self, entry: Entry) -> None:
        """Append one entry.

        Raises:
            OSError: the disk or the journal is full; nothing else is harmed by it.
        """
        line = orjson.dumps({KIND_OF[type(entry)]: entry}) + b"\n"
        if self._handle is None or self._size > ROTATE_BYTES:
            self._open()
        assert self._handle is not None
        if self._broken:
            # Ends what a full disk cut short; its reader skips it.
            line = b"\n" + line
        try:
            written = os.write(self._handle, line)
        except OSError:
            self._broken = True
            raise
        self._size += written
        self._broken = written < len(line)
        if self._broken:
            raise OSError("the journal's disk is full")

    def close(self) -> None:
        """Let go of the file."""
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
        # Held as long as the writer lives: tells the keeper that more may come.
        fcntl.flock(self._handle, fcntl.LOCK_EX)
        self._size = 0
        self._broken = False


def journal_files(folder: Path) -> list[Path]:
    """A journal folder's files, oldest first."""
    return sorted(folder.glob("*.jsonl"))


class Tail:
    """Reads one journal file from where it last stopped.

    Attributes:
        damaged: lines that were no entry.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged = 0
        self._offset = 0

    def batches(self, size: int = 1000) -> Iterator[list[Entry]]:
        """Whole lines not yet read; a batch counts as read when the next one is asked for."""
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
        """Whether its writer is gone, so that no more will come."""
        with self.path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return False
        return True


def _entry(line: bytes) -> Entry | None:
    """The entry of a line; None if the line is damaged."""
    try:
        ((kind, fields),) = orjson.loads(line).items()
        return KINDS[kind](**fields)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
