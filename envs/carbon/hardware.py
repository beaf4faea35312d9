"""Catalogue of devices: power, memory and embodied carbon, each figure with its source."""

from functools import cache
from importlib.resources import files
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, PositiveFloat

from envs.errors import ConfigError

GRAMS_PER_KG = 1000.0


class Hardware(BaseModel):
    """One device of the catalogue.

    Attributes:
        name: key of the device in the catalogue.
        title: name of the device for people.
        match: substrings of the device's name as drivers report it.
        watts: the maker's power limit, W.
        idle_watts: power with nothing loaded, W.
        memory_gb: size of the device's memory, GB.
        bandwidth_gb_per_s: bandwidth of the device's memory, GB/s.
        embodied_kg: emissions from making the device, kgCO2e.
        embodied_range_kg: lowest and highest published or derived value of `embodied_kg`.
        embodied_source: source of `embodied_kg`.
        host_embodied_kg: emissions from making the device's share of its server, kgCO2e.
        host_source: source of `host_embodied_kg`.
        specification: source of the power limit and the memory's size and bandwidth.
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
        """Embodied emissions of the device and its share of the server, gCO2e."""
        return GRAMS_PER_KG * (self.embodied_kg + self.host_embodied_kg)


@cache
def hardware_catalogue() -> dict[str, Hardware]:
    """Return all devices by name."""
    text = (files("envs") / "data" / "hardware.yaml").read_text(encoding="utf-8")
    rows: list[dict[str, Any]] = yaml.safe_load(text)
    return {row["name"]: Hardware.model_validate(row) for row in rows}


def find_hardware(name: str) -> Hardware:
    """Return the device with a name.

    Raises:
        ConfigError: the device is not in the catalogue.
    """
    device = hardware_catalogue().get(name)
    if device is None:
        raise ConfigError(
            f"hardware {name!r} is not in the catalogue; give one of "
            f"{', '.join(hardware_catalogue())}"
        )
    return device


def match_hardware(driver_name: str) -> Hardware | None:
    """Return the device for a name that a driver reports; None if the catalogue has none."""
    matches = [
        (len(part), device)
        for device in hardware_catalogue().values()
        for part in device.match
        if part.lower() in driver_name.lower()
    ]
    return max(matches, key=lambda match: match[0])[1] if matches else None
