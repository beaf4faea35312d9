"""`sprout bench attribution`: errors of attributed joules on simulated servers."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from envs.arrays import Float64Array
from envs.energy.attribution import Attribution, Share
from envs.energy.coefficients import Coefficients, read_coefficients
from envs.energy.simulator import DRIFT_RATIO, LLAMA_13B, Simulation, simulate
from envs.energy.work_costs import PRIOR
from experiments.settings import Settings, write_json

# Before this time the coefficients are not fitted yet, so the errors exclude earlier requests.
WARM_SECONDS = 150.0
# Period of the sinusoidal load.
_SWING_SECONDS = 120.0


@dataclass(frozen=True)
class Setting:
    """A simulated server and its load.

    Attributes:
        coefficients: joules and seconds of each kind of work on the server.
        at_once: most requests in flight.
        steady: True keeps `at_once` requests in flight all the time; False varies the number
            between a quarter of `at_once` and `at_once`.
        drift_ratio: relative drift of the server's power.
    """

    coefficients: Coefficients = LLAMA_13B
    at_once: int = 32
    steady: bool = False
    drift_ratio: float = DRIFT_RATIO


SETTINGS = {
    "13B on A100, swinging": Setting(),
    "13B on A100, steady": Setting(steady=True),
    "power drifts by 10 %": Setting(drift_ratio=0.1),
    "7B on H100": Setting(
        replace(
            LLAMA_13B,
            joules=np.array([0.012, 0.06, 0.05, 3.2]),
            seconds=np.array([4e-5, 8e-5, 2e-4, 8e-3]),
        )
    ),
    "bound by arithmetic": Setting(replace(LLAMA_13B, joules=np.array([0.05, 0.3, 0.1, 1.0]))),
    "8 at once": Setting(at_once=8),
    "64 at once": Setting(at_once=64),
}


@dataclass(frozen=True)
class AttributionErrors:
    """Errors of the attributed joules of n requests in one run.

    Attributes:
        errors: relative error of each request's joules, shape (n,).
        held: 1 if the request's 95 % interval contains the true joules, else 0, shape (n,).
        by_tokens: relative errors of a baseline that splits joules by tokens alone, with a
            prompt token at a tenth of a generated one, shape (n,).
        off: measured less attributed less idle joules, as a ratio of the measured joules.
    """

    errors: Float64Array
    held: Float64Array
    by_tokens: Float64Array
    off: float


def judge(seed: int, setting: Setting, seconds: float) -> AttributionErrors:
    """Simulate one run with `seed` and return the errors of its requests after the warm-up."""
    rng = np.random.default_rng(seed)
    simulated = _simulated(rng, setting, seconds)
    shares, off = attributed(simulated, setting.coefficients.idle_watts or 0.0)
    counted = [
        i
        for i, a in enumerate(simulated.activities)
        if a.first is not None and a.first > WARM_SECONDS and a.end < seconds - 1
    ]
    counted_shares = [shares[simulated.activities[i].key] for i in counted]
    truth = simulated.joules[counted]
    joules = np.array([s.joules + s.unmetered_joules for s in counted_shares])
    error = np.array([s.error_joules for s in counted_shares])
    tokens = np.array([0.1 * a.prompt_tokens + a.completion_tokens for a in simulated.activities])
    idle_joules = (setting.coefficients.idle_watts or 0) * seconds
    above_idle = sum(w.joules for w in simulated.windows) - idle_joules
    by_tokens = (tokens / tokens.sum() * above_idle)[counted]
    return AttributionErrors(
        (joules - truth) / truth,
        (np.abs(joules - truth) <= 1.96 * error).astype(float),
        (by_tokens - truth) / truth,
        off,
    )


def attributed(simulated: Simulation, idle_watts: float) -> tuple[dict[str, Share], float]:
    """Attribute a simulated server's windows, settled every 30 windows as in the online hook.

    Returns:
        The shares by request key, and the unattributed ratio of the measured joules.
    """
    attribution = Attribution(idle_watts=idle_watts)
    for activity in simulated.activities:
        attribution.ended(activity)
    shares: list[Share] = []
    for i, window in enumerate(simulated.windows):
        attribution.window(window)
        if i % 30 == 29:
            shares += attribution.settle(window.end)
    shares += attribution.settle(float("inf"))
    measured = sum(w.joules for w in simulated.windows)
    accounted = sum(s.joules for s in shares) + attribution.idle_joules
    return {share.key: share for share in shares}, (measured - accounted) / measured


class AttributionBench(Settings):
    """Compare attributed joules with the true joules of simulated servers that batch requests."""

    trials: int = Field(12, ge=1, description="simulated runs per server")
    seconds: float = Field(600.0, ge=2 * WARM_SECONDS, description="simulated seconds of each run")
    coefficients: Path | None = Field(
        None, description="file from sprout calibrate; only that server is simulated"
    )
    at_once: int = Field(
        32, ge=1, description="requests in flight on the server from --coefficients"
    )
    workers: int = Field(2, ge=1, description="worker processes")
    seed: int = 0
    json_path: Path | None = Field(
        None, alias="json", description="write the result as JSON to this file"
    )

    def cli_cmd(self) -> None:
        """Simulate all servers, print a table and write the JSON result."""
        settings = SETTINGS
        if self.coefficients is not None:
            calibrated = read_coefficients(self.coefficients)
            settings = {calibrated.source: Setting(calibrated, self.at_once)}
        seeds = range(self.seed, self.seed + self.trials)
        result: dict[str, Any] = {}
        with ProcessPoolExecutor(self.workers) as pool:
            for name, setting in settings.items():
                runs = list(pool.map(_Job(setting, self.seconds), seeds))
                result[name] = _figures(runs)
        print(
            f"{'server':<24}{'requests':>10}{'median':>9}{'90 %':>8}{'mean':>8}{'held':>8}", end=""
        )
        print(f"{'by tokens':>11}{'sum off':>10}")
        for name, row in result.items():
            print(
                f"{name:<24}{row['requests']:>10}{row['median_error_pct']:>8.1f}%"
                f"{row['p90_error_pct']:>7.1f}%{row['mean_error_pct']:>7.1f}%"
                f"{row['interval_held_pct']:>7.1f}%{row['by_tokens_median_error_pct']:>10.1f}%"
                f"{row['sum_off']:>10.0e}"
            )
        print("errors of a request's joules; held: its 95% interval contains the true joules")
        write_json(self.json_path, {"schema": 1, "servers": result, "prior": PRIOR.tolist()})


@dataclass(frozen=True)
class _Job:
    """`judge` for one setting, in a form that can be sent to a worker process."""

    setting: Setting
    seconds: float

    def __call__(self, seed: int) -> AttributionErrors:
        return judge(seed, self.setting, self.seconds)


def _simulated(rng: np.random.Generator, setting: Setting, seconds: float) -> Simulation:
    def clients(now: float) -> int:
        swing = 1.0 if setting.steady else 0.625 + 0.375 * np.sin(2 * np.pi * now / _SWING_SECONDS)
        return max(1, round(setting.at_once * swing))

    def lengths() -> tuple[int, int]:
        # Half of the requests get long answers and half get short ones.
        mean, spread = (5.0, 0.9) if rng.random() < 0.5 else (3.0, 0.8)
        prompt, answer = rng.lognormal(5.3, 0.8), rng.lognormal(mean, spread)
        return int(np.clip(prompt, 10, 2000)), int(np.clip(answer, 1, 800))

    return simulate(
        setting.coefficients, clients, lengths, seconds, rng, drift_ratio=setting.drift_ratio
    )


def _figures(runs: list[AttributionErrors]) -> dict[str, Any]:
    errors = np.concatenate([run.errors for run in runs])
    by_tokens = np.concatenate([run.by_tokens for run in runs])
    medians = [100 * float(np.median(np.abs(run.errors))) for run in runs]
    held = [100 * float(run.held.mean()) for run in runs]
    return {
        "requests": len(errors),
        "median_error_pct": 100 * float(np.median(np.abs(errors))),
        "median_error_pct_of_runs": [min(medians), max(medians)],
        "p90_error_pct": 100 * float(np.quantile(np.abs(errors), 0.9)),
        "mean_error_pct": 100 * float(errors.mean()),
        "interval_held_pct": 100 * float(np.concatenate([run.held for run in runs]).mean()),
        "interval_held_pct_of_runs": [min(held), max(held)],
        "by_tokens_median_error_pct": 100 * float(np.median(np.abs(by_tokens))),
        "sum_off": max(abs(run.off) for run in runs),
    }
