"""`sprout doctor`: what this machine has and lacks."""

import importlib.metadata
import os
import shutil
import sys

from rich.console import Console
from rich.table import Table

from envs.errors import MeterError
from envs.meters.nvml import NvmlMeter
from experiments.llama.server import EMBEDDED
from experiments.settings import Settings

PACKAGES = (
    *("numpy", "aiohttp", "uvicorn", "torch", "transformers", "gymnasium"),
    *("stable-baselines3", "wandb", "nvidia-ml-py"),
)


class Doctor(Settings):
    """Say which parts of the loop can run here."""

    def cli_cmd(self) -> None:
        """Print a table."""
        table = Table("what", "found", title="sprout doctor")
        table.add_row("Python", sys.version.split()[0])
        table.add_row("cores", str(os.cpu_count()))
        for name in PACKAGES:
            try:
                table.add_row(name, importlib.metadata.version(name))
            except importlib.metadata.PackageNotFoundError:
                table.add_row(name, "not installed")
        try:
            table.add_row("energy meter", f"{NvmlMeter().source} (measured)")
        except MeterError as error:
            table.add_row("energy meter", f"processor time x watts (estimated); {error}")
        weights = EMBEDDED / "model.safetensors"
        table.add_row("embedded Llama", "found" if weights.exists() else f"{weights} is missing")
        table.add_row("vllm", shutil.which("vllm") or "not installed")
        Console().print(table)
