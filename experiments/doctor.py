"""`sprout doctor`: what this machine has and lacks."""

import importlib.metadata
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from pydantic import Field
from rich.console import Console
from rich.table import Table

from envs.energy import Meter
from envs.errors import MeterError
from envs.hardware import known_as
from envs.intensity import electricity_maps, watttime
from envs.meters.choose import Candidate, candidates, choose_meter
from envs.meters.flags import MeterFlags
from experiments.llama.server import EMBEDDED
from experiments.settings import Settings, write_json

PACKAGES = (
    *("numpy", "aiohttp", "uvicorn", "torch", "transformers", "gymnasium"),
    *("stable-baselines3", "wandb", "nvidia-ml-py", "zeus"),
)
SECRETS = {
    "electricity-maps": (electricity_maps.TOKEN_VARIABLE,),
    "watttime": (watttime.USER_VARIABLE, watttime.PASSWORD_VARIABLE),
    "uk": (),
    "carbon-aware": (),
}


class Doctor(MeterFlags, Settings):
    """Say which parts of the loop can run here, and which energy meter will be used, and why."""

    upstream: str | None = Field(None, description="URL of the Llama server that is metered")
    json_path: Path | None = Field(None, alias="json", description="machine-readable result")

    def cli_cmd(self) -> None:
        """Print tables."""
        console = Console(markup=False)
        table = Table("what", "found", title="sprout doctor")
        table.add_row("Python", sys.version.split()[0])
        table.add_row("cores", str(os.cpu_count()))
        for name in PACKAGES:
            try:
                table.add_row(name, importlib.metadata.version(name))
            except importlib.metadata.PackageNotFoundError:
                table.add_row(name, "not installed")
        weights = EMBEDDED / "model.safetensors"
        table.add_row("embedded Llama", "found" if weights.exists() else f"{weights} is missing")
        table.add_row("vllm", shutil.which("vllm") or "not installed")
        for service, variables in SECRETS.items():
            missing = [name for name in variables if not os.environ.get(name)]
            table.add_row(
                f"intensity: {service}",
                f"set {' and '.join(missing)}" if missing else "needs no key" if not variables
                else "its key is set",
            )  # fmt: skip
        console.print(table)
        found = self._meters()
        meters = Table("meter", "can it be used", "takes", title="energy meters, the best first")
        for row in found["meters"]:
            meters.add_row(row["kind"], row["found"], row["takes"])
        console.print(meters)
        console.print(f"used: {found['used']}", soft_wrap=True)
        if found["better"]:
            console.print(f"better: {found['better']}", soft_wrap=True)
        write_json(self.json_path, {"schema": 1, **found})

    def _meters(self) -> dict[str, Any]:
        wanted = self.wanted()
        urls = () if self.upstream is None else (self.upstream,)
        if wanted.kind == "remote":
            return {"meters": [], "used": _said(choose_meter(*urls, wanted=wanted)), "better": None}
        rows, used, better = [], None, None
        for candidate in candidates(urls, wanted):
            meter, problem = _tried(candidate)
            found = problem if meter is None else _said(meter)
            if candidate.kind == "cpu" and self.upstream is None:
                found = (
                    f"yes, of a server on this machine (name it with --upstream): processor time x "
                    f"{wanted.watts_per_core:g} W a core, estimated"
                )
            rows.append({"kind": candidate.kind, "found": found, "takes": candidate.better})
            usable = meter is not None or candidate.kind == "cpu"
            if used is None and usable and wanted.kind in ("auto", candidate.kind):
                first = "asked for" if wanted.kind != "auto" else "the best that can be used here"
                used = f"{candidate.kind}: {found} ({first})"
                if candidate.kind == "cpu":
                    better = (
                        "a meter that measures: run where the model runs on a GPU, or read its "
                        "energy from afar with --meter remote --meter-url (DCGM's exporter, "
                        "Prometheus); until then joules are labelled estimated"
                    )
        return {"meters": rows, "used": used or "none", "better": better}


def _tried(candidate: Candidate) -> tuple[Meter | None, str]:
    try:
        return candidate.make(), ""
    except MeterError as error:
        return None, f"no: {error}"


def _said(meter: Meter) -> str:
    devices = []
    for name in dict.fromkeys(meter.devices):
        device = known_as(name)
        devices.append(f"{name} (catalogue: {device.name})" if device else name)
    return (
        f"{meter.source}; {meter.method}, within {100 * meter.error_ratio:.0f} %, ticks of "
        f"{meter.tick_seconds:g} s; of {', '.join(devices)}"
    )
