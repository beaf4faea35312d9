"""Runs a study's jobs: here, each in a process of its own, or on a Ray cluster."""

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
from experiments.study.job import TRIES, Data, Job, is_done, to_json

LOG = "train.log"
# Refused by a job itself, as wrong data: the same again would be refused again.
REFUSED_EXIT_STATUS = 3


class FailedError(Exception):
    """A job did not finish; says why."""


def train_all(
    data: Data, jobs: Sequence[Job], out: Path, workers: int, ray_address: str | None = None
) -> None:
    """Train every job that has not finished yet, into its folder below `out`.

    What has finished stays, whatever happens to the others; the same call goes on.

    Raises:
        ConfigError: some jobs failed, after the others have finished.
    """
    left = [job for job in jobs if not is_done(out / job.name, job)]
    failures = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn()) as progress:
        bar = progress.add_task("train", total=len(jobs), completed=len(jobs) - len(left))
        for job, problem in _finished(data, left, out, workers, ray_address):
            progress.advance(bar)
            if problem:
                failures.append(f"{job.name}: {problem}")
                progress.console.print(f"[red]failed[/] {failures[-1]}")
    if failures:
        raise ConfigError(
            f"{len(failures)} of {len(jobs)} trainings failed, first {failures[0]}; the others "
            f"are kept in {out}: the same command goes on with what is missing"
        )


def _finished(
    data: Data, jobs: Sequence[Job], out: Path, workers: int, ray_address: str | None
) -> Iterable[tuple[Job, str]]:
    """Jobs as they finish, with what was wrong or an empty text."""
    if ray_address is None:
        return _here(data, jobs, out, workers)
    from experiments.study.ray_pool import on_ray

    return on_ray(data, jobs, out, ray_address)


def _here(data: Data, jobs: Sequence[Job], out: Path, workers: int) -> Iterator[tuple[Job, str]]:
    pool = ThreadPoolExecutor(workers)
    try:
        waiting = {pool.submit(_one, data, job, out / job.name): job for job in jobs}
        for done in as_completed(waiting):
            error = done.exception()
            if error is not None and not isinstance(error, FailedError):
                raise error
            yield waiting[done], str(error or "")
    finally:
        pool.shutdown(cancel_futures=True)


def _one(data: Data, job: Job, folder: Path) -> None:
    """One job in a process of its own, so that nothing that happens there harms the others."""
    written = json.dumps(to_json(data, job)).encode()
    for _ in range(TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        log = folder / LOG
        with log.open("wb") as stream:
            done = subprocess.run(
                [sys.executable, "-m", "experiments.study.worker", str(folder)],
                input=written,
                stdout=stream,
                stderr=subprocess.STDOUT,
                # One thread a job: there are as many jobs as cores.
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                preexec_fn=die_with_parent,
                check=False,
            )
        if done.returncode == 0:
            return
        if done.returncode == REFUSED_EXIT_STATUS:
            break
    raise FailedError(f"{last_line(log)} (exit {done.returncode}, log {log})")
