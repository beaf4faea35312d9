"""`sprout calibrate`: what a server's work costs, by load: joules and seconds of each kind."""

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

# Long prompts with short answers, short ones with long answers, and all together: what reading
# costs can then be told from what generating does.
SHAPES = {
    "reading": [Question(400, 4), Question(800, 4)],
    "generating": [Question(20, 64), Question(20, 192)],
    "both": [Question(20, 16), Question(300, 96), Question(100, 160)],
}
FIT_SECONDS = 4.0


@dataclass(frozen=True)
class Level:
    """One phase: so many requests of a shape at once.

    Attributes:
        joules: above idle power.
        done: work of each of `envs.energy.work.KINDS`.
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
        """J a generated token, everything above idle power counted."""
        return self.joules / max(1, self.completion_tokens)

    def told(self, joules: Float64Array) -> float:
        """J a generated token, by coefficients."""
        return float(joules @ np.array(self.done)) / max(1, self.completion_tokens)


class Calibrate(MeterFlags, Settings):
    """Measure idle power, then load the server at each level; write coefficients and a figure.

    Nobody else may use the server, or the meter's devices, meanwhile.
    """

    upstream: str = Field(description="URL of the Llama server")
    model: str | None = Field(None, description="model to ask for; default the server's first")
    out: Path = Field(Path("runs/calibration"), description="folder to write to")
    at_once: str = Field("1,4,16,32", description="requests in flight together, a level each")
    seconds: float = Field(20.0, ge=1, description="of each phase; there are three a level")
    idle_seconds: float = Field(20.0, ge=1, description="without requests, at first")
    window_seconds: float = Field(1.0, ge=0.1, description="between readings of the meter")
    seed: int = 0
    json_path: Path | None = Field(None, alias="json", description="machine-readable result")

    def cli_cmd(self) -> None:
        """Measure, fit, write."""
        levels = levels_of(self.at_once)
        with Upstream(self.upstream, self.model) as upstream:
            model = upstream.model
        meter = choose_meter(self.upstream, wanted=self.wanted())
        idle = idle_watts(meter, self.idle_seconds, self.window_seconds)
        attribution = Attribution(idle_watts=idle, fit_seconds=min(FIT_SECONDS, self.seconds / 2))
        phases: list[Level] = []
        # The first answers of a server make its caches and kernels.
        play(self.upstream, model, 1, timed(2.0, SHAPES["both"]), self.seed)
        for count in levels:
            for shape, questions in SHAPES.items():
                with metered(meter, self.window_seconds) as windows:
                    ask = timed(self.seconds, questions, self.seed)
                    activities = play(self.upstream, model, count, ask, self.seed + len(phases))
                phases.append(_settled(attribution, windows, activities, count, shape, idle))
                print(_line(phases[-1]))
        found, seconds = fitted(attribution)
        coefficients = Coefficients(
            found.values,
            seconds.values,
            f"{model}, calibrated {time.strftime('%Y-%m-%d', time.gmtime())} by {meter.source}",
            found.errors,
            idle,
        )
        coefficients.write(self.out / "coefficients.json")
        self.save(self.out)
        _draw(self.out / "calibration.png", phases, found)
        _show(found, seconds, idle, meter)
        print(f"in {self.out}: coefficients.json, calibration.png")
        result = {
            "schema": 1,
            "model": model,
            "meter": {"source": meter.source, "method": meter.method, "devices": meter.devices},
            "idle_watts": idle,
            "joules": dict(zip(KINDS, found.values.tolist(), strict=True)),
            "joules_error": dict(zip(KINDS, found.errors.tolist(), strict=True)),
            "seconds": dict(zip(KINDS, seconds.values.tolist(), strict=True)),
            "phases": [
                asdict(p) | {"joules_per_token": p.joules_per_token, "told": p.told(found.values)}
                for p in phases
            ],
        }
        write_json(self.json_path, result)


def idle_watts(meter: Meter, seconds: float, window_seconds: float = 1.0) -> float:
    """W while nobody asks anything; 0 where the meter stands still, as processor time does."""
    try:
        with metered(meter, window_seconds) as windows:
            time.sleep(seconds)
    except MeterError:
        return 0.0
    # Of the whole time: a meter that hardly moves has few and long windows.
    return sum(w.joules for w in windows) / max(seconds, sum(w.seconds for w in windows))


def fitted(attribution: Attribution) -> tuple[Fit, Fit]:
    """Joules, and seconds, of each kind of work.

    Raises:
        MeterError: too few windows were measured.
    """
    done, joules, seconds = attribution.prices.seen
    if len(joules) <= len(KINDS):
        raise MeterError(f"only {len(joules)} spans of windows were metered; give --seconds more")
    return fit_costs(done, joules, PRIOR), fit_costs(done, seconds, PRIOR)


def levels_of(text: str) -> list[int]:
    """Numbers of requests at once, separated by commas.

    Raises:
        ConfigError: one is none.
    """
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise ConfigError(f"--at-once {text!r}: give numbers from 1 on, with commas")
    return found


def _settled(
    attribution: Attribution,
    windows: list[EnergyReading],
    activities: list[Activity],
    at_once: int,
    shape: str,
    idle: float,
) -> Level:
    for activity in activities:
        attribution.ended(activity)
    for window in windows:
        attribution.window(window)
    attribution.settle(float("inf"))
    seconds = sum(w.seconds for w in windows)
    joules = sum(w.joules for w in windows)
    tokens = sum(a.completion_tokens for a in activities)
    above = max(0.0, joules - idle * seconds)
    bounds = np.array([(w.start, w.end) for w in windows])
    done = tuple(work_in_windows(activities, bounds).done.sum(axis=(0, 1)).tolist())
    power = joules / seconds
    return Level(at_once, shape, len(activities), tokens, above, seconds, power, done)


def _line(level: Level) -> str:
    return (
        f"{level.at_once:>4} at once, {level.shape:<11}{level.requests:>6} requests"
        f"{level.completion_tokens:>8} tokens in {level.seconds:6.1f} s at {level.watts:7.2f} W: "
        f"{level.joules_per_token:.4g} J a token"
    )


def _show(found: Fit, seconds: Fit, idle: float, meter: Meter) -> None:
    low, high = found.interval95
    print(f"idle {idle:.3g} W; joules {meter.method} ({meter.source}), above idle power")
    print(f"{'kind of work':<28}{'J':>12}{'95 % interval':>26}{'s':>12}")
    names = ("a prompt token", "a generated token", "  1,000 tokens before it", "a pass")
    for i, name in enumerate(names):
        interval = f"[{low[i]:.3g}, {high[i]:.3g}]"
        print(f"{name:<28}{found.values[i]:>12.4g}{interval:>26}{seconds.values[i]:>12.4g}")


def _draw(path: Path, phases: list[Level], found: Fit) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for shape in SHAPES:
        some = [p for p in phases if p.shape == shape]
        left.plot(
            [p.at_once for p in some], [p.joules_per_token for p in some], marker="o", label=shape
        )
    left.set(xscale="log", yscale="log", xlabel="requests at once", ylabel="J a generated token")
    left.set_title("measured, above idle power")
    left.legend()
    for shape in SHAPES:
        some = [p for p in phases if p.shape == shape]
        told = [p.told(found.values) for p in some]
        right.scatter(told, [p.joules_per_token for p in some], label=shape)
    ends = right.get_xlim()
    right.plot(ends, ends, color="grey", linewidth=1)
    right.set(xscale="log", yscale="log", ylabel="J a generated token, measured")
    right.set(xlabel="by the coefficients", title="each phase as the coefficients have it")
    right.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)
