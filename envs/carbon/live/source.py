"""Interface of live sources of carbon intensity, and strict parsing of their answers."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from envs.carbon.intensity import Kind
from envs.errors import UnitError
from envs.http_client import FetchError
from envs.plausible import check_intensity


@dataclass(frozen=True, slots=True)
class Point:
    """Carbon intensity over a period of time.

    Attributes:
        start: start of the period, Unix seconds UTC.
        seconds: length of the period, s.
        g_per_kwh: intensity, gCO2e/kWh.
        method: "measured", "estimated" or "forecast".
    """

    start: float
    seconds: float
    g_per_kwh: float
    method: str

    @property
    def end(self) -> float:
        """End of the period, Unix seconds."""
        return self.start + self.seconds


class Source(Protocol):
    """A service that publishes a grid's carbon intensity.

    Attributes:
        name: name of the service.
        zone: the service's name for the grid.
        kind: kind of all its figures: average or marginal, direct or lifecycle.
        live_seconds: time after its start for which a reading counts as current, s; services
            publish late.
    """

    name: str
    zone: str
    kind: Kind
    live_seconds: float

    def readings(self, since: float, now: float) -> list[Point]:
        """Return the service's readings between two times (Unix seconds); they may have gaps.

        Raises:
            FetchError: the service does not answer, refuses, or its answer cannot be parsed.
        """

    def forecast(self, now: float) -> list[Point]:
        """Return predictions from `now` (Unix seconds) on; empty if the service has none.

        Raises:
            FetchError: the service does not answer, refuses, or its answer cannot be parsed.
        """


class MalformedError(FetchError):
    """An answer deviates from the service's documentation."""


def parse_json(where: str, body: bytes) -> Any:
    """Parse an answer as JSON.

    Args:
        where: URL without secrets, for the message.
        body: body of the answer.

    Raises:
        MalformedError: the answer is not JSON.
    """
    try:
        return json.loads(body)
    except ValueError as error:
        raise MalformedError(f"{where}: the answer is not JSON") from error


def rows_of(where: str, answer: Any, *path: str) -> list[Mapping[str, Any]]:
    """Return the list of objects at a path of keys, without its null entries.

    Args:
        where: URL without secrets, for the message.
        answer: parsed JSON.
        path: keys from the top of the answer to the list; empty if the answer is the list.

    Raises:
        MalformedError: there is no such list.
    """
    for key in path:
        answer = answer.get(key) if isinstance(answer, Mapping) else None
    rows = [row for row in answer if row is not None] if isinstance(answer, list) else [answer]
    if not isinstance(answer, list) or not all(isinstance(row, Mapping) for row in rows):
        raise MalformedError(f"{where}: no list of objects at {'.'.join(path) or 'the top'}")
    return rows


def point(
    where: str, start: object, seconds: float, value: object, method: str, scale: float = 1.0
) -> Point:
    """Return the point that an answer's fields describe.

    Args:
        where: URL without secrets, for the message.
        start: start of the period, ISO 8601 with a UTC offset.
        seconds: length of the period, s.
        value: number; multiplied by `scale` it is the intensity in gCO2e/kWh.
        method: "measured", "estimated" or "forecast".
        scale: factor from the service's unit to gCO2e/kWh.

    Raises:
        MalformedError: the start is not such a time, or the value is not an intensity that a grid
            can have.
    """
    try:
        moment = datetime.fromisoformat(str(start))
        if moment.tzinfo is None:
            raise ValueError("no UTC offset")
    except ValueError as error:
        raise MalformedError(
            f"{where}: {str(start)[:40]!r} is not an ISO 8601 time with a UTC offset"
        ) from error
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise MalformedError(f"{where}: intensity {str(value)[:40]!r} is not a number")
    try:
        check_intensity(value * scale, where)
    except UnitError as error:
        raise MalformedError(str(error)) from error
    return Point(moment.timestamp(), seconds, value * scale, method)


def iso_utc(seconds: float) -> str:
    """Return Unix seconds as ISO 8601 in UTC with a Z, to the second."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
