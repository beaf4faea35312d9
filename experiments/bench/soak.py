"""`sprout bench soak`: the hook under load for long, its bundle loaded anew each minute."""

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
# By then caches are filled.
WARM_MINUTES = 3
FEWEST_MINUTES = 2 * WARM_MINUTES


@dataclass(frozen=True)
class ProcessResources:
    """What the hook's processes hold: bytes in memory and open files."""

    worker_bytes: int
    parent_bytes: int
    files: int


class SoakBench(Settings):
    """A canned upstream, half of the requests/s that the hook can answer, everything on.

    Fails at the first answer that is not 200, and at the first connection that is closed.
    """

    policy: Path = Field(description="policy bundle")
    minutes: int = Field(30, ge=FEWEST_MINUTES)
    connections: int = Field(32, ge=1)
    json_path: Path | None = Field(None, alias="json", description="machine-readable result")

    def cli_cmd(self) -> None:
        """Run, print, write."""
        with tempfile.TemporaryDirectory() as folder, canned() as upstream:
            bundle, database = Path(folder) / "bundle", f"sqlite:///{folder}/ledger.db"
            shutil.copytree(self.policy, bundle)
            model, admin = load_bundle(bundle).model, free_port()
            flags = ("--clock-start", "2024-01-02T00:00", "--ledger", database)
            with start_hook(
                upstream.url, bundle, flags, hold_out_ratio=0.05, admin_port=admin
            ) as started:
                requests = load.chats(started.url, model)
                most = load.run(started.url, requests, self.connections, 10, kept=True)
                with _watched(started.process.pid, bundle) as held:
                    found = load.run(
                        started.url,
                        requests,
                        self.connections,
                        self.minutes * MINUTE,
                        most.per_second / 2,
                        kept=True,
                    )
                loads = _metric(admin, 'sprout_bundle_loads_total{result="loaded"}')
                missing = _metric(admin, "sprout_unrecorded_total")
                failed = _metric(admin, "sprout_fail_open_total")
            ledger = Ledger(database)
            kept = sum(1 for _ in ledger.rows(["decision_id"]))
            ledger.close()
        slices = np.array_split(found.latencies, self.minutes)
        warm, last = held[WARM_MINUTES - 1], held[-1]
        result: dict[str, Any] = {
            "capacity_per_second": most.per_second,
            "per_second": found.per_second,
            "requests": len(found.latencies),
            "bundle_loads": loads,
            "failed_open": failed,
            "unrecorded": missing,
            "not_in_ledger": len(most.latencies) + len(found.latencies) - kept,
            "worker_growth_pct": _growth(warm.worker_bytes, last.worker_bytes),
            "parent_growth_pct": _growth(warm.parent_bytes, last.parent_bytes),
            "median_ms": [1e3 * float(np.median(part)) for part in slices],
            "p99_ms": [1e3 * float(np.quantile(part, 0.99)) for part in slices],
            "held": [asdict(each) for each in held],
        }
        self._print(result, held)
        write_json(self.json_path, {"schema": 1, **result})

    def _print(self, result: dict[str, Any], held: list[ProcessResources]) -> None:
        heads = ("median ms", "p99 ms", "worker MB", "parent MB", "files")
        print(f"{'minute':<8}" + "".join(f"{head:>11}" for head in heads))
        rows = zip(result["median_ms"], result["p99_ms"], held, strict=False)
        for minute, (median, p99, each) in enumerate(rows, 1):
            sizes = f"{each.worker_bytes / 1e6:>11.1f}{each.parent_bytes / 1e6:>11.1f}"
            print(f"{minute:<8}{median:>11.2f}{p99:>11.2f}{sizes}{each.files:>11}")
        print(
            f"{result['requests']:,} requests at {result['per_second']:,.0f}/s, half of "
            f"{result['capacity_per_second']:,.0f}/s; {result['bundle_loads']:.0f} bundles loaded, "
            f"{result['failed_open']:.0f} failed open, {result['unrecorded']:.0f} unrecorded, "
            f"{result['not_in_ledger']} not in the ledger\n"
            f"memory since minute {WARM_MINUTES}: worker {result['worker_growth_pct']:+.1f}%, "
            f"parent {result['parent_growth_pct']:+.1f}%; files {min(h.files for h in held)} to "
            f"{max(h.files for h in held)}"
        )


@contextmanager
def _watched(pid: int, bundle: Path) -> Iterator[list[ProcessResources]]:
    """What process `pid` and its workers hold each minute, when it has a new bundle to load."""
    held: list[ProcessResources] = []
    done = threading.Event()

    def watch() -> None:
        """Look and renew each minute until it is done."""
        manifest = bundle / MANIFEST
        while not done.wait(MINUTE):
            held.append(_held(pid))
            # The same policy, of another version.
            draft = manifest.with_suffix(".new")
            draft.write_text(manifest.read_text() + "\n")
            draft.replace(manifest)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield held
    finally:
        done.set()
        thread.join()
    held.append(_held(pid))


def _held(pid: int) -> ProcessResources:
    parent = psutil.Process(pid)
    workers = parent.children(recursive=True)
    return ProcessResources(
        sum(worker.memory_info().rss for worker in workers),
        parent.memory_info().rss,
        sum(process.num_fds() for process in (parent, *workers)),
    )


def _growth(before: int, after: int) -> float:
    return 100 * (after / before - 1)


def _metric(port: int, name: str) -> float:
    with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))
