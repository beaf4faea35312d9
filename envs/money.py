"""Prices of energy and of a device's time in money, from one file with sources and dates."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.arrays import Float64Array
from envs.carbon.footprint import JOULES_PER_KWH
from envs.carbon.intensity import HOUR_SECONDS
from envs.errors import DataError
from envs.yaml_file import read_yaml

SHIPPED = Path(__file__).resolve().parent / "data" / "tariff.yaml"
ENTRIES = {"electricity": "per_kwh", "device": "per_hour"}
REMEDY = (
    "give currency: CODE; electricity: {per_kwh, source, date}; device: {per_hour, source, date}"
)


@dataclass(frozen=True)
class Tariff:
    """Prices in money.

    Attributes:
        currency: ISO 4217 code.
        per_kwh: price of electricity, per kWh.
        per_device_hour: price of an hour of the device (all GPUs that serve the model together).
        sources: source and date of each price, by entry of the file.
    """

    currency: str
    per_kwh: float
    per_device_hour: float
    sources: Mapping[str, str]

    def cost(
        self, energy_joules: Float64Array, device_seconds: Float64Array, pue: float = 1.0
    ) -> Float64Array:
        """Return the money that requests cost, in the shape of the arguments.

        Args:
            energy_joules: energy of each request, J.
            device_seconds: device time of each request, s.
            pue: power usage effectiveness of the data centre.
        """
        electricity = self.per_kwh * pue / JOULES_PER_KWH * energy_joules
        money: Float64Array = electricity + self.per_device_hour / HOUR_SECONDS * device_seconds
        return money


def read_tariff(path: Path = SHIPPED) -> Tariff:
    """Read a file of prices in money.

    Raises:
        DataError: the file is wrong; the message names the entry and field.
    """
    rows = read_yaml(path, REMEDY)
    known = {"currency", *ENTRIES}
    if not isinstance(rows, Mapping) or set(rows) != known:
        raise DataError(
            path, f"does not have exactly the entries {', '.join(sorted(known))}", REMEDY
        )
    currency = rows["currency"]
    if not isinstance(currency, str) or len(currency) != 3 or not currency.isupper():
        raise DataError(path, f"currency is {currency!r}", "give an ISO 4217 code, such as USD")
    prices = {entry: _price(path, entry, field, rows[entry]) for entry, field in ENTRIES.items()}
    sources = {entry: f"{rows[entry]['source']} ({rows[entry]['date']})" for entry in ENTRIES}
    return Tariff(currency, prices["electricity"], prices["device"], sources)


def _price(path: Path, entry: str, field: str, row: Any) -> float:
    if not isinstance(row, Mapping) or set(row) != {field, "source", "date"}:
        raise DataError(path, f"{entry} is {row!r}", REMEDY)
    price = row[field]
    if isinstance(price, bool) or not isinstance(price, int | float) or not 0 <= price < 1e6:
        raise DataError(path, f"{entry}.{field} is {price!r}", "give a price of 0 or more")
    for text in ("source", "date"):
        if not str(row[text] or "").strip():
            raise DataError(
                path, f"{entry}.{text} is missing", "say where the price is from, and when"
            )
    return float(price)
