"""The hook as a child process, as the demo, the benchmarks and the tests start it."""

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from experiments.processes import ChildProcess, free_port, loopback, start_process


@contextmanager
def start_hook(
    upstream: str,
    policy: Path,
    flags: Sequence[str] = (),
    log: Path | None = None,
    hold_out_ratio: float = 0.0,
    admin_port: int = 0,
) -> Iterator[ChildProcess]:
    """`sprout serve` in front of `upstream` on a free port while the context lasts.

    By default nothing is held out: what is compared here is compared with runs of its own.

    Raises:
        UpstreamError: it did not become healthy; quotes its last line.
    """
    port = free_port()
    command = [sys.executable, "-P", "-m", "experiments.cli", "serve"]
    held = ("--hold-out", str(hold_out_ratio))
    given = ["--upstream", upstream, "--policy", str(policy), "--port", str(port)]
    with (
        tempfile.TemporaryDirectory(prefix="sprout-serve-") as state,
        start_process(
            "the hook",
            [*command, *given, "--admin-port", str(admin_port), "--state", state, *held, *flags],
            loopback(port, "/healthz"),
            log=log,
            # Its flags say it all: settings meant for the caller must not change it.
            environment={k: v for k, v in os.environ.items() if not k.startswith("SPROUT_")},
            start_seconds=30,
        ) as started,
    ):
        yield started
