"""Arrivals from a trace of a production service: when requests come, and the load they meet."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from envs.arrays import Float64Array
from envs.errors import DataError

COLUMNS = ("timestamp", "context_tokens", "generated_tokens")


@dataclass(frozen=True)
class Arrivals:
    """A series of n arrivals; it repeats after its last one.

    Attributes:
        gaps_seconds: shape (n,), s from each arrival to the next; the last one's is the
            mean gap.
        in_flight: shape (n,), earlier requests still being answered, if each answer
            takes its recorded tokens times the seconds a token was said to take. That
            load does not follow the directives chosen: it is the trace's own.
    """

    gaps_seconds: Float64Array
    in_flight: Float64Array


def read_arrivals(path: Path, seconds_per_token: float) -> Arrivals:
    """Read a CSV (or .csv.gz) of timestamp, context_tokens, generated_tokens.

    The format of the Azure LLM inference traces (Patel et al., "Splitwise", ISCA 2024).

    Args:
        seconds_per_token: how long the served model takes for a generated token.

    Raises:
        DataError: naming file, row and field: unreadable, a missing column, fewer than two
            rows, times that are none or go backwards, tokens that are no number of 0 or more.
    """
    try:
        table = pd.read_csv(path)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(path, f"cannot be read ({error})", f"give {','.join(COLUMNS)}") from error
    for name in COLUMNS:
        if name not in table.columns:
            raise DataError(path, f"column {name!r} is missing", f"give {','.join(COLUMNS)}")
    if len(table) < 2:
        raise DataError(path, f"holds {len(table)} arrivals", "give two or more")
    # As text: pandas takes bare numbers for nanoseconds.
    texts = table["timestamp"].astype(str)
    moments = pd.to_datetime(texts, errors="coerce", utc=True, format="ISO8601")
    if moments.isna().any():
        row = int(moments.isna().argmax())
        raise DataError(path, f"row {row + 2} timestamp is no time", "give ISO 8601")
    seconds = (moments - moments.iloc[0]).dt.total_seconds().to_numpy()
    gaps = np.diff(seconds)
    if gaps.min() < 0:
        row = int(gaps.argmin()) + 1
        raise DataError(path, f"row {row + 2} timestamp is before the row above", "sort by time")
    tokens = pd.to_numeric(table["generated_tokens"], errors="coerce").to_numpy(dtype=np.float64)
    wrong = ~(tokens >= 0) | np.isinf(tokens)
    if wrong.any():
        raise DataError(path, f"row {int(wrong.argmax()) + 2} generated_tokens", "give 0 or more")
    ended = np.sort(seconds + seconds_per_token * tokens)
    # Of the k arrivals before this one, those that have ended are no longer in flight.
    in_flight = np.arange(len(seconds)) - np.searchsorted(ended, seconds, side="left")
    return Arrivals(np.append(gaps, gaps.mean()), in_flight.astype(np.float64))


class ArrivalClock:
    """The `Clock` of a replay whose requests come as a trace's do.

    An episode goes on where the last one stopped; after a rewind, at the trace's start.
    """

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self._place = 0
        self._elapsed = 0.0

    def rewind(self) -> None:
        """Go back to the trace's first arrival."""
        self._place = 0
        self.restart()

    def restart(self) -> None:
        """Elapsed time is 0 again; the place in the trace is kept."""
        self._elapsed = 0.0

    def advance(self) -> None:
        """Go to the next arrival."""
        self._elapsed += float(self._arrivals.gaps_seconds[self._place])
        self._place = (self._place + 1) % len(self._arrivals.gaps_seconds)

    def elapsed_seconds(self) -> float:
        """Trace seconds since `restart`."""
        return self._elapsed

    def in_flight(self) -> float:
        """The trace's requests in flight at this arrival."""
        return float(self._arrivals.in_flight[self._place])
