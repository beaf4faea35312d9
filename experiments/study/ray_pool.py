"""Runs the jobs of a study on a Ray cluster; inputs and bundles are sent as bytes.

The machines need this package installed, but no shared file system.
"""

import json
import socket
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import ray

from envs.errors import ConfigError
from experiments.study.data import Data
from experiments.study.job import RESULT, TRIES, Job, folder_of, from_json, run, to_json

Files = dict[str, bytes]
CONNECT_SECONDS = 5.0


def on_ray(data: Data, jobs: Sequence[Job], out: Path, address: str) -> Iterator[tuple[Job, str]]:
    """Yield each job as it ends, with its error message, or with "" if it succeeded.

    Ray retries the jobs of lost workers.

    Args:
        out: folder of the study; each job's files are written to the job's folder below it.
        address: HOST:PORT of the cluster's head node.

    Raises:
        ConfigError: no cluster answers at the address.
    """
    _require_cluster(address)
    ray.init(address=address, log_to_driver=False, logging_level="error")
    try:
        remote_job = ray.remote(num_cpus=1, max_retries=TRIES - 1)(worked)
        inputs = ray.put(_inputs(data))
        pending = {remote_job.remote(inputs, json.dumps(to_json(data, job))): job for job in jobs}
        while pending:
            finished, _ = ray.wait(list(pending), num_returns=1)
            job = pending.pop(finished[0])
            try:
                _write(ray.get(finished[0]), out / folder_of(data, job))
            except ray.exceptions.RayError as error:
                yield job, str(error).strip().splitlines()[-1]
            else:
                yield job, ""
    finally:
        ray.shutdown()


def _require_cluster(address: str) -> None:
    """Raise at once if nothing listens at the address; Ray itself would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"--ray {address}: give HOST:PORT of the cluster's head node")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise ConfigError(f"--ray {address}: no cluster answers there ({error})") from error


def worked(inputs: Files, payload: str) -> Files:
    """Run a job on the machine that executes this function; return the files of its folder.

    Args:
        inputs: profile and intensity files, from `_inputs`.
        payload: the data and the job as JSON text, from `to_json`.
    """
    data, job = from_json(json.loads(payload))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _write(inputs, folder / "inputs")
        local_data = replace(
            data,
            outcomes=folder / "inputs" / "outcomes.parquet",
            intensity=tuple(sorted((folder / "inputs").glob("*.csv"))),
        )
        run(local_data, job, folder / "out")
        return _read(folder / "out")


def _inputs(data: Data) -> Files:
    """Read the profile and all intensity CSVs."""
    files = {"outcomes.parquet": data.outcomes.read_bytes()}
    for path in data.intensity:
        for file in sorted(path.glob("*.csv")) if path.is_dir() else [path]:
            # Numbered, because files of two folders may have the same name.
            files[f"{len(files):03}-{file.name}"] = file.read_bytes()
    return files


def _read(folder: Path) -> Files:
    """Read all regular files below `folder`, by relative path; symbolic links are skipped."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def _write(files: Files, folder: Path) -> None:
    # RESULT is written last because it marks the other files as complete.
    for name, content in sorted(files.items(), key=lambda item: item[0] == RESULT):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
