"""Publishes, across processes, how many requests are in flight and when the oldest one arrived.

A window's joules can be split only once all its requests have ended: only then is the work of
each known. Each worker writes the arrival of its oldest request, and the number of its requests, to
a file; the keeper reads it.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from envs.energy.attribution import LATE_SECONDS

FOLDER = "in-flight"
# If a file has not been written for this long, its worker has ended or hangs.
_GONE_SECONDS = 10.0
# A request that arrived this long ago will never be reported as ended.
_LOST_SECONDS = 3600.0
# If no worker publishes anything, requests are assumed to end within this time.
_UNKNOWN_SECONDS = 120.0


class InFlight:
    """The requests in flight in one process.

    Args:
        state: the replica's state folder.
        name: tells it from another one in the same process.
    """

    def __init__(self, state: Path, name: str = "hook") -> None:
        self._folder = state / FOLDER
        self._path = self._folder / f"{os.getpid()}-{name}"
        # Insertion order is the order of arrival.
        self._arrivals: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._arrivals)

    def begin(self, key: str, at: float) -> None:
        """Add a request that arrived `at` this time, Unix seconds."""
        self._arrivals[key] = at

    def end(self, key: str) -> None:
        """Remove a request that has ended and whose record is written."""
        self._arrivals.pop(key, None)

    def publish(self) -> None:
        """Write the arrival of the oldest request in flight to the file; now, if there is none."""
        now = time.time()
        # Copied, because requests end in another thread meanwhile.
        for key, arrival in self._arrivals.copy().items():
            if now - arrival > _LOST_SECONDS:
                # The caller planned this request and never reported its outcome.
                self._arrivals.pop(key, None)
        oldest = next((at for at in self._arrivals.copy().values() if now - at < LATE_SECONDS), now)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            draft = self._path.with_name(f".{self._path.name}")
            draft.write_text(json.dumps([min(oldest, now), len(self._arrivals)]))
            draft.replace(self._path)
        except OSError:
            # The disk is full: requests keep their estimates.
            return

    def close(self) -> None:
        """Remove the process's file, as no more requests will arrive."""
        self._path.unlink(missing_ok=True)


def oldest_in_flight(state: Path) -> float:
    """Return when the oldest request in flight in any process arrived, Unix seconds."""
    unknown = time.time() - _UNKNOWN_SECONDS
    return min((oldest for oldest, _ in _published(state)), default=unknown)


def count_in_flight(state: Path) -> int:
    """Return how many requests are in flight in all processes."""
    return sum(count for _, count in _published(state))


def _published(state: Path) -> Iterator[tuple[float, int]]:
    """Yield what each process has published."""
    now = time.time()
    for path in (state / FOLDER).glob("[0-9]*"):
        try:
            if now - path.stat().st_mtime > _GONE_SECONDS:
                path.unlink()
                continue
            oldest, count = json.loads(path.read_text())
            yield float(oldest), int(count)
        except (OSError, ValueError, TypeError):
            continue
