"""The runs of the reproduction, one per sampling seed, in parallel processes."""

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
    """The work of one process: one sampling seed under one mix.

    Attributes:
        seed: seed with which prompts are drawn.
        mix_seed: seed of a random mix made from the job counts; None uses the published mix.
        methods: names from `methods.METHODS`, "clairvoyant" or "model_opt".
        starts: first hours of the windows.
        xis: tolerances of SPROUT's quality floor.
    """

    seed: int
    mix_seed: int | None
    methods: tuple[str, ...]
    starts: tuple[int, ...] = STARTS
    xis: tuple[float, ...] = (0.1,)


class Row(NamedTuple):
    """The results of one method in one window of one run; `firings` counts evaluations."""

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
    """Yield the rows of each run, in the order of `runs`."""
    # Spawned, because the numerical libraries of the parent have threads and must not be forked.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _load, (folder,)) as pool:
        for future in [pool.submit(_play_loaded, run) for run in runs]:
            yield future.result()


def _load(folder: Path) -> None:
    """Read the data once per process."""
    global _data
    _data = read_data(folder)


def _play_loaded(run: Run) -> list[Row]:
    if _data is None:
        raise RuntimeError("the worker process has not read its data; call _load first")
    return list(played(_data, run))


def played(data: Data, run: Run) -> Iterable[Row]:
    """Yield the run's rows: one per region, window, tolerance and method."""
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
                        judged = data.window(models, region, start, xi)
                    else:
                        judged = window
                    cell = table_cell(judged, _METHODS[method](judged))
                    yield Row(run, region, start, method, xi, len(judged.fired), cell)


def _with_references(data: Data, mix: Mix) -> Mix:
    """Return the mix with the tasks of unknown correctness set to 0 and the rest scaled up."""
    known = [
        not np.isnan(data.profile.outcomes.correct[data.profile.rows_of(task)]).any()
        for task in mix.tasks
    ]
    shares = mix.shares * np.array(known)
    return Mix(mix.tasks, shares / shares.sum(axis=1, keepdims=True))
