"""Says, across processes, since when requests have been on their way.

The joules of a moment are split once all its requests have ended: only then is it known what
each of them did. A worker writes down when its oldest request came; the keeper reads that.
"""

import json
import os
import time
from pathlib import Path

from envs.energy.attribution import LATE_SECONDS

FOLDER = "in-flight"
# A file that has not been written for so long is of a worker that is gone, or hangs.
_GONE_SECONDS = 10.0
# A request that is said to have come so long ago has been forgotten.
_LOST_SECONDS = 3600.0
# Where no worker says anything, requests are taken to end within this time.
_UNKNOWN_SECONDS = 120.0


class InFlight:
    """The requests of one process.

    Args:
        state: folder of the replica.
    """

    def __init__(self, state: Path) -> None:
        self._folder = state / FOLDER
        self._path = self._folder / str(os.getpid())
        # Insertion order is the order of arrival.
        self._began: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._began)

    def begin(self, key: str, at: float) -> None:
        """A request has come, at Unix seconds."""
        self._began[key] = at

    def end(self, key: str) -> None:
        """It has ended, and its record is written."""
        self._began.pop(key, None)

    def publish(self) -> None:
        """Write down since when requests have been on their way: now, if none is."""
        now = time.time()
        # From another thread: those that are there may be gone before they are looked at.
        for key, began in self._began.copy().items():
            if now - began > _LOST_SECONDS:
                # Whoever planned it never said how it ended.
                self._began.pop(key, None)
        oldest = next((at for at in self._began.copy().values() if now - at < LATE_SECONDS), now)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            draft = self._folder / f".{os.getpid()}"
            draft.write_text(json.dumps(min(oldest, now)))
            draft.replace(self._path)
        except OSError:
            # The disk is full: requests then keep their estimates.
            return

    def close(self) -> None:
        """No more will come."""
        self._path.unlink(missing_ok=True)


def oldest_in_flight(state: Path) -> float:
    """Unix seconds before which no request of any process that has not ended came."""
    now, found = time.time(), []
    for path in (state / FOLDER).glob("[0-9]*"):
        try:
            if now - path.stat().st_mtime > _GONE_SECONDS:
                path.unlink()
                continue
            found.append(float(json.loads(path.read_text())))
        except (OSError, ValueError, TypeError):
            continue
    return min(found, default=now - _UNKNOWN_SECONDS)
