"""`sprout doctor`: report which parts can run on this machine."""

import importlib.metadata
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from pydantic import Field
from rich.table import Table

from envs.carbon.hardware import match_hardware
from envs.carbon.live import electricity_maps, watttime
from envs.energy.meter import Meter
from envs.energy.meters.choose import MEASURING, Candidate, candidates, choose_meter, is_local
from envs.energy.meters.flags import MeterFlags
from envs.errors import MeterError
from experiments.console import table_console
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
    """Report what can run on this machine, which energy meter will be used, and why."""

    upstream: str | None = Field(None, description="URL of the Llama server to be metered")
    json_path: Path | None = Field(None, alias="json", description="file for the result as JSON")

    def cli_cmd(self) -> None:
        """Print the findings, and write them as JSON if asked to."""
        console = table_console(markup=False)
        table = Table("part", "state", title="sprout doctor")
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
                else "key is set",
            )  # fmt: skip
        console.print(table)
        report = self._meters()
        meters = Table("meter", "usable", "requires", title="energy meters, the best first")
        for row in report["meters"]:
            meters.add_row(row["kind"], row["found"], row["takes"])
        console.print(meters)
        console.print(f"meter of the commands: {report['used']}", soft_wrap=True)
        console.print(f"meter of sprout serve: {report['used_by_hook']}", soft_wrap=True)
        if report["better"]:
            console.print(f"better: {report['better']}", soft_wrap=True)
        write_json(self.json_path, {"schema": 1, **report})

    def _meters(self) -> dict[str, Any]:
        wanted = self.wanted()
        urls = () if self.upstream is None else (self.upstream,)
        rows: list[dict[str, str]] = []
        usable: dict[str, str] = {}
        if wanted.kind == "remote":
            remote = Candidate("remote", "--meter-url", lambda: choose_meter(*urls, wanted=wanted))
            possible = [remote]
        else:
            possible = list(candidates(urls, wanted))
        for candidate in possible:
            meter, problem = _open(candidate)
            if candidate.kind == "cpu" and self.upstream is None:
                usable["cpu"] = (
                    "processor time of a server on this machine (give it with --upstream) x "
                    f"{wanted.watts_per_core:g} W per core; estimated"
                )
            elif meter is not None:
                usable[candidate.kind] = _describe(meter)
            state = usable.get(candidate.kind, problem)
            rows.append({"kind": candidate.kind, "found": state, "takes": candidate.better})
        used, why = next(iter(usable), None), "the best one that is usable here"
        if wanted.kind != "auto":
            used, why = (wanted.kind if wanted.kind in usable else None), f"--meter {wanted.kind}"
        elif self.upstream is not None and not is_local(self.upstream):
            used, why = None, f"{self.upstream} is not on this machine"
        hook = used if used in (*MEASURING, "remote") or wanted.kind != "auto" else None
        better = None
        if used is None or used == "cpu":
            better = (
                "a meter that measures: run on the machine whose GPU runs the model, or read its "
                "energy over the network with --meter remote --meter-url (DCGM's exporter, "
                "Prometheus); until then, joules are estimated and labelled as estimated"
            )
        return {
            "meters": rows,
            "used": f"{used}: {usable[used]} ({why})" if used else f"none ({why})",
            "used_by_hook": f"{hook}: {usable[hook]}"
            if hook
            else "none: requests keep estimates from their tokens",
            "better": better,
        }


def _open(candidate: Candidate) -> tuple[Meter | None, str]:
    """Return the meter, or None and the reason why it is not usable."""
    try:
        return candidate.make(), ""
    except MeterError as error:
        return None, f"no: {error}"


def _describe(meter: Meter) -> str:
    devices = []
    for name in dict.fromkeys(meter.devices):
        hardware = match_hardware(name)
        devices.append(f"{name} (catalogue: {hardware.name})" if hardware else name)
    return (
        f"{meter.source}; {meter.method}, within {100 * meter.error_ratio:.0f} %, ticks of "
        f"{meter.tick_seconds:g} s; devices: {', '.join(devices)}"
    )
