"""Random requests of a workload, equally likely or by a mix of tasks."""

import numpy as np

from envs.arrays import Float64Array, Int64Array, StrArray
from envs.requests.mix import Mix


class Draws:
    """Maps uniform random numbers to requests, equally likely or by a mix of tasks.

    Args:
        tasks: task of each request, shape (n,).
        mix: shares of tasks by hour; None for equally likely requests.
    """

    def __init__(self, tasks: StrArray, mix: Mix | None) -> None:
        names, counts = np.unique(tasks, return_counts=True)
        self._order = np.argsort(tasks, kind="stable")
        self._counts = counts
        self._firsts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        self._mix = None if mix is None else mix.aligned([str(name) for name in names])

    def rows(
        self, task_chance: Float64Array, prompt_chance: Float64Array, hours: Int64Array
    ) -> Int64Array:
        """Return the index of n requests, for random numbers in 0..1 and hours of the trace.

        Every array has shape (n,).
        """
        if self._mix is None:
            return (prompt_chance * len(self._order)).astype(np.int64)
        edges = np.cumsum(self._mix.at(hours), axis=1)
        edges /= edges[:, -1:]
        task = (task_chance[:, None] >= edges).sum(axis=1)
        offset = (prompt_chance * self._counts[task]).astype(np.int64)
        rows: Int64Array = self._order[self._firsts[task] + offset]
        return rows
