"""`sprout serve`: the hook."""

from pathlib import Path

from pydantic import Field

from experiments.fetch import bundle_folder
from experiments.settings import Settings
from serving.server import serve


class Serve(Settings):
    """Put the hook in front of an OpenAI-compatible Llama server."""

    upstream: str = Field(description="the server's URL, e.g. http://127.0.0.1:8000")
    policy: str = Field(description="policy bundle: a folder, or wandb:ENTITY/PROJECT/NAME:ALIAS")
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8080, ge=0, le=65535, description="0 takes a free one")
    intensity: Path | None = Field(None, description="CSV trace; default the synthetic day")
    zone: str | None = Field(None, description="zone of the trace")
    clock_start: str | None = Field(None, description="experiment: ISO time the clock starts at")
    clock_speed: float = Field(1.0, gt=0, description="experiment: clock seconds per second")
    seed: int | None = Field(None, description="seed of the policy's sampling")

    def cli_cmd(self) -> None:
        """Serve until interrupted."""
        serve(
            self.upstream,
            bundle_folder(self.policy),
            host=self.host,
            port=self.port,
            intensity=self.intensity,
            zone=self.zone,
            clock_start=self.clock_start,
            clock_speed=self.clock_speed,
            seed=self.seed,
        )
