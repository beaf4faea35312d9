"""The reproduction's runs, one a sampling seed, side by side in processes."""

import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from envs.requests.mix import Mix, mix_from_job_counts
from experiments.reproduce.data import STARTS, ZONES, Data, read_data
from experiments.reproduce.methods import METHODS, clairvoyant, model_opt
from experiments.reproduce.window import HOURS, TableCell, draw, table_cell


class Run(NamedTuple):
    """One process's work: a sampling seed under a mix.

    Attributes:
        mix_seed: makes a random mix from the job counts; None takes the published one.
        methods: of `methods.METHODS`, or "clairvoyant", "model_opt".
    """

    seed: int
    mix_seed: int | None
    methods: tuple[str, ...]
    starts: tuple[int, ...] = STARTS
    xis: tuple[float, ...] = (0.1,)


class Row(NamedTuple):
    """A cell's figures in a run."""

    run: Run
    region: str
    start_hour: int
    method: str
    xi: float
    firings: int
    cell: TableCell


_METHODS = METHODS | {"clairvoyant": clairvoyant, "model_opt": model_opt}
_data: Data | None = None


def rows_of(folder: Path, runs: Sequence[Run], processes: int) -> Iterator[list[Row]]:
    """Each run's rows, as the runs finish."""
    # Not forked: the parent's numerical libraries have threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _load, (folder,)) as pool:
        for future in [pool.submit(_played, run) for run in runs]:
            yield future.result()


def _load(folder: Path) -> None:
    global _data
    _data = read_data(folder)


def _played(run: Run) -> list[Row]:
    if _data is None:
        raise RuntimeError("the process has not read its data")
    return list(played(_data, run))


def played(data: Data, run: Run) -> Iterable[Row]:
    """A run's rows."""
    mix = data.mix
    if run.mix_seed is not None:
        mix = mix_from_job_counts(data.jobs, data.mix.tasks, HOURS, run.mix_seed)
    sample = draw(data.profile, mix, run.seed)
    models = None
    if "model_opt" in run.methods:
        models = draw(data.models, _with_references(data, mix), run.seed, "correct")
    for region in ZONES:
        for start in run.starts:
            for xi in run.xis:
                window = data.window(sample, region, start, xi)
                for method in run.methods:
                    if method == "model_opt" and models is not None:
                        seen = data.window(models, region, start, xi)
                    else:
                        seen = window
                    outcome = _METHODS[method](seen)
                    yield Row(
                        run, region, start, method, xi, len(seen.fired), table_cell(seen, outcome)
                    )


def _with_references(data: Data, mix: Mix) -> Mix:
    """The mix without the tasks whose correctness is unknown."""
    known = [
        not np.isnan(data.profile.outcomes.correct[data.profile.rows_of(task)]).any()
        for task in mix.tasks
    ]
    shares = mix.shares * np.array(known)
    return Mix(mix.tasks, shares / shares.sum(axis=1, keepdims=True))
