"""`sprout bench start`: how long `sprout serve` takes until it is ready."""

import statistics
from pathlib import Path

from pydantic import Field

from experiments.hook_process import start_hook
from experiments.settings import Settings, write_json


class StartBench(Settings):
    """Start the hook several times; seconds from the command to the first healthy answer."""

    policy: Path = Field(description="policy bundle")
    starts: int = Field(5, ge=1)
    json_path: Path | None = Field(None, alias="json", description="also write the result here")

    def cli_cmd(self) -> None:
        """Measure and print."""
        flags = ("--clock-start", "2024-01-02T00:00")
        seconds = []
        for _ in range(self.starts):
            # No upstream is needed to become ready.
            with start_hook("http://127.0.0.1:9", self.policy, flags) as started:
                seconds.append(started.ready_seconds)
        listed = ", ".join(f"{s:.3f}" for s in seconds)
        print(f"ready after {listed} s; median {statistics.median(seconds):.3f} s")
        write_json(self.json_path, {"schema": 1, "ready_seconds": seconds})
