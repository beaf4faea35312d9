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

from envs.carbon.hardware import match_hardware
from envs.carbon.live import electricity_maps, watttime
from envs.energy.meter import Meter
from envs.energy.meters.choose import MEASURING, Candidate, candidates, choose_meter, is_local
from envs.energy.meters.flags import MeterFlags
from envs.errors import MeterError
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
        console.print(f"used by commands: {found['used']}", soft_wrap=True)
        console.print(f"used by sprout serve: {found['used_by_hook']}", soft_wrap=True)
        if found["better"]:
            console.print(f"better: {found['better']}", soft_wrap=True)
        write_json(self.json_path, {"schema": 1, **found})

    def _meters(self) -> dict[str, Any]:
        wanted = self.wanted()
        urls = () if self.upstream is None else (self.upstream,)
        rows: list[dict[str, str]] = []
        usable: dict[str, str] = {}
        if wanted.kind == "remote":
            far = Candidate("remote", "--meter-url", lambda: choose_meter(*urls, wanted=wanted))
            tried = [far]
        else:
            tried = list(candidates(urls, wanted))
        for candidate in tried:
            meter, problem = _tried(candidate)
            if candidate.kind == "cpu" and self.upstream is None:
                usable["cpu"] = (
                    "processor time of a server on this machine (name it with --upstream) x "
                    f"{wanted.watts_per_core:g} W a core; estimated"
                )
            elif meter is not None:
                usable[candidate.kind] = _said(meter)
            found = usable.get(candidate.kind, problem)
            rows.append({"kind": candidate.kind, "found": found, "takes": candidate.better})
        used, why = next(iter(usable), None), "the best that can be used here"
        if wanted.kind != "auto":
            used, why = (wanted.kind if wanted.kind in usable else None), "asked for"
        elif self.upstream is not None and not is_local(self.upstream):
            used, why = None, f"{self.upstream} is not on this machine"
        hook = used if used in (*MEASURING, "remote") or wanted.kind != "auto" else None
        better = None
        if used is None or used == "cpu":
            better = (
                "a meter that measures: run where the model runs on a GPU, or read its energy from "
                "afar with --meter remote --meter-url (DCGM's exporter, Prometheus); until then "
                "joules are estimated, and labelled so"
            )
        return {
            "meters": rows,
            "used": f"{used}: {usable[used]} ({why})" if used else f"none ({why})",
            "used_by_hook": f"{hook}: {usable[hook]}"
            if hook
            else "none: requests keep estimates by their tokens",
            "better": better,
        }


def _tried(candidate: Candidate) -> tuple[Meter | None, str]:
    try:
        return candidate.make(), ""
    except MeterError as error:
        return None, f"no: {error}"


def _said(meter: Meter) -> str:
    devices = []
    for name in dict.fromkeys(meter.devices):
        device = match_hardware(name)
        devices.append(f"{name} (catalogue: {device.name})" if device else name)
    return (
        f"{meter.source}; {meter.method}, within {100 * meter.error_ratio:.0f} %, ticks of "
        f"{meter.tick_seconds:g} s; of {', '.join(devices)}"
    )
