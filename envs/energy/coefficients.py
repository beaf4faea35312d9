"""Cost coefficients of a server: joules and seconds of each kind of work, measured or stated.

`sprout calibrate` measures coefficients, and `envs.energy.attribution` fits its own online. They
serve to estimate requests before these are measured, and to run the simulated server.
"""

import json
import math
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from envs.arrays import Float64Array
from envs.energy.work import CONTEXT_TOKENS, KINDS
from envs.errors import DataError
from envs.plausible import check_joules_per_token, check_watts

SCHEMA = 1


@dataclass(frozen=True)
class Coefficients:
    """Cost of one unit of each of `envs.energy.work.KINDS`.

    Attributes:
        joules: energy per unit above idle power, J, shape (len(KINDS),).
        seconds: server time per unit, s, same shape.
        source: origin of the coefficients.
        joules_error: standard errors of `joules`, J; None if `joules` are stated, not fitted.
        idle_watts: power with no request in flight, W; None if unknown.

    Raises:
        UnitError: the cost of a request of 100 tokens implies absurd joules or watts.
    """

    joules: Float64Array
    seconds: Float64Array
    source: str
    joules_error: Float64Array | None = None
    idle_watts: float | None = None

    def __post_init__(self) -> None:
        joules, seconds = self.cost(100, 100)
        check_joules_per_token(joules / 100, self.source)
        if seconds > 0:
            check_watts(joules, seconds, self.source)

    def cost(
        self, prompt_tokens: float, completion_tokens: float, together: float = 1.0
    ) -> tuple[float, float]:
        """Return a request's energy (J) and server time (s).

        Args:
            together: mean number of concurrent requests, this request included.
        """
        context = completion_tokens * (prompt_tokens + completion_tokens / 2) / CONTEXT_TOKENS
        passes = completion_tokens / max(1.0, together)
        # Plain numbers: NumPy takes longer than this for four of them.
        (a, b, c, d), (e, f, g, h) = self._numbers
        return (
            a * prompt_tokens + b * completion_tokens + c * context + d * passes,
            e * prompt_tokens + f * completion_tokens + g * context + h * passes,
        )

    def error(
        self, prompt_tokens: float, completion_tokens: float, together: float = 1.0
    ) -> float | None:
        """Return the standard error of `cost`'s joules, J; None if it is unknown."""
        if self.joules_error is None:
            return None
        context = completion_tokens * (prompt_tokens + completion_tokens / 2) / CONTEXT_TOKENS
        work = prompt_tokens, completion_tokens, context, completion_tokens / max(1.0, together)
        return math.hypot(*(w * e for w, e in zip(work, self._errors, strict=True)))

    @cached_property
    def _errors(self) -> list[float]:
        return [] if self.joules_error is None else self.joules_error.tolist()

    @cached_property
    def _numbers(self) -> tuple[list[float], list[float]]:
        return self.joules.tolist(), self.seconds.tolist()

    def write(self, path: Path) -> None:
        """Write the coefficients as JSON."""
        content: dict[str, Any] = {"schema": SCHEMA}
        for name, value in asdict(self).items():
            is_array = isinstance(value, np.ndarray)
            content[name] = dict(zip(KINDS, value.tolist(), strict=True)) if is_array else value
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def token_coefficients(
    joules_per_token: float, seconds_per_token: float, source: str
) -> Coefficients:
    """Return coefficients that charge generated tokens only.

    Raises:
        UnitError: `joules_per_token` is absurd in joules.
    """
    return Coefficients(
        np.array([0.0, joules_per_token, 0.0, 0.0]),
        np.array([0.0, seconds_per_token, 0.0, 0.0]),
        source,
    )


def read_coefficients(path: Path) -> Coefficients:
    """Read a file written by `Coefficients.write`.

    Raises:
        DataError: the file is missing or wrong; the message names the field.
        UnitError: a value is absurd in joules or watts.
    """
    remedy = "give the file that sprout calibrate wrote"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(path, f"cannot be read ({error})", remedy) from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise DataError(path, f"is not a coefficients file with schema {SCHEMA}", remedy)
    joules, seconds = (_array(path, content.get(name), name) for name in ("joules", "seconds"))
    errors, idle = content.get("joules_error"), content.get("idle_watts")
    if idle is not None and not (isinstance(idle, int | float) and idle >= 0):
        raise DataError(
            path, f"idle_watts is {idle!r}", "give idle_watts in W, 0 or more, or leave it out"
        )
    return Coefficients(
        joules,
        seconds,
        str(content.get("source") or path),
        None if errors is None else _array(path, errors, "joules_error"),
        None if idle is None else float(idle),
    )


def _array(path: Path, costs: Any, name: str) -> Float64Array:
    remedy = f"give {name} for each of {', '.join(KINDS)}, each 0 or more"
    if not isinstance(costs, dict) or set(costs) != set(KINDS):
        raise DataError(path, f"{name} is {costs!r}", remedy)
    try:
        values = np.array([float(costs[kind]) for kind in KINDS])
    except (TypeError, ValueError) as error:
        raise DataError(
            path, f"{name} holds a value that is not a number ({error})", remedy
        ) from error
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise DataError(path, f"{name} is {costs!r}", remedy)
    return values
