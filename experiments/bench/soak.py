"""`sprout bench soak`: a long run of the hook under load, with a new bundle every minute."""

import shutil
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from pydantic import Field

from agents.policy.bundle import load_bundle
from agents.policy.bundle_files import MANIFEST
from experiments.bench import load
from experiments.bench.canned import canned
from experiments.hook_process import start_hook
from experiments.processes import HOST, free_port
from experiments.settings import Settings, write_json
from serving.ledger.database import Ledger

MINUTE = 60.0
# Memory growth is measured from this minute on, when the caches are filled.
WARM_MINUTES = 3
FEWEST_MINUTES = 2 * WARM_MINUTES


@dataclass(frozen=True)
class ProcessResources:
    """Memory and open files of the hook's processes.

    Attributes:
        worker_bytes: resident memory of all workers, bytes.
        parent_bytes: resident memory of the parent process, bytes.
        files: open file descriptors of the parent and its workers.
    """

    worker_bytes: int
    parent_bytes: int
    files: int


class SoakBench(Settings):
    """Load the hook at half its capacity, in front of a canned upstream, with every feature on.

    The run fails at the first answer that is not a 200 and at the first closed connection.
    """

    policy: Path = Field(description="policy bundle")
    minutes: int = Field(30, ge=FEWEST_MINUTES, description="length of the run")
    connections: int = Field(32, ge=1, description="connections to the hook")
    json_path: Path | None = Field(
        None, alias="json", description="write the result as JSON to this file"
    )

    def cli_cmd(self) -> None:
        """Measure the capacity, run at half of it, print and write the JSON result."""
        with tempfile.TemporaryDirectory() as folder, canned() as upstream:
            bundle, database = Path(folder) / "bundle", f"sqlite:///{folder}/ledger.db"
            shutil.copytree(self.policy, bundle)
            model, admin = load_bundle(bundle).model, free_port()
            flags = ("--clock-start", "2024-01-02T00:00", "--ledger", database)
            with start_hook(
                upstream.url, bundle, flags, hold_out_ratio=0.05, admin_port=admin
            ) as hook:
                requests = load.chats(hook.url, model)
                capacity = load.run(hook.url, requests, self.connections, 10, kept=True)
                with _watched(hook.process.pid, bundle) as resources:
                    soak = load.run(
                        hook.url,
                        requests,
                        self.connections,
                        self.minutes * MINUTE,
                        capacity.per_second / 2,
                        kept=True,
                    )
                bundle_loads = _metric(admin, 'sprout_bundle_loads_total{result="loaded"}')
                unrecorded = _metric(admin, "sprout_unrecorded_total")
                failed_open = _metric(admin, "sprout_fail_open_total")
            ledger = Ledger(database)
            recorded = sum(1 for _ in ledger.rows(["decision_id"]))
            ledger.close()
        slices = np.array_split(soak.latencies, self.minutes)
        warm, last = resources[WARM_MINUTES - 1], resources[-1]
        result: dict[str, Any] = {
            "capacity_per_second": capacity.per_second,
            "per_second": soak.per_second,
            "requests": len(soak.latencies),
            "bundle_loads": bundle_loads,
            "failed_open": failed_open,
            "unrecorded": unrecorded,
            "not_in_ledger": len(capacity.latencies) + len(soak.latencies) - recorded,
            "worker_growth_pct": _growth(warm.worker_bytes, last.worker_bytes),
            "parent_growth_pct": _growth(warm.parent_bytes, last.parent_bytes),
            "median_ms": [1e3 * float(np.median(part)) for part in slices],
            "p99_ms": [1e3 * float(np.quantile(part, 0.99)) for part in slices],
            "held": [asdict(sample) for sample in resources],
        }
        self._print(result, resources)
        write_json(self.json_path, {"schema": 1, **result})

    def _print(self, result: dict[str, Any], resources: list[ProcessResources]) -> None:
        heads = ("median ms", "p99 ms", "worker MB", "parent MB", "files")
        print(f"{'minute':<8}" + "".join(f"{head:>11}" for head in heads))
        rows = zip(result["median_ms"], result["p99_ms"], resources, strict=False)
        for minute, (median, p99, sample) in enumerate(rows, 1):
            sizes = f"{sample.worker_bytes / 1e6:>11.1f}{sample.parent_bytes / 1e6:>11.1f}"
            print(f"{minute:<8}{median:>11.2f}{p99:>11.2f}{sizes}{sample.files:>11}")
        print(
            f"{result['requests']:,} requests at {result['per_second']:,.0f}/s, half of "
            f"{result['capacity_per_second']:,.0f}/s; {result['bundle_loads']:.0f} bundles loaded, "
            f"{result['failed_open']:.0f} failed open, {result['unrecorded']:.0f} unrecorded, "
            f"{result['not_in_ledger']} not in the ledger\n"
            f"memory since minute {WARM_MINUTES}: worker {result['worker_growth_pct']:+.1f}%, "
            f"parent {result['parent_growth_pct']:+.1f}%; open files "
            f"{min(r.files for r in resources)} to {max(r.files for r in resources)}"
        )


@contextmanager
def _watched(pid: int, bundle: Path) -> Iterator[list[ProcessResources]]:
    """Sample the resources of process `pid` and its workers each minute; then renew the bundle.

    The samples are complete, with one more at the end, when the context has ended.
    """
    resources: list[ProcessResources] = []
    done = threading.Event()

    def watch() -> None:
        """Sample and renew the bundle each minute until the context ends."""
        manifest = bundle / MANIFEST
        while not done.wait(MINUTE):
            resources.append(_resources(pid))
            # Another byte in the manifest gives the same policy a new version, to be loaded.
            draft = manifest.with_suffix(".new")
            draft.write_text(manifest.read_text() + "\n")
            draft.replace(manifest)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield resources
    finally:
        done.set()
        thread.join()
    resources.append(_resources(pid))


def _resources(pid: int) -> ProcessResources:
    parent = psutil.Process(pid)
    workers = parent.children(recursive=True)
    return ProcessResources(
        sum(worker.memory_info().rss for worker in workers),
        parent.memory_info().rss,
        sum(process.num_fds() for process in (parent, *workers)),
    )


def _growth(before: int, after: int) -> float:
    """Return the growth in percent."""
    return 100 * (after / before - 1)


def _metric(port: int, name: str) -> float:
    """Return the sum of the metrics whose name and labels start with `name`."""
    with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))
