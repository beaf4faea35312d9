"""The hook as a child process, for the demo, the benchmarks and the tests."""

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
    """Run `sprout serve` in front of `upstream` on a free port until the context ends.

    It steers, and by default holds no request out, because comparisons here use separate runs.

    Args:
        upstream: URL of the LLM server.
        policy: folder of the policy bundle.
        flags: more flags of `sprout serve`.
        log: file for the hook's output; None makes a temporary file.
        hold_out_ratio: share of conversations kept at L0.
        admin_port: port of metrics and settings; 0 takes any free one.

    Raises:
        UpstreamError: the hook did not become healthy; the message quotes its last line of output.
    """
    port = free_port()
    command = [sys.executable, "-P", "-m", "experiments.cli", "serve"]
    command += ["--upstream", upstream, "--policy", str(policy), "--port", str(port)]
    steering = ("--mode", "on", "--hold-out", str(hold_out_ratio))
    with (
        tempfile.TemporaryDirectory(prefix="sprout-serve-") as state,
        start_process(
            "the hook",
            [*command, "--admin-port", str(admin_port), "--state", state, *steering, *flags],
            loopback(port, "/healthz"),
            log=log,
            # The caller's own SPROUT_* settings must not change the hook.
            environment={k: v for k, v in os.environ.items() if not k.startswith("SPROUT_")},
            start_seconds=30,
        ) as hook,
    ):
        yield hook
