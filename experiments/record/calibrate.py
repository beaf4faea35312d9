"""`sprout calibrate`: fit the joules and seconds of each kind of work on a live server."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from pydantic import Field

from envs.arrays import Float64Array
from envs.energy.attribution import Attribution
from envs.energy.coefficients import Coefficients
from envs.energy.fit import Fit, fit_costs
from envs.energy.meter import EnergyReading, Meter
from envs.energy.meters.choose import choose_meter
from envs.energy.meters.flags import MeterFlags
from envs.energy.work import KINDS, Activity, work_in_windows
from envs.energy.work_costs import PRIOR
from envs.errors import ConfigError, MeterError
from envs.upstream import Upstream
from experiments.record.metering import Question, metered, play, timed
from experiments.settings import Settings, write_json

mpl.use("Agg")
import matplotlib.pyplot as plt

# Long prompts with short answers, short prompts with long answers, and a mixture: they separate the
# cost of reading prompts from that of generating tokens.
SHAPES = {
    "reading": [Question(400, 4), Question(800, 4)],
    "generating": [Question(20, 64), Question(20, 192)],
    "both": [Question(20, 16), Question(300, 96), Question(100, 160)],
}
# Length of the spans that coefficients are fitted to, s.
FIT_SECONDS = 4.0


@dataclass(frozen=True)
class Level:
    """One phase: requests of one shape at one number of requests in flight.

    Attributes:
        at_once: requests in flight.
        shape: key of `SHAPES`.
        requests: number of requests.
        completion_tokens: generated tokens of all requests.
        joules: J above idle power.
        seconds: length of all windows, s.
        watts: mean power, idle power included, W.
        done: amount of each kind of work in `envs.energy.work.KINDS`.
    """

    at_once: int
    shape: str
    requests: int
    completion_tokens: int
    joules: float
    seconds: float
    watts: float
    done: tuple[float, ...]

    @property
    def joules_per_token(self) -> float:
        """Measured J per generated token, above idle power."""
        return self.joules / max(1, self.completion_tokens)

    def told(self, joules: Float64Array) -> float:
        """Return the J per generated token that `joules`, the coefficients, predict."""
        return float(joules @ np.array(self.done)) / max(1, self.completion_tokens)


class Calibrate(MeterFlags, Settings):
    """Measure idle power, then load the server at each level; write coefficients and a figure.

    Nothing else may use the server, or the meter's devices, during the calibration.
    """

    upstream: str = Field(description="URL of the Llama server")
    model: str | None = Field(None, description="model to request; default the server's first")
    out: Path = Field(Path("runs/calibration"), description="folder to write to")
    at_once: str = Field(
        "1,4,16,32", description="levels: numbers of requests in flight, separated by commas"
    )
    seconds: float = Field(20.0, ge=1, description="length of each phase; a level has three")
    idle_seconds: float = Field(
        20.0, ge=1, description="length of the idle measurement before the first level"
    )
    window_seconds: float = Field(1.0, ge=0.1, description="time between readings of the meter")
    seed: int = 0
    json_path: Path | None = Field(
        None, alias="json", description="write the result as JSON to this file"
    )

    def cli_cmd(self) -> None:
        """Measure all phases, fit the coefficients, print and write them."""
        levels = levels_of(self.at_once)
        with Upstream(self.upstream, self.model) as upstream:
            model = upstream.model
        meter = choose_meter(self.upstream, wanted=self.wanted())
        idle = idle_watts(meter, self.idle_seconds, self.window_seconds)
        attribution = Attribution(idle_watts=idle, fit_seconds=min(FIT_SECONDS, self.seconds / 2))
        phases: list[Level] = []
        # The first answers are slow, because the server fills caches and selects kernels.
        play(self.upstream, model, 1, timed(2.0, SHAPES["both"]), self.seed)
        for level in levels:
            for shape, questions in SHAPES.items():
                with metered(meter, self.window_seconds) as windows:
                    ask = timed(self.seconds, questions, self.seed)
                    activities = play(self.upstream, model, level, ask, self.seed + len(phases))
                phases.append(_phase(attribution, windows, activities, level, shape, idle))
                print(_line(phases[-1]))
        joules, seconds = fitted(attribution)
        coefficients = Coefficients(
            joules.values,
            seconds.values,
            f"{model}, calibrated {time.strftime('%Y-%m-%d', time.gmtime())} by {meter.source}",
            joules.errors,
            idle,
        )
        coefficients.write(self.out / "coefficients.json")
        self.save(self.out)
        _draw(self.out / "calibration.png", phases, joules)
        _show(joules, seconds, idle, meter)
        print(f"in {self.out}: coefficients.json, calibration.png")
        result = {
            "schema": 1,
            "model": model,
            "meter": {"source": meter.source, "method": meter.method, "devices": meter.devices},
            "idle_watts": idle,
            "joules": dict(zip(KINDS, joules.values.tolist(), strict=True)),
            "joules_error": dict(zip(KINDS, joules.errors.tolist(), strict=True)),
            "seconds": dict(zip(KINDS, seconds.values.tolist(), strict=True)),
            "phases": [
                asdict(p) | {"joules_per_token": p.joules_per_token, "told": p.told(joules.values)}
                for p in phases
            ],
        }
        write_json(self.json_path, result)


def idle_watts(meter: Meter, seconds: float, window_seconds: float = 1.0) -> float:
    """Return the power of the idle server, W.

    It is 0 if the meter does not move, as one that estimates from processor time does not.
    """
    try:
        with metered(meter, window_seconds) as windows:
            time.sleep(seconds)
    except MeterError:
        return 0.0
    # Divide by the whole time, because a slow meter has few and long windows.
    return sum(w.joules for w in windows) / max(seconds, sum(w.seconds for w in windows))


def fitted(attribution: Attribution) -> tuple[Fit, Fit]:
    """Return the fitted joules and the fitted seconds of each kind of work.

    Raises:
        MeterError: too few windows were measured.
    """
    done, joules, seconds = attribution.prices.seen
    if len(joules) <= len(KINDS):
        raise MeterError(f"only {len(joules)} spans of windows were metered; increase --seconds")
    return fit_costs(done, joules, PRIOR), fit_costs(done, seconds, PRIOR)


def levels_of(text: str) -> list[int]:
    """Parse the value of --at-once: numbers of requests in flight, separated by commas.

    Raises:
        ConfigError: a part is not an integer of at least 1.
    """
    try:
        levels = [int(part) for part in text.split(",")]
    except ValueError:
        levels = []
    if not levels or min(levels) < 1:
        raise ConfigError(f"--at-once {text!r}: give integers of at least 1, separated by commas")
    return levels


def _phase(
    attribution: Attribution,
    windows: list[EnergyReading],
    activities: list[Activity],
    at_once: int,
    shape: str,
    idle_power: float,
) -> Level:
    """Attribute the windows of a phase to its requests and return its figures."""
    for activity in activities:
        attribution.ended(activity)
    for window in windows:
        attribution.window(window)
    attribution.settle(float("inf"))
    seconds = sum(w.seconds for w in windows)
    joules = sum(w.joules for w in windows)
    tokens = sum(a.completion_tokens for a in activities)
    above_idle = max(0.0, joules - idle_power * seconds)
    bounds = np.array([(w.start, w.end) for w in windows])
    done = tuple(work_in_windows(activities, bounds).done.sum(axis=(0, 1)).tolist())
    watts = joules / seconds
    return Level(at_once, shape, len(activities), tokens, above_idle, seconds, watts, done)


def _line(level: Level) -> str:
    return (
        f"{level.at_once:>4} at once, {level.shape:<11}{level.requests:>6} requests"
        f"{level.completion_tokens:>8} tokens in {level.seconds:6.1f} s at {level.watts:7.2f} W: "
        f"{level.joules_per_token:.4g} J/token"
    )


def _show(joules: Fit, seconds: Fit, idle: float, meter: Meter) -> None:
    low, high = joules.interval95
    print(f"idle {idle:.3g} W; joules {meter.method} ({meter.source}), above idle power")
    print(f"{'kind of work':<28}{'J':>12}{'95 % interval':>26}{'s':>12}")
    names = ("prompt token", "generated token", "  per 1,000 earlier tokens", "pass")
    for i, name in enumerate(names):
        interval = f"[{low[i]:.3g}, {high[i]:.3g}]"
        print(f"{name:<28}{joules.values[i]:>12.4g}{interval:>26}{seconds.values[i]:>12.4g}")


def _draw(path: Path, phases: list[Level], joules: Fit) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for shape in SHAPES:
        levels = [p for p in phases if p.shape == shape]
        left.plot(
            [p.at_once for p in levels],
            [p.joules_per_token for p in levels],
            marker="o",
            label=shape,
        )
    left.set(xscale="log", yscale="log", xlabel="requests at once", ylabel="J per generated token")
    left.set_title("measured, above idle power")
    left.legend()
    for shape in SHAPES:
        levels = [p for p in phases if p.shape == shape]
        predicted = [p.told(joules.values) for p in levels]
        right.scatter(predicted, [p.joules_per_token for p in levels], label=shape)
    ends = right.get_xlim()
    right.plot(ends, ends, color="grey", linewidth=1)
    right.set(xscale="log", yscale="log", ylabel="J per generated token, measured")
    right.set(xlabel="predicted by the coefficients", title="prediction for each phase")
    right.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)
