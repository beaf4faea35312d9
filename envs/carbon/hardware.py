"""The catalogue of devices: power, memory and embodied carbon, each figure with its source."""

from functools import cache
from importlib.resources import files
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, PositiveFloat

from envs.errors import ConfigError

GRAMS_PER_KG = 1000.0


class Hardware(BaseModel):
    """One device.

    Attributes:
        match: what a driver's name for it contains.
        watts: W, the maker's limit.
        idle_watts: W with nothing loaded.
        bandwidth_gb_per_s: of its memory, GB/s.
        embodied_kg, host_embodied_kg: kgCO2e of making the device, and its share of its server.
        embodied_range_kg: lowest and highest published or derived, of the device.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    match: tuple[str, ...]
    watts: PositiveFloat
    idle_watts: PositiveFloat
    memory_gb: PositiveFloat
    bandwidth_gb_per_s: PositiveFloat
    embodied_kg: PositiveFloat
    embodied_range_kg: tuple[PositiveFloat, PositiveFloat]
    embodied_source: str
    host_embodied_kg: PositiveFloat
    host_source: str
    specification: str

    @property
    def embodied_grams(self) -> float:
        """gCO2e of the device and its share of the server."""
        return GRAMS_PER_KG * (self.embodied_kg + self.host_embodied_kg)


@cache
def hardware_catalogue() -> dict[str, Hardware]:
    """All devices by name."""
    text = (files("envs") / "data" / "hardware.yaml").read_text(encoding="utf-8")
    rows: list[dict[str, Any]] = yaml.safe_load(text)
    return {row["name"]: Hardware.model_validate(row) for row in rows}


def find_hardware(name: str) -> Hardware:
    """A device by its name.

    Raises:
        ConfigError: it is not in the catalogue.
    """
    found = hardware_catalogue().get(name)
    if found is None:
        raise ConfigError(f"hardware {name!r}: one of {', '.join(hardware_catalogue())}")
    return found


def match_hardware(driver_name: str) -> Hardware | None:
    """The device that a driver calls so; None if the catalogue has none such."""
    matches = [
        (len(part), device)
        for device in hardware_catalogue().values()
        for part in device.match
        if part.lower() in driver_name.lower()
    ]
    return max(matches, key=lambda match: match[0])[1] if matches else None
