"""On a real cluster of two machines' worth of workers, started here."""

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
from experiments.study.job import is_done
from tests.experiments.study.test_study import data, jobs, untracked  # noqa: F401

RAY = Path(sys.executable).parent / "ray"


@pytest.fixture(scope="module")
def cluster():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    quiet = ["--num-cpus=1", "--disable-usage-stats"]
    head = ["start", "--head", f"--port={port}", "--include-dashboard=false"]
    # Workers import the tree under test, wherever the tests were started.
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    for command in ([*head, *quiet], ["start", f"--address=127.0.0.1:{port}", *quiet]):
        subprocess.run([RAY, *command], check=True, capture_output=True, env=environment)
    yield f"127.0.0.1:{port}"
    subprocess.run([RAY, "stop", "--force"], check=True, capture_output=True)


@pytest.mark.cluster
def test_a_cluster_trains_what_this_machine_does(data, tmp_path, cluster):  # noqa: F811
    pool.train_all(data, jobs(2), tmp_path / "here", workers=2)
    pool.train_all(data, jobs(2), tmp_path / "there", workers=2, ray_address=cluster)
    for job in jobs(2):
        assert is_done(tmp_path / "there" / job.name, job)
        here, there = (tmp_path / place / job.name for place in ("here", "there"))
        for name in ("policy.safetensors", "vocabulary.json"):
            assert (here / name).read_bytes() == (there / name).read_bytes()


@pytest.mark.cluster
def test_a_killed_workers_run_is_tried_again(data, tmp_path, cluster):  # noqa: F811
    out = tmp_path / "out"
    killed = []

    def kill() -> None:
        deadline = time.monotonic() + 60
        while not killed and time.monotonic() < deadline:
            for process in psutil.process_iter(["name", "cmdline"]):
                # Ray names a process after the task that it runs.
                if "ray::worked" in " ".join(process.info["cmdline"] or ()):
                    time.sleep(1.0)
                    os.kill(process.pid, signal.SIGKILL)
                    killed.append(process.pid)
                    break
            time.sleep(0.05)

    killer = threading.Thread(target=kill)
    killer.start()
    pool.train_all(data, jobs(3, steps=200_000), out, workers=2, ray_address=cluster)
    killer.join()
    assert killed
    assert all(is_done(out / job.name, job) for job in jobs(3, steps=200_000))


def test_a_cluster_that_is_not_there_is_named(data, tmp_path):  # noqa: F811
    with pytest.raises(ConfigError, match=r"--ray 127\.0\.0\.1:9: no cluster"):
        pool.train_all(data, jobs(1), tmp_path, workers=1, ray_address="127.0.0.1:9")
