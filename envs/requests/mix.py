"""Workload mixes: the share of each task in the requests, hour by hour."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from envs.arrays import Float64Array, Int64Array
from envs.csv_file import read_csv, read_number
from envs.errors import DataError

# SPROUT draws new shares every N(24, 4.8) hours (Li et al., 2024, section 5.1).
BLOCK_HOURS_MEAN, BLOCK_HOURS_DEVIATION = 24.0, 4.8
SUM_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Mix:
    """Shares of tasks by hour. The mix repeats after its last hour.

    Attributes:
        tasks: T task names.
        shares: shape (hours, T); each row sums to 1.
    """

    tasks: tuple[str, ...]
    shares: Float64Array

    def at(self, hours: Int64Array) -> Float64Array:
        """Return the shares at n hours since the mix's start, shape (n, T)."""
        return self.shares[hours % len(self.shares)]

    def aligned(self, tasks: Sequence[str], source: str = "the mix") -> "Mix":
        """Return the mix with its columns in the order of `tasks`; new tasks get a share of 0.

        Args:
            source: origin of the mix; it begins the error message.

        Raises:
            DataError: the mix gives a share to a task that is not among `tasks`.
        """
        columns = {task: self.shares[:, i] for i, task in enumerate(self.tasks)}
        extra = sorted(t for t in columns if t not in tasks and columns[t].any())
        if extra:
            raise DataError(
                source, f"task {extra[0]!r} has no requests", f"tasks are {', '.join(tasks)}"
            )
        empty = np.zeros(len(self.shares))
        return Mix(tuple(tasks), np.stack([columns.get(t, empty) for t in tasks], axis=1))


def uniform_mix(tasks: Sequence[str]) -> Mix:
    """Return a mix that gives every task the same share at all hours."""
    return Mix(tuple(tasks), np.full((1, len(tasks)), 1 / len(tasks)))


def fixed_mix(shares: Mapping[str, float]) -> Mix:
    """Return a mix with the same shares at all hours, scaled to sum to 1."""
    values = np.array([list(shares.values())], dtype=np.float64)
    if not np.isfinite(values).all() or values.min() < 0 or values.sum() <= 0:
        raise ValueError(f"shares {dict(shares)}: give numbers of 0 or more, not all 0")
    return Mix(tuple(shares), values / values.sum())


def read_mix(path: Path) -> Mix:
    """Read a CSV with a column `hour` (0, 1, 2, ...) and one column of shares per task.

    Raises:
        DataError: hours do not count up from 0, a share is not a number of 0 or more, or a row
            does not sum to 1. The message names the file, row and field.
    """
    header, rows = _table(path)
    if header[:1] != ["hour"] or len(header) < 2:
        raise DataError(path, f"columns {header}", "give hour,TASK,TASK,...")
    tasks = tuple(header[1:])
    shares = np.array([_numbers(path, n, header, row) for n, row in enumerate(rows, 2)])
    if (shares[:, 0] != np.arange(len(shares))).any():
        row = int(np.flatnonzero(shares[:, 0] != np.arange(len(shares)))[0])
        raise DataError(path, f"row {row + 2} hour is {shares[row, 0]:g}", f"give hour {row}")
    shares = shares[:, 1:]
    wrong = np.flatnonzero(abs(shares.sum(axis=1) - 1) > SUM_TOLERANCE)
    if wrong.size:
        total = shares[wrong[0]].sum()
        raise DataError(path, f"row {wrong[0] + 2} sums to {total:g}", "shares must sum to 1")
    return Mix(tasks, shares / shares.sum(axis=1, keepdims=True))


def read_job_counts(path: Path, column: str = "job_name") -> Float64Array:
    """Read hourly job counts of a cluster trace from one column of a CSV, shape (hours,).

    Raises:
        DataError: the column is missing or a count is not a positive number.
    """
    header, rows = _table(path)
    if column not in header:
        raise DataError(path, f"column {column!r} is missing", f"columns are {header}")
    index = header.index(column)
    counts = np.array(
        [_numbers(path, n, [column], row[index : index + 1])[0] for n, row in enumerate(rows, 2)]
    )
    if counts.min() <= 0:
        row = int(counts.argmin())
        raise DataError(path, f"row {row + 2} {column} is {counts[row]:g}", "give counts above 0")
    return counts


def mix_from_job_counts(counts: Float64Array, tasks: Sequence[str], hours: int, seed: int) -> Mix:
    """Return a random mix constructed like SPROUT's, from the job counts of a cluster.

    Each task reads the job series from its own random start row. The tasks' counts, scaled to
    sum to 1, are their shares. Every N(24, 4.8) hours, all tasks move on by one row. (The
    published mix reads the series of Alibaba's PAI trace in this way, from rows 684, 559, 835,
    763, 1033 and 277.)

    Args:
        counts: jobs per hour, from `read_job_counts`.
        tasks: task names.
        hours: length of the mix, h.
        seed: seed of the starts and block lengths.
    """
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, len(counts), len(tasks))
    lengths: list[int] = []
    while sum(lengths) < hours:
        lengths.append(max(1, round(rng.normal(BLOCK_HOURS_MEAN, BLOCK_HOURS_DEVIATION))))
    blocks = np.repeat(np.arange(len(lengths)), lengths)[:hours]
    jobs = counts[(starts[None, :] + blocks[:, None]) % len(counts)]
    return Mix(tuple(tasks), jobs / jobs.sum(axis=1, keepdims=True))


def _table(path: Path) -> tuple[list[str], list[list[str]]]:
    table = read_csv(path, "give a CSV")
    if not table.rows:
        raise DataError(path, "holds no rows", "give a header and at least one row")
    return table.header, table.rows


def _numbers(path: Path, number: int, header: list[str], row: list[str]) -> list[float]:
    values = []
    for name, text in zip(header, row, strict=True):
        try:
            value = read_number(text)
        except ValueError:
            value = float("nan")
        if not 0 <= value < float("inf"):
            raise DataError(path, f"row {number} {name} is {text!r}", "give a number, 0 or more")
        values.append(value)
    return values
