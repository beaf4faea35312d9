"""Optional limits on the latency of a task's answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.errors import DataError
from envs.yaml_file import read_yaml

# Share of requests that may take longer than `p95_seconds`.
TAIL = 0.05
FIELDS = ("mean", "p95")
REMEDY = "give lines like TASK: {mean: 2.0, p95: 8.0}, in seconds; either may be left out"


@dataclass(frozen=True)
class Limit:
    """Latency limits of a task.

    Attributes:
        mean_seconds: limit of the mean latency, s; None for no limit.
        p95_seconds: limit that 95 % of the answers must keep, s; None for no limit.
    """

    mean_seconds: float | None = None
    p95_seconds: float | None = None


def read_limits(path: Path, tasks: Sequence[str]) -> dict[str, Limit]:
    """Read latency limits by task from a YAML file.

    Args:
        tasks: names of the known tasks.

    Raises:
        DataError: the file is wrong; the message names the task and field.
    """
    rows = read_yaml(path, REMEDY)
    if not isinstance(rows, Mapping):
        raise DataError(path, "is not a mapping of tasks", REMEDY)
    return {str(task): _limit(path, str(task), row, tasks) for task, row in rows.items()}


def _limit(path: Path, task: str, row: Any, tasks: Sequence[str]) -> Limit:
    if task not in tasks:
        raise DataError(path, f"unknown task {task!r}", f"tasks are {', '.join(tasks)}")
    if not isinstance(row, Mapping) or not row or set(row) - set(FIELDS):
        raise DataError(path, f"{task}: {row!r}", REMEDY)
    for field, value in row.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise DataError(path, f"{task}.{field} is {value!r}", "give seconds above 0")
    return Limit(row.get("mean"), row.get("p95"))
