"""What a server's work costs: joules and seconds of each kind of work, as measured or stated.

Made by `sprout calibrate` or on line by `envs.energy.attribution`; used by estimates before a
request is measured, and by the simulated server.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from envs.arrays import Float64Array
from envs.energy.work import CONTEXT_TOKENS, KINDS
from envs.errors import DataError
from envs.plausible import check_joules_per_token, check_watts

SCHEMA = 1
# Least squares over SPROUT's published outcomes (Li et al., EMNLP 2024, artifact), which were
# recorded one request at a time: what a pass costs cannot be told from what its token costs.
JOULES_PER_TOKEN = 5.91
SECONDS_PER_TOKEN = 0.0238
# Of a prompt token against a generated one, in the same data.
PREFILL_WEIGHT = 0.002


@dataclass(frozen=True)
class Coefficients:
    """Cost of a unit of each of `envs.energy.work.KINDS`.

    Attributes:
        joules: J each, above idle power, shape (len(KINDS),).
        seconds: s of the server's time each, same shape.
        joules_error: standard errors of `joules`; None where they are stated, not fitted.
        idle_watts: W while nothing is in flight; None where not known.
        source: whose they are.

    Raises:
        UnitError: a request of 100 tokens would take absurd joules, or watts.
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
        """J and s of a request, answered with `together` - 1 others on the whole."""
        looked = completion_tokens * (prompt_tokens + completion_tokens / 2) / CONTEXT_TOKENS
        shares = completion_tokens / max(1.0, together)
        done = np.array([prompt_tokens, completion_tokens, looked, shares])
        return float(self.joules @ done), float(self.seconds @ done)

    def write(self, path: Path) -> None:
        """Write as JSON."""
        found: dict[str, Any] = {"schema": SCHEMA}
        for name, value in asdict(self).items():
            is_array = isinstance(value, np.ndarray)
            found[name] = dict(zip(KINDS, value.tolist(), strict=True)) if is_array else value
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def token_coefficients(
    joules_per_token: float, seconds_per_token: float, source: str
) -> Coefficients:
    """So much a generated token, whatever else happens.

    Raises:
        UnitError: the figure is absurd in joules.
    """
    return Coefficients(
        np.array([0.0, joules_per_token, 0.0, 0.0]),
        np.array([0.0, seconds_per_token, 0.0, 0.0]),
        source,
    )


def default_coefficients() -> Coefficients:
    """Llama-2-13b-chat on one A100-class GPU, one request at a time."""
    weights = np.array([PREFILL_WEIGHT, 1.0, 0.0, 0.0])
    return Coefficients(
        JOULES_PER_TOKEN * weights,
        SECONDS_PER_TOKEN * weights,
        "Llama-2-13b on an A100, one request at a time",
    )


def read_coefficients(path: Path) -> Coefficients:
    """Read what `Coefficients.write` wrote.

    Raises:
        DataError: the file is missing or wrong; names the field.
        UnitError: a value is absurd in joules or watts.
    """
    remedy = "give the file that sprout calibrate wrote"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(path, f"cannot be read ({error})", remedy) from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise DataError(path, f"no coefficients of schema {SCHEMA}", remedy)
    joules, seconds = (_array(path, content.get(name), name) for name in ("joules", "seconds"))
    errors, idle = content.get("joules_error"), content.get("idle_watts")
    if idle is not None and not (isinstance(idle, int | float) and idle >= 0):
        raise DataError(path, f"idle_watts {idle!r}", "give watts, 0 or more, or leave it out")
    return Coefficients(
        joules,
        seconds,
        str(content.get("source") or path),
        None if errors is None else _array(path, errors, "joules_error"),
        None if idle is None else float(idle),
    )


def _array(path: Path, given: Any, name: str) -> Float64Array:
    remedy = f"give {', '.join(KINDS)}, each 0 or more"
    if not isinstance(given, dict) or set(given) != set(KINDS):
        raise DataError(path, f"{name} {given!r}", remedy)
    try:
        values = np.array([float(given[kind]) for kind in KINDS])
    except (TypeError, ValueError) as error:
        raise DataError(path, f"{name}: {error}", remedy) from error
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise DataError(path, f"{name} {given!r}", remedy)
    return values
