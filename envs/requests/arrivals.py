"""Arrival traces of production services: the times of requests and the load in flight."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from envs.arrays import Float64Array
from envs.csv_file import read_csv
from envs.errors import DataError

COLUMNS = ("timestamp", "context_tokens", "generated_tokens")


@dataclass(frozen=True)
class Arrivals:
    """A series of n arrivals. The series repeats after its last arrival.

    Attributes:
        gaps_seconds: s from each arrival to the next, shape (n,); after the last arrival, the
            mean gap.
        in_flight: number of earlier requests still being answered at each arrival, shape (n,).
            Each answer is assumed to take its recorded tokens times the seconds per token that
            `read_arrivals` was given. This load does not depend on the directives chosen.
    """

    gaps_seconds: Float64Array
    in_flight: Float64Array


def read_arrivals(path: Path, seconds_per_token: float) -> Arrivals:
    """Read a CSV (or .csv.gz) with the columns timestamp, context_tokens, generated_tokens.

    This is the format of the Azure LLM inference traces (Patel et al., "Splitwise", ISCA 2024).

    Args:
        seconds_per_token: time that the served model takes per generated token, s.

    Raises:
        DataError: the file is unreadable, lacks a column or has fewer than two rows; a timestamp
            is invalid or earlier than the one before; or a token count is not a number of 0 or
            more. The message names the file, row and field.
    """
    header, rows = read_csv(path, f"give {','.join(COLUMNS)}")
    table = pd.DataFrame(rows, columns=header, dtype=str)
    for name in COLUMNS:
        if name not in table.columns:
            raise DataError(path, f"column {name!r} is missing", f"give {','.join(COLUMNS)}")
    if len(table) < 2:
        raise DataError(path, f"holds {len(table)} arrivals", "give two or more")
    # Parse from text: pandas would read bare numbers as nanoseconds.
    texts = table["timestamp"].astype(str)
    times = pd.to_datetime(texts, errors="coerce", utc=True, format="ISO8601")
    if times.isna().any():
        row = int(times.isna().argmax())
        raise DataError(path, f"row {row + 2} timestamp is not a time", "give ISO 8601")
    seconds = (times - times.iloc[0]).dt.total_seconds().to_numpy()
    gaps = np.diff(seconds)
    if gaps.min() < 0:
        row = int(gaps.argmin()) + 1
        raise DataError(path, f"row {row + 2} timestamp is before the row above", "sort by time")
    tokens = pd.to_numeric(table["generated_tokens"], errors="coerce").to_numpy(dtype=np.float64)
    wrong = ~(tokens >= 0) | np.isinf(tokens)
    if wrong.any():
        row = int(wrong.argmax())
        value = table["generated_tokens"].iloc[row]
        raise DataError(path, f"row {row + 2} generated_tokens is {value}", "give 0 or more")
    ends = np.sort(seconds + seconds_per_token * tokens)
    # Requests in flight = earlier arrivals less those that have ended.
    in_flight = np.arange(len(seconds)) - np.searchsorted(ends, seconds, side="left")
    return Arrivals(np.append(gaps, gaps.mean()), in_flight.astype(np.float64))


class ArrivalClock:
    """The `Clock` of a replay whose requests arrive as in a trace.

    Each episode continues in the trace where the last one stopped. After a rewind, the next
    episode begins at the trace's first arrival.
    """

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self._index = 0
        self._elapsed = 0.0

    def rewind(self) -> None:
        """Return to the trace's first arrival and set the elapsed time to 0."""
        self._index = 0
        self.restart()

    def restart(self) -> None:
        """Set the elapsed time to 0, but keep the position in the trace."""
        self._elapsed = 0.0

    def advance(self) -> None:
        """Move to the next arrival."""
        self._elapsed += float(self._arrivals.gaps_seconds[self._index])
        self._index = (self._index + 1) % len(self._arrivals.gaps_seconds)

    def elapsed_seconds(self) -> float:
        """Return the time in the trace since `restart`, s."""
        return self._elapsed

    def in_flight(self) -> float:
        """Return the number of requests in flight at the current arrival."""
        return float(self._arrivals.in_flight[self._index])
