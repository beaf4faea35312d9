"""Publishes, across processes, when the oldest request in flight arrived.

A window's joules can be split only once all its requests have ended: only then is the work of
each known. Each worker writes the arrival of its oldest request to a file; the keeper reads it.
"""

import json
import os
import time
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
    """

    def __init__(self, state: Path) -> None:
        self._folder = state / FOLDER
        self._path = self._folder / str(os.getpid())
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
            draft = self._folder / f".{os.getpid()}"
            draft.write_text(json.dumps(min(oldest, now)))
            draft.replace(self._path)
        except OSError:
            # The disk is full: requests keep their estimates.
            return

    def close(self) -> None:
        """Remove the process's file, as no more requests will arrive."""
        self._path.unlink(missing_ok=True)


def oldest_in_flight(state: Path) -> float:
    """Return when the oldest request in flight in any process arrived, Unix seconds."""
    now, arrivals = time.time(), []
    for path in (state / FOLDER).glob("[0-9]*"):
        try:
            if now - path.stat().st_mtime > _GONE_SECONDS:
                path.unlink()
                continue
            arrivals.append(float(json.loads(path.read_text())))
        except (OSError, ValueError, TypeError):
            continue
    return min(arrivals, default=now - _UNKNOWN_SECONDS)
