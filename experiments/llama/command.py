"""`sprout llama` serves a Llama model; `sprout pretrain` trains the embedded one."""

from pathlib import Path

from pydantic import Field

from envs.errors import UpstreamError
from experiments.llama.server import EMBEDDED, llama_server
from experiments.processes import last_line
from experiments.settings import Settings
from serving.settings.hook import CommaSeparated


class Llama(Settings):
    """Start a live, OpenAI-compatible Llama server on loopback; Ctrl-C stops it."""

    model: str = Field(str(EMBEDDED), description="folder with weights or Hugging Face name")
    engine: str = Field("transformers", description="transformers, or vllm if it is installed")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    device: str = Field("auto", description="auto, cpu or cuda")
    middleware: CommaSeparated = Field(
        [],
        description="import path of ASGI middleware, e.g. serving.middleware.SproutMiddleware, "
        "which takes its settings from SPROUT_* variables",
    )

    def cli_cmd(self) -> None:
        """Run until interrupted."""
        with llama_server(
            self.model,
            engine=self.engine,
            port=self.port,
            device=self.device,
            middleware=self.middleware,
        ) as server:
            print(
                f"serving model {server.model} at {server.url} (log: {server.child.log})",
                flush=True,
            )
            server.child.process.wait()
            raise UpstreamError(f"the Llama server has ended: {last_line(server.child.log)}")


class Pretrain(Settings):
    """Train the embedded Llama from scratch on generated tasks (CPU, about 30 minutes)."""

    out: Path = Field(Path("runs/sprout-llama-2m"), description="folder for model and tokenizer")
    steps: int = Field(4800, ge=1, description="batches of 4,096 tokens")
    seed: int = 0

    def cli_cmd(self) -> None:
        """Train and write the model."""
        from experiments.llama.pretrain import pretrain

        pretrain(self.out, steps=self.steps, seed=self.seed)
