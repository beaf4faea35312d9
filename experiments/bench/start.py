"""`sprout bench start`: seconds until `sprout serve` is ready."""

import statistics
from pathlib import Path

from pydantic import Field

from experiments.hook_process import start_hook
from experiments.settings import Settings, write_json


class StartBench(Settings):
    """Start the hook several times; time from the command to the first healthy answer, in s."""

    policy: Path = Field(description="policy bundle")
    starts: int = Field(5, ge=1, description="number of starts")
    json_path: Path | None = Field(
        None, alias="json", description="write the result as JSON to this file"
    )

    def cli_cmd(self) -> None:
        """Time each start, print the times and their median, and write the JSON result."""
        flags = ("--clock-start", "2024-01-02T00:00")
        seconds = []
        for _ in range(self.starts):
            # The hook becomes ready without an upstream, so nothing has to listen at this URL.
            with start_hook("http://127.0.0.1:9", self.policy, flags) as hook:
                seconds.append(hook.ready_seconds)
        listed = ", ".join(f"{s:.3f}" for s in seconds)
        print(f"ready after {listed} s; median {statistics.median(seconds):.3f} s")
        write_json(self.json_path, {"schema": 1, "ready_seconds": seconds})
