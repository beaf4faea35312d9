"""The arguments of the environments, checked when they are given."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Self

from envs.carbon.csv_traces import chosen_trace
from envs.carbon.intensity import IntensityTrace
from envs.energy.meter import Meter
from envs.errors import ConfigError
from envs.outcomes.profile import Profile
from envs.problem.checks import choice, number, paths, positive_range, text_or_none
from envs.problem.constraints import Constraints
from envs.problem.problem import SPLITS
from envs.requests.directive import Catalogue
from envs.requests.mix import Mix
from envs.requests.request import Request

# The reward with its penalties for quality and latency, or the footprint's term alone.
REWARD_MODES = ("penalised", "footprint")


@dataclass(frozen=True, kw_only=True)
class Arguments(Constraints):
    """Arguments that both environments have, beside those of `Constraints`.

    Attributes:
        intensity: CSV of a carbon-intensity trace, a folder of them, several paths, or a constant
            number in gCO2e/kWh; None for the shipped synthetic day.
        zone: grid zone; None for the joined hours of all zones.
        reward_mode: one of `REWARD_MODES`.
        price_range: lowest and highest price of quality. Each episode draws one, and the
            observation shows it, so that one policy can be learned for all floors
            (`envs.outcomes.prices`). None for the prices in `multipliers`.

    Raises:
        ConfigError: an argument is of a wrong kind or out of range.
    """

    intensity: Path | str | Sequence[Path | str] | None = None
    zone: str | None = None
    reward_mode: str = "penalised"
    price_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        choice("reward_mode", self.reward_mode, REWARD_MODES)
        text_or_none("zone", self.zone)
        if self.price_range is not None:
            positive_range("price_range", self.price_range)
            if self.multipliers is not None:
                raise ConfigError("multipliers: price_range draws the prices; give one of the two")

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Return the arguments; raise ConfigError if one is unknown, missing or wrong."""
        known = {field.name: field for field in fields(cls)}
        if unknown := [name for name in given if name not in known]:
            raise ConfigError(f"no argument {unknown[0]!r}; the arguments are {', '.join(known)}")
        for name, field in known.items():
            if field.default is MISSING and name not in given:
                raise ConfigError(f"argument {name!r} is missing; see help({cls.__name__})")
        return cls(**given)

    def trace(self) -> IntensityTrace:
        """Read the carbon intensity."""
        files = paths("intensity", self.intensity)
        if self.zone is not None and not files:
            raise ConfigError(f"zone {self.zone!r}: the synthetic day has no zones; give intensity")
        return chosen_trace(files, self.zone)

    def refuse_with_like(self, *names: str) -> None:
        """Raise ConfigError if an argument is given that the bundle `like` fixes."""
        for name in names:
            if self.like is not None and getattr(self, name):
                raise ConfigError(f"{name}: the bundle given as `like` fixes it; leave {name} out")


@dataclass(frozen=True, kw_only=True)
class LiveArguments(Arguments):
    """Arguments of the live environment; the quality of a live answer is "correct".

    Attributes:
        upstream: URL of an OpenAI-compatible server on this machine.
        model: name of the model; None for the server's first model.
        requests: the workload; None for 50 generated requests per task.
        profile: profile that the reward's references and default multipliers come from. If None
            (and without `like`), `CALIBRATION_REQUESTS` requests of each task are first sent at
            L0 to measure the references, and the default multipliers are high enough for
            directives of which nothing is known.
        catalogue: the directives to choose among; None for the paper's three, or with `like` for
            those of the bundle.
        clock_speed: experiment seconds per real second.
        meter: meter of the server's energy; None to let `choose_meter` choose one.
    """

    upstream: str
    model: str | None = None
    requests: Sequence[Request] | None = None
    profile: Path | str | None = None
    catalogue: Catalogue | None = None
    clock_speed: float = 1.0
    meter: Meter | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        text_or_none("model", self.model)
        number("clock_speed", self.clock_speed, "a number above 0", above=True)
        if self.quality not in (None, "correct"):
            raise ConfigError(
                f"quality {self.quality!r}: no judge compares live answers; leave quality out"
            )
        self.refuse_with_like("profile", "catalogue")


@dataclass(frozen=True, kw_only=True)
class ReplayArguments(Arguments):
    """Arguments of the replay environment.

    With `like`, a training prompt is rewarded by what was predicted for it from other prompts
    (cross-fitting), as in `sprout train`, and any other prompt by its own outcomes. Profile and
    intensity must be those of the bundle's training.

    Attributes:
        profile: the profile, or the path of its Parquet file.
        model: model whose rows of the profile are used; needed if the file holds several.
        split, hold_out: prompts to replay; see `envs.problem.problem.replay_problem`. With
            `like`, "train" (the default) are the prompts that the bundle was trained on and
            "held_out" all others; leave `hold_out` out.
        step_seconds: experiment time between two requests, s; not used with `arrivals`.
        mix: shares of tasks by hour of the trace (`envs.requests.mix`), or a CSV of them;
            None to draw every request of the profile equally often.
        arrivals: CSV of a service's arrivals, which set the times of requests and the load
            in flight (`envs.requests.arrivals`); None for even times and a load of 0.
    """

    profile: Profile | Path | str
    model: str | None = None
    split: str | None = None
    hold_out: float = 0.0
    step_seconds: float = 60.0
    mix: Mix | Path | str | None = None
    arrivals: Path | str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        text_or_none("model", self.model)
        number("step_seconds", self.step_seconds, "a number above 0", above=True)
        number("hold_out", self.hold_out, "a share of the prompts, 0 or more, below 1", most=1)
        if self.split is not None:
            choice("split", self.split, SPLITS)
        self.refuse_with_like("hold_out", "model")
