"""Runs a study's jobs on a Ray cluster: inputs go out and bundles come back as bytes.

The machines need this package installed, and no common disk.
"""

import json
import socket
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import ray

from envs.errors import ConfigError
from experiments.study.job import RESULT, TRIES, Data, Job, from_json, run, to_json

Files = dict[str, bytes]
CONNECT_SECONDS = 5.0


def on_ray(data: Data, jobs: Sequence[Job], out: Path, address: str) -> Iterator[tuple[Job, str]]:
    """Jobs as they finish, with what was wrong or an empty text; lost workers' are retried.

    Raises:
        ConfigError: no cluster answers at the address.
    """
    _check(address)
    ray.init(address=address, log_to_driver=False, logging_level="error")
    try:
        work = ray.remote(num_cpus=1, max_retries=TRIES - 1)(worked)
        inputs = ray.put(_inputs(data))
        waiting = {work.remote(inputs, json.dumps(to_json(data, job))): job for job in jobs}
        while waiting:
            done, _ = ray.wait(list(waiting), num_returns=1)
            job = waiting.pop(done[0])
            try:
                _write(ray.get(done[0]), out / job.name)
            except ray.exceptions.RayError as error:
                yield job, str(error).strip().splitlines()[-1]
            else:
                yield job, ""
    finally:
        ray.shutdown()


def _check(address: str) -> None:
    """Ask at the door: Ray itself would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"--ray {address}: give HOST:PORT of the cluster's head")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise ConfigError(f"--ray {address}: no cluster answers there ({error})") from error


def worked(inputs: Files, written: str) -> Files:
    """A job's files, made on whatever machine this runs on."""
    data, job = from_json(json.loads(written))
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        _write(inputs, folder / "inputs")
        here = replace(
            data,
            outcomes=folder / "inputs" / "outcomes.parquet",
            intensity=tuple(sorted((folder / "inputs").glob("*.csv"))),
        )
        run(here, job, folder / "out")
        return _read(folder / "out")


def _inputs(data: Data) -> Files:
    files = {"outcomes.parquet": data.outcomes.read_bytes()}
    for path in data.intensity:
        for file in sorted(path.glob("*.csv")) if path.is_dir() else [path]:
            # Numbered: files of two folders may have the same name.
            files[f"{len(files):03}-{file.name}"] = file.read_bytes()
    return files


def _read(folder: Path) -> Files:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def _write(files: Files, folder: Path) -> None:
    # The result last: it says that the others are whole.
    for name, content in sorted(files.items(), key=lambda item: item[0] == RESULT):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
