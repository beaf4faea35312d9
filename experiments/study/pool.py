"""Runs the jobs of a study: in local processes, one per job, or on a Ray cluster."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from envs.errors import ConfigError
from experiments.processes import die_with_parent, last_line
from experiments.study.data import Data
from experiments.study.job import TRIES, Job, folder_of, is_done, to_json

LOG = "train.log"
# The job itself refused its input, so a retry would fail in the same way.
REFUSED_EXIT_STATUS = 3


class FailedError(Exception):
    """A job did not finish; the message says why."""


def train_all(
    data: Data, jobs: Sequence[Job], out: Path, workers: int, ray_address: str | None = None
) -> None:
    """Train every job that has not finished yet; each writes to its own folder below `out`.

    Finished jobs are kept even if others fail; calling this function again trains the rest.

    Args:
        workers: number of local processes that train at the same time.
        ray_address: HOST:PORT of a Ray cluster to train on; None trains locally.

    Raises:
        ConfigError: at least one job failed; raised after all the others have finished.
    """
    missing = [job for job in jobs if not is_done(out, data, job)]
    failures = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn()) as progress:
        bar = progress.add_task("train", total=len(jobs), completed=len(jobs) - len(missing))
        for job, problem in _finished(data, missing, out, workers, ray_address):
            progress.advance(bar)
            if not problem and not is_done(out, data, job):
                problem = "its input files changed while it trained"
            if problem:
                failures.append(f"{job.name}: {problem}")
                progress.console.print(f"[red]failed[/] {failures[-1]}")
    if failures:
        raise ConfigError(
            f"{len(failures)} of {len(jobs)} trainings failed, first {failures[0]}; the finished "
            f"ones are kept in {out}: run the same command again to train the rest"
        )


def _finished(
    data: Data, jobs: Sequence[Job], out: Path, workers: int, ray_address: str | None
) -> Iterable[tuple[Job, str]]:
    """Yield each job as it ends, with its error message, or with "" if it succeeded."""
    if ray_address is None:
        return _in_local_processes(data, jobs, out, workers)
    from experiments.study.ray_pool import on_ray

    return on_ray(data, jobs, out, ray_address)


def _in_local_processes(
    data: Data, jobs: Sequence[Job], out: Path, workers: int
) -> Iterator[tuple[Job, str]]:
    pool = ThreadPoolExecutor(workers)
    try:
        job_of_future = {
            pool.submit(_train_one, data, job, out / folder_of(data, job)): job for job in jobs
        }
        for future in as_completed(job_of_future):
            error = future.exception()
            if error is not None and not isinstance(error, FailedError):
                raise error
            yield job_of_future[future], str(error or "")
    finally:
        pool.shutdown(cancel_futures=True)


def _train_one(data: Data, job: Job, folder: Path) -> None:
    """Run a job in its own process, so that a crash there cannot harm the other jobs.

    Raises:
        FailedError: the job refused its input, or all `TRIES` attempts failed.
    """
    payload = json.dumps(to_json(data, job)).encode()
    for _ in range(TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        log = folder / LOG
        with log.open("wb") as stream:
            process = subprocess.run(
                [sys.executable, "-m", "experiments.study.worker", str(folder)],
                input=payload,
                stdout=stream,
                stderr=subprocess.STDOUT,
                # One thread per job: as many jobs run at once as there are cores.
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                preexec_fn=die_with_parent,
                check=False,
            )
        if process.returncode == 0:
            return
        if process.returncode == REFUSED_EXIT_STATUS:
            break
    raise FailedError(f"{last_line(log)} (exit status {process.returncode}, log {log})")
