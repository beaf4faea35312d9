"""Studies on a real Ray cluster of two nodes, which the tests start on this machine."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from envs.errors import ConfigError
from experiments.study import pool
from experiments.study.job import folder_of, is_done
from tests.experiments.study.test_study import data, jobs, untracked  # noqa: F401

RAY = Path(sys.executable).parent / "ray"


@pytest.fixture(scope="module")
def cluster():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    quiet = ["--num-cpus=1", "--disable-usage-stats"]
    head = ["start", "--head", f"--port={port}", "--include-dashboard=false"]
    # Workers import the tree under test, whatever folder the tests were started from.
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    for command in ([*head, *quiet], ["start", f"--address=127.0.0.1:{port}", *quiet]):
        subprocess.run([RAY, *command], check=True, capture_output=True, env=environment)
    yield f"127.0.0.1:{port}"
    subprocess.run([RAY, "stop", "--force"], check=True, capture_output=True)


@pytest.mark.cluster
def test_a_cluster_trains_the_same_bundles_as_this_machine(data, tmp_path, cluster):  # noqa: F811
    pool.train_all(data, jobs(2), tmp_path / "here", workers=2)
    pool.train_all(data, jobs(2), tmp_path / "there", workers=2, ray_address=cluster)
    for job in jobs(2):
        assert is_done(tmp_path / "there", data, job)
        local_folder, cluster_folder = (
            tmp_path / place / folder_of(data, job) for place in ("here", "there")
        )
        for name in ("policy.safetensors", "vocabulary.json"):
            assert (local_folder / name).read_bytes() == (cluster_folder / name).read_bytes()


@pytest.mark.cluster
def test_the_run_of_a_killed_worker_is_tried_again(data, tmp_path, cluster):  # noqa: F811
    out = tmp_path / "out"
    killed_pids = []

    def kill() -> None:
        deadline = time.monotonic() + 60
        while not killed_pids and time.monotonic() < deadline:
            for process in psutil.process_iter(["name", "cmdline"]):
                # Ray names a worker process after the task that it runs.
                if "ray::worked" in " ".join(process.info["cmdline"] or ()):
                    time.sleep(1.0)
                    os.kill(process.pid, signal.SIGKILL)
                    killed_pids.append(process.pid)
                    break
            time.sleep(0.05)

    killer = threading.Thread(target=kill)
    killer.start()
    pool.train_all(data, jobs(3, steps=200_000), out, workers=2, ray_address=cluster)
    killer.join()
    assert killed_pids
    assert all(is_done(out, data, job) for job in jobs(3, steps=200_000))


def test_an_unreachable_cluster_is_named_in_the_error(data, tmp_path):  # noqa: F811
    with pytest.raises(ConfigError, match=r"--ray 127\.0\.0\.1:9: no cluster"):
        pool.train_all(data, jobs(1), tmp_path, workers=1, ray_address="127.0.0.1:9")
