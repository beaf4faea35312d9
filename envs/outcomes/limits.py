"""Optional limits on a task's latency."""

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
    """A task's answers are to take at most so long; None is no limit.

    Attributes:
        mean_seconds: on average.
        p95_seconds: all but one in twenty.
    """

    mean_seconds: float | None = None
    p95_seconds: float | None = None


def read_limits(path: Path, tasks: Sequence[str]) -> dict[str, Limit]:
    """Limits by task from YAML.

    Raises:
        DataError: naming the task and field that is wrong.
    """
    rows = read_yaml(path, REMEDY)
    if not isinstance(rows, Mapping):
        raise DataError(path, "no mapping of tasks", REMEDY)
    return {str(task): _limit(path, str(task), row, tasks) for task, row in rows.items()}


def _limit(path: Path, task: str, row: Any, tasks: Sequence[str]) -> Limit:
    if task not in tasks:
        raise DataError(path, f"no task {task!r}", f"tasks are {', '.join(tasks)}")
    if not isinstance(row, Mapping) or not row or set(row) - set(FIELDS):
        raise DataError(path, f"{task}: {row!r}", REMEDY)
    for field, value in row.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise DataError(path, f"{task}.{field} {value!r}", "give seconds above 0")
    return Limit(row.get("mean"), row.get("p95"))
