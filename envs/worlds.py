"""Worlds from plain arguments: `live_world` and `replay_world`, which the environments wrap."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from envs.backends.live import LiveBackend
from envs.backends.replay import ReplayBackend
from envs.carbon.csv_traces import chosen_trace
from envs.carbon.intensity import IntensityTrace
from envs.clock import Clock, SteppedClock, WallClock
from envs.energy.meter import Meter
from envs.energy.meters.choose import choose_meter
from envs.errors import ConfigError
from envs.outcomes.multipliers import price_bound
from envs.outcomes.profile import Profile, with_known_quality
from envs.outcomes.profile_reader import read_profile
from envs.outcomes.reward import Reward
from envs.problem.arguments import choice, episode_steps, number, path, paths
from envs.problem.constraints import Constraints
from envs.problem.problem import (
    SPLITS,
    Problem,
    live_problem_like,
    profile_reward,
    replay_problem,
    replay_problem_like,
    with_prices,
)
from envs.requests.arrivals import ArrivalClock, read_arrivals
from envs.requests.directive import DEFAULT_CATALOGUE, Catalogue
from envs.requests.features import Featurizer
from envs.requests.mix import Mix, read_mix
from envs.requests.request import Request
from envs.requests.workload import generate_requests
from envs.upstream import Upstream
from envs.world import MAX_EPISODE_STEPS, World

# Requests of each task that measure a live server's footprint and quality under L0.
CALIBRATION_REQUESTS = 8
# The reward with its penalties for quality and latency, or the footprint's term alone.
REWARD_MODES = ("penalised", "footprint")


def live_world(  # noqa: PLR0913, the configuration of an environment
    upstream: str,
    *,
    model: str | None = None,
    requests: Sequence[Request] | None = None,
    profile: Path | str | None = None,
    intensity: Path | str | Sequence[Path | str] | None = None,
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
        profile: profile that the reward's references and default multipliers come from. If None
            (and without `like`), `CALIBRATION_REQUESTS` requests of each task are first sent at
            L0 to measure the references, and the default multipliers are high enough for
            directives of which nothing is known.
        intensity, zone: see `replay_world`.
        catalogue: the directives to choose among; None for the paper's three, or with `like` for
            those of the bundle.
        floor, floors, multipliers, like: see `envs.problem.constraints.Constraints`. The quality
            of a live answer is "correct".
        clock_speed: experiment seconds per real second.
        lanes: number of requests in flight together.
        max_episode_steps: requests per lane in an episode; None for no end.
        meter: meter of the server's energy; None to let `choose_meter` choose one.
        reward_mode: one of `REWARD_MODES`.

    Raises:
        UpstreamError, MeterError: the server or its meter cannot be reached.
        ConfigError: an argument is of a wrong kind or out of range.
    """
    constraints = Constraints(None, floor, floors, multipliers, like)
    steps = episode_steps(max_episode_steps)
    choice("reward_mode", reward_mode, REWARD_MODES)
    speed = number("clock_speed", clock_speed, "a number above 0", above=True)
    for name, given in (("profile", profile), ("catalogue", catalogue)):
        if like is not None and given is not None:
            raise ConfigError(f"{name}: the bundle given as `like` fixes it; leave {name} out")
    trace = _trace(intensity, zone)
    workload = tuple(requests or generate_requests(50, seed=0))
    tasks = sorted({request.task for request in workload})
    problem = None
    if like is not None:
        problem = live_problem_like(trace, constraints)
        known = problem.featurizer.tasks
        if unknown := [task for task in tasks if task not in known]:
            raise ConfigError(
                f"like {like}: the bundle was not trained on task {unknown[0]!r} of the requests; "
                f"give requests of {', '.join(known)}"
            )
    else:
        # Wrong names are refused before a request is sent.
        constraints.prices_of(Reward(1.0, {}, constraints.floors_of(tasks)))
    directives = (problem.catalogue if problem else catalogue) or DEFAULT_CATALOGUE
    client = Upstream(upstream, model).open()
    try:
        backend = LiveBackend(client, meter or choose_meter(upstream), directives, workload)
        if problem is None:
            if profile is None:
                reward = _calibrated(backend, trace, constraints)
            else:
                recorded = with_known_quality(read_profile(path("profile", profile)), "correct")
                reward = profile_reward(recorded, trace, constraints)
            problem = Problem(Featurizer(tasks), reward)
        return World(
            backend,
            problem.featurizer,
            trace,
            problem.reward,
            WallClock(speed),
            n_directives=len(directives),
            lanes=lanes,
            max_episode_steps=steps,
            tag_share=problem.tag_share,
            penalised=reward_mode == "penalised",
        )
    except BaseException:
        client.close()
        raise


def _calibrated(backend: LiveBackend, trace: IntensityTrace, constraints: Constraints) -> Reward:
    """Return a reward whose references are measured at L0, at the mean intensity.

    A task without references of answers gets no floor.

    Raises:
        ConfigError: no answer of a task is right, so there is no quality to keep.
    """
    tasks = np.array([request.task for request in backend.requests])
    names = sorted(set(tasks))
    rows = np.concatenate([np.flatnonzero(tasks == t)[:CALIBRATION_REQUESTS] for t in names])
    outcomes = backend.play(rows, np.zeros(len(rows), dtype=np.int64))
    floors = constraints.floors_of(names)
    reward = Reward(1.0, {}, {})
    grams = reward.grams(outcomes, np.full(len(rows), float(trace.g_per_kwh.mean())))
    reference = float(grams.mean())
    means, prices = {}, {}
    for task, floor in floors.items():
        of_task = tasks[rows] == task
        scores = outcomes.correct[of_task]
        if np.isnan(scores).all():
            continue
        means[task] = float(np.nanmean(scores))
        if means[task] == 0:
            raise ConfigError(
                f"task {task!r}: none of {len(scores)} answers without a directive is right, so "
                "there is no quality to keep; give a profile of more requests"
            )
        highest = float(grams[of_task].mean()) / reference
        prices[task] = price_bound(highest, 1 - floor, floor) or 0.0
    reward = Reward(reference, means, {task: floors[task] for task in means}, prices)
    return with_prices(reward, constraints.prices_of(reward))


def replay_world(  # noqa: PLR0913, the configuration of an environment
    profile: Profile | Path | str,
    *,
    model: str | None = None,
    intensity: Path | str | Sequence[Path | str] | None = None,
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
        model: model whose rows of the profile are used; needed if the file holds several.
        intensity: CSV of a carbon-intensity trace, a folder of them, or several paths; None for
            the shipped synthetic day.
        zone: grid zone; None for the joined hours of all zones.
        quality, floor, floors, multipliers, like: see `envs.problem.constraints.Constraints`.
            With `like`, a training prompt is rewarded by what was predicted for it from other
            prompts (cross-fitting), as in `sprout train`, and any other prompt by its own
            outcomes. Profile and intensity must be those of the bundle's training.
        split, hold_out: prompts to replay; see `envs.problem.problem.replay_problem`. With
            `like`, "train" (the default) are the prompts that the bundle was trained on and
            "held_out" all others; leave `hold_out` out.
        step_seconds: experiment time between two requests, s; not used with `arrivals`.
        lanes: number of independent streams of requests.
        max_episode_steps: requests per lane in an episode; None for no end.
        mix: shares of tasks by hour of the trace (`envs.requests.mix`), or a CSV of them;
            None to draw every request of the profile equally often.
        arrivals: CSV of a service's arrivals, which set the times of requests and the load
            in flight (`envs.requests.arrivals`); None for even times and a load of 0.
        reward_mode: one of `REWARD_MODES`.

    Raises:
        ConfigError: an argument is of a wrong kind or out of range.
    """
    constraints = Constraints(quality, floor, floors, multipliers, like)
    steps = episode_steps(max_episode_steps)
    choice("reward_mode", reward_mode, REWARD_MODES)
    step = number("step_seconds", step_seconds, "a number above 0", above=True)
    share = number("hold_out", hold_out, "a share of the prompts, 0 or more, below 1", most=1)
    if split is not None:
        choice("split", split, SPLITS)
    trace = _trace(intensity, zone)
    source = profile if isinstance(profile, Profile) else path("profile", profile)
    shares = mix if mix is None or isinstance(mix, Mix) else read_mix(path("mix", mix))
    if like is not None:
        for name, given in (("hold_out", hold_out), ("model", model)):
            if given:
                raise ConfigError(f"{name}: the bundle given as `like` fixes it; leave {name} out")
        problem = replay_problem_like(source, trace, constraints, split or "train")
    else:
        recorded = source if isinstance(source, Profile) else read_profile(source, model)
        problem = replay_problem(recorded, trace, constraints, split or "all", share, shares)
    replayed = problem.replayed
    assert replayed is not None
    clock: Clock = SteppedClock(step)
    load = None
    if arrivals is not None:
        tokens = max(1.0, float(replayed.outcomes.completion_tokens[:, 0].sum()))
        seconds_per_token = float(replayed.outcomes.device_seconds[:, 0].sum()) / tokens
        times = read_arrivals(path("arrivals", arrivals), seconds_per_token)
        clock = arrival_clock = ArrivalClock(times)
        load = arrival_clock.in_flight
    return World(
        ReplayBackend(replayed, load),
        problem.featurizer,
        trace,
        problem.reward,
        clock,
        n_directives=len(replayed.directives),
        lanes=lanes,
        max_episode_steps=steps,
        mix=shares,
        tag_share=problem.tag_share,
        parts=problem.parts,
        penalised=reward_mode == "penalised",
    )


def _trace(intensity: Path | str | Sequence[Path | str] | None, zone: str | None) -> IntensityTrace:
    files = paths("intensity", intensity)
    if zone is not None and not files:
        raise ConfigError(f"zone {zone!r}: the synthetic day has no zones; give intensity")
    return chosen_trace(files, zone)
