"""Worlds from plain arguments: `live_world` and `replay_world`, which the environments wrap."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from envs.backends.live import LiveBackend
from envs.backends.replay import ReplayBackend
from envs.carbon.csv_traces import read_trace
from envs.carbon.intensity import IntensityTrace
from envs.clock import Clock, SteppedClock, WallClock
from envs.energy.meter import Meter
from envs.energy.meters.choose import choose_meter
from envs.errors import ConfigError
from envs.outcomes.multipliers import safe_multiplier
from envs.outcomes.profile import Profile
from envs.outcomes.profile_reader import read_profile
from envs.outcomes.reward import Reward
from envs.problem import REWARD_MODES, Constraints, Problem, live_problem_like, replay_problem
from envs.requests.arrivals import ArrivalClock, read_arrivals
from envs.requests.directive import DEFAULT_CATALOGUE, Catalogue
from envs.requests.features import Featurizer
from envs.requests.mix import Mix, read_mix
from envs.requests.request import Request
from envs.requests.workload import generate_requests
from envs.upstream import Upstream
from envs.world import MAX_EPISODE_STEPS, World

CALIBRATION_REQUESTS = 16


def live_world(  # noqa: PLR0913, the configuration of an environment
    upstream: str,
    *,
    model: str | None = None,
    requests: Sequence[Request] | None = None,
    profile: Path | str | None = None,
    intensity: Path | str | None = None,
    zone: str | None = None,
    catalogue: Catalogue | None = None,
    floor: float | None = None,
    floors: Mapping[str, float] | None = None,
    multipliers: float | Mapping[str, float] | None = None,
    like: Path | str | None = None,
    clock_speed: float = 1.0,
    lanes: int = 1,
    max_episode_steps: int | None = MAX_EPISODE_STEPS,
    meter: Meter | None = None,
    reward_mode: str = "penalised",
) -> World:
    """Return a world that sends its requests to a live server.

    Args:
        upstream: URL of an OpenAI-compatible server on this machine.
        model: name of the model; None for the server's first model.
        requests: the workload; None for 50 generated requests per task.
        profile: profile whose L0 means are the reward's references. If None (and without
            `like`), `CALIBRATION_REQUESTS` requests are first sent at L0 to measure the reference
            footprint, and the mean quality under L0 is assumed to be 1.
        intensity: CSV of a carbon-intensity trace; None for the shipped synthetic day.
        zone: grid zone; needed only if the CSV holds several zones.
        catalogue: the directives to choose among; None for the paper's three, or with `like` for
            those of the bundle.
        floor, floors, multipliers, like: see `envs.problem.Constraints`; a live answer's quality
            is "correct". Without outcomes of directives (no `profile`, no `like`) the default
            multipliers are high enough for any outcome (`safe_multiplier`).
        clock_speed: experiment seconds per real second.
        lanes: number of requests in flight together.
        max_episode_steps: requests per lane in an episode; None for no end.
        meter: meter of the server's energy; None to let `choose_meter` choose one.
        reward_mode: one of `envs.problem.REWARD_MODES`.

    Raises:
        UpstreamError, MeterError: the server or its meter cannot be reached.
        ConfigError: an argument is out of range.
    """
    constraints = Constraints(None, floor, floors, multipliers, like)
    _check(max_episode_steps, reward_mode)
    _check_seconds("clock_speed", clock_speed)
    for name, given in (("profile", profile), ("catalogue", catalogue)):
        if like is not None and given is not None:
            raise ConfigError(f"{name}: the bundle given with like fixes it; leave {name} out")
    trace = read_trace(None if intensity is None else Path(intensity), zone)
    problem = None if like is None else live_problem_like(trace, constraints)
    directives = (problem.catalogue if problem else catalogue) or DEFAULT_CATALOGUE
    client = Upstream(upstream, model).open()
    try:
        workload = tuple(requests or generate_requests(50, seed=0))
        backend = LiveBackend(client, meter or choose_meter(upstream), directives, workload)
        problem = problem or _live_problem(backend, trace, constraints, profile)
        return World(
            backend,
            problem.featurizer,
            trace,
            problem.reward,
            WallClock(clock_speed),
            n_directives=len(directives),
            lanes=lanes,
            max_episode_steps=max_episode_steps,
            tag_share=problem.tag_share,
            penalised=reward_mode == "penalised",
        )
    except BaseException:
        client.close()
        raise


def _live_problem(
    backend: LiveBackend,
    trace: IntensityTrace,
    constraints: Constraints,
    profile: Path | str | None,
) -> Problem:
    tasks = sorted({request.task for request in backend.requests})
    if profile is None:
        reward = _calibrated(backend, trace, constraints.floors_of(tasks))
        defaults = reward.multipliers
    else:
        reward, defaults = constraints.of_profile(read_profile(Path(profile)), trace)
    return Problem(Featurizer(tasks), constraints.priced(reward, defaults))


def _calibrated(backend: LiveBackend, trace: IntensityTrace, floors: dict[str, float]) -> Reward:
    rows = np.arange(min(CALIBRATION_REQUESTS, len(backend.requests)))
    outcomes = backend.play(rows, np.zeros(len(rows), dtype=np.int64))
    reward = Reward(1.0, dict.fromkeys(floors, 1.0), floors)
    grams = reward.grams(outcomes, np.full(len(rows), trace.g_per_kwh.mean()))
    dirtiest = reward.grams(outcomes, np.full(len(rows), trace.g_per_kwh.max()))
    reference = float(grams.mean())
    highest = float(dirtiest.max()) / reference
    prices = {task: safe_multiplier(floor, highest) for task, floor in floors.items()}
    return replace(reward, footprint_ref_grams=reference, multipliers=prices)


def replay_world(  # noqa: PLR0913, the configuration of an environment
    profile: Profile | Path | str,
    *,
    intensity: Path | str | None = None,
    zone: str | None = None,
    quality: str | None = None,
    floor: float | None = None,
    floors: Mapping[str, float] | None = None,
    multipliers: float | Mapping[str, float] | None = None,
    like: Path | str | None = None,
    split: str | None = None,
    hold_out: float = 0.0,
    step_seconds: float = 60.0,
    lanes: int = 1,
    max_episode_steps: int | None = MAX_EPISODE_STEPS,
    mix: Mix | Path | str | None = None,
    arrivals: Path | str | None = None,
    reward_mode: str = "penalised",
) -> World:
    """Return a world that replays a profile.

    Args:
        profile: the profile, or the path of its Parquet file.
        intensity: CSV of a carbon-intensity trace; None for the shipped synthetic day.
        zone: grid zone; needed only if the CSV holds several zones.
        quality, floor, floors, multipliers, like: see `envs.problem.Constraints`. With `like`, a
            training prompt is rewarded by what was predicted for it from other prompts
            (cross-fitting), as in `sprout train`, and any other prompt by its own outcomes.
        split, hold_out: the prompts to replay; see `envs.problem.replay_problem`.
        step_seconds: experiment time between two requests, s; not used with `arrivals`.
        lanes: number of independent streams of requests.
        max_episode_steps: requests per lane in an episode; None for no end.
        mix: shares of tasks by hour of the trace (`envs.requests.mix`), or a CSV of them;
            None to draw every request of the profile equally often.
        arrivals: CSV of a service's arrivals, which set the times of requests and the load
            in flight (`envs.requests.arrivals`); None for even times and a load of 0.
        reward_mode: one of `envs.problem.REWARD_MODES`.

    Raises:
        ConfigError: an argument is out of range.
    """
    constraints = Constraints(quality, floor, floors, multipliers, like)
    _check(max_episode_steps, reward_mode)
    _check_seconds("step_seconds", step_seconds)
    recorded = profile if isinstance(profile, Profile) else read_profile(Path(profile))
    trace = read_trace(None if intensity is None else Path(intensity), zone)
    problem = replay_problem(recorded, trace, constraints, split, hold_out)
    replayed = problem.replayed
    assert replayed is not None
    clock: Clock = SteppedClock(step_seconds)
    load = None
    if arrivals is not None:
        tokens = max(1.0, float(replayed.outcomes.completion_tokens[:, 0].sum()))
        seconds_per_token = float(replayed.outcomes.device_seconds[:, 0].sum()) / tokens
        clock = arrival_clock = ArrivalClock(read_arrivals(Path(arrivals), seconds_per_token))
        load = arrival_clock.in_flight
    return World(
        ReplayBackend(replayed, load),
        problem.featurizer,
        trace,
        problem.reward,
        clock,
        n_directives=len(replayed.directives),
        lanes=lanes,
        max_episode_steps=max_episode_steps,
        mix=read_mix(Path(mix)) if isinstance(mix, Path | str) else mix,
        tag_share=problem.tag_share,
        parts=problem.parts,
        penalised=reward_mode == "penalised",
    )


def _check(max_episode_steps: int | None, reward_mode: str) -> None:
    if max_episode_steps is not None and max_episode_steps < 1:
        raise ConfigError(f"max_episode_steps {max_episode_steps}: give 1 or more")
    if reward_mode not in REWARD_MODES:
        raise ConfigError(f"reward_mode {reward_mode!r}: give one of {', '.join(REWARD_MODES)}")


def _check_seconds(name: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise ConfigError(f"{name} {value}: give a number above 0")
