"""What a live source of carbon intensity gives, and how its answers are read strictly."""

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
    """Intensity over a span of time.

    Attributes:
        start: Unix seconds UTC.
        seconds: for how long it holds.
        method: "measured", "estimated" or "forecast".
    """

    start: float
    seconds: float
    g_per_kwh: float
    method: str

    @property
    def end(self) -> float:
        """Unix seconds."""
        return self.start + self.seconds


class Source(Protocol):
    """A service that knows a grid's intensity.

    Attributes:
        kind: average or marginal, direct or lifecycle: of all that it gives.
        live_seconds: for so long after its start a reading counts as the present: services
            publish late.
    """

    name: str
    zone: str
    kind: Kind
    live_seconds: float

    def readings(self, since: float, now: float) -> list[Point]:
        """What has been since a time, as far as the service knows; may have gaps.

        Raises:
            FetchError: no answer, a refusal, or an answer that cannot be read.
        """

    def forecast(self, now: float) -> list[Point]:
        """What is to come; empty where the service foretells nothing. Raises like `readings`."""


class MalformedError(FetchError):
    """An answer came, but it is not what the service's documentation says."""


def parse_json(where: str, body: bytes) -> Any:
    """JSON of an answer.

    Raises:
        MalformedError: it is none.
    """
    try:
        return json.loads(body)
    except ValueError as error:
        raise MalformedError(f"{where}: the answer is no JSON") from error


def rows_of(where: str, answer: Any, *path: str) -> list[Mapping[str, Any]]:
    """The list of objects at a path of keys; the answer itself where there is none.

    Raises:
        MalformedError: there is no such list.
    """
    for key in path:
        answer = answer.get(key) if isinstance(answer, Mapping) else None
    if not isinstance(answer, list) or not all(isinstance(row, Mapping) for row in answer):
        raise MalformedError(f"{where}: no list at {'.'.join(path) or 'the top'}")
    return answer


def point(
    where: str, start: object, seconds: float, value: object, method: str, scale: float = 1.0
) -> Point:
    """A point of an answer.

    Args:
        start: ISO 8601 with its offset.
        value: number; times `scale` it is gCO2e/kWh.

    Raises:
        MalformedError: no time, or no number that a grid can have.
    """
    try:
        moment = datetime.fromisoformat(str(start))
        if moment.tzinfo is None:
            raise ValueError("no offset")
    except ValueError as error:
        raise MalformedError(f"{where}: {str(start)[:40]!r} is no time") from error
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise MalformedError(f"{where}: intensity {str(value)[:40]!r} is no number")
    try:
        check_intensity(value * scale, where)
    except UnitError as error:
        raise MalformedError(str(error)) from error
    return Point(moment.timestamp(), seconds, value * scale, method)


def iso_utc(seconds: float) -> str:
    """Unix seconds as ISO 8601 with a Z, to the second."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
