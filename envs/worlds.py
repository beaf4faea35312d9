"""Worlds from plain arguments: `live_world` and `replay_world`, which the environments wrap."""

from collections.abc import Sequence

import numpy as np

from envs.backends.live import LiveBackend
from envs.backends.replay import ReplayBackend
from envs.carbon.intensity import IntensityTrace
from envs.clock import Clock, SteppedClock, WallClock
from envs.energy.meters.choose import choose_meter
from envs.errors import ConfigError
from envs.outcomes.multipliers import price_bound
from envs.outcomes.profile import Profile, with_known_quality
from envs.outcomes.profile_reader import read_profile
from envs.outcomes.reward import Reward
from envs.problem.arguments import LiveArguments, ReplayArguments
from envs.problem.checks import episode_steps, path
from envs.problem.problem import (
    Problem,
    live_problem_like,
    profile_reward,
    replay_problem,
    replay_problem_like,
    with_prices,
)
from envs.requests.arrivals import ArrivalClock, read_arrivals
from envs.requests.directive import DEFAULT_CATALOGUE
from envs.requests.features import Featurizer
from envs.requests.mix import Mix, read_mix
from envs.requests.request import Request
from envs.requests.workload import generate_requests
from envs.upstream import Upstream
from envs.world import MAX_EPISODE_STEPS, World

# Requests of each task that measure a live server's footprint and quality under L0.
CALIBRATION_REQUESTS = 8


def live_world(
    given: LiveArguments,
    *,
    lanes: int = 1,
    max_episode_steps: int | None = MAX_EPISODE_STEPS,
) -> World:
    """Return a world that sends its requests to a live server.

    Args:
        given: the environment's arguments.
        lanes: number of requests in flight together.
        max_episode_steps: requests per lane in an episode; None for no end.

    Raises:
        UpstreamError, MeterError: the server or its meter cannot be reached.
        ConfigError: the arguments contradict each other or the server.
    """
    steps = episode_steps(max_episode_steps)
    trace = given.trace()
    workload = tuple(given.requests or generate_requests(50, seed=0))
    problem = _problem_before_requests(given, trace, workload)
    directives = (problem.catalogue if problem else given.catalogue) or DEFAULT_CATALOGUE
    client = Upstream(given.upstream, given.model).open()
    try:
        meter = given.meter or choose_meter(given.upstream)
        backend = LiveBackend(client, meter, directives, workload)
        if problem is None:
            problem = Problem(Featurizer(_tasks(workload)), _calibrated(backend, trace, given))
        return World(
            backend,
            problem.featurizer,
            trace,
            problem.reward,
            WallClock(given.clock_speed),
            n_directives=len(directives),
            lanes=lanes,
            max_episode_steps=steps,
            tag_share=problem.tag_share,
            penalised=given.reward_mode == "penalised",
            hidden=problem.hidden,
            price_range=given.price_range,
            shows_prices=given.like is not None,
        )
    except BaseException:
        client.close()
        raise


def _tasks(workload: Sequence[Request]) -> list[str]:
    return sorted({request.task for request in workload})


def _problem_before_requests(
    given: LiveArguments, trace: IntensityTrace, workload: Sequence[Request]
) -> Problem | None:
    """Return the problem of a bundle or a profile; None if it takes requests to measure it.

    Raises:
        ConfigError: `floors`, `multipliers` or the workload names what is not there.
    """
    tasks = _tasks(workload)
    if given.like is not None:
        problem = live_problem_like(trace, given)
        known = problem.featurizer.tasks
        if unknown := [task for task in tasks if task not in known]:
            raise ConfigError(
                f"like {given.like}: the bundle was not trained on task {unknown[0]!r} of the "
                f"requests; give requests of {', '.join(known)}"
            )
        return problem
    if given.profile is not None:
        profile = with_known_quality(read_profile(path("profile", given.profile)), "correct")
        return Problem(Featurizer(tasks), profile_reward(profile, trace, given))
    given.prices_of(Reward(1.0, {}, given.floors_of(tasks)))
    return None


def _calibrated(backend: LiveBackend, trace: IntensityTrace, given: LiveArguments) -> Reward:
    """Return a reward whose references are measured at L0, at the mean intensity.

    A task without references of answers gets no floor.

    Raises:
        ConfigError: no answer of a task with a floor above 0 is right.
    """
    tasks = np.array([request.task for request in backend.requests])
    names = _tasks(backend.requests)
    rows = np.concatenate([np.flatnonzero(tasks == t)[:CALIBRATION_REQUESTS] for t in names])
    outcomes = backend.play(rows, np.zeros(len(rows), dtype=np.int64))
    floors = given.floors_of(names)
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
        if means[task] == 0 and floor > 0:
            raise ConfigError(
                f"task {task!r}: none of {len(scores)} answers without a directive is right, so "
                "there is no quality to keep; give a profile of more requests, or "
                f"floors={{{task!r}: 0}} to set no floor"
            )
        highest = float(grams[of_task].mean()) / reference
        prices[task] = price_bound(highest, 1 - floor, floor) if means[task] else 0.0
    reward = Reward(reference, means, {task: floors[task] for task in means}, prices)
    return with_prices(reward, given.prices_of(reward))


def replay_world(
    given: ReplayArguments,
    *,
    lanes: int = 1,
    max_episode_steps: int | None = MAX_EPISODE_STEPS,
) -> World:
    """Return a world that replays a profile.

    Args:
        given: the environment's arguments.
        lanes: number of independent streams of requests.
        max_episode_steps: requests per lane in an episode; None for no end.

    Raises:
        ConfigError: the arguments contradict each other or the profile.
    """
    steps = episode_steps(max_episode_steps)
    trace = given.trace()
    mix = given.mix
    shares = mix if mix is None or isinstance(mix, Mix) else read_mix(path("mix", mix))
    problem = _replayed(given, trace, shares)
    replayed = problem.replayed
    assert replayed is not None
    clock: Clock = SteppedClock(given.step_seconds)
    load = None
    if given.arrivals is not None:
        tokens = max(1.0, float(replayed.outcomes.completion_tokens[:, 0].sum()))
        seconds_per_token = float(replayed.outcomes.device_seconds[:, 0].sum()) / tokens
        times = read_arrivals(path("arrivals", given.arrivals), seconds_per_token)
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
        penalised=given.reward_mode == "penalised",
        hidden=problem.hidden,
        price_range=given.price_range,
        shows_prices=given.like is not None,
    )


def _replayed(given: ReplayArguments, trace: IntensityTrace, mix: Mix | None) -> Problem:
    """Return what the environment observes, rewards and replays."""
    profile = given.profile
    source = profile if isinstance(profile, Profile) else path("profile", profile)
    if given.like is not None:
        return replay_problem_like(source, trace, given, given.split or "train")
    recorded = source if isinstance(source, Profile) else read_profile(source, given.model)
    return replay_problem(recorded, trace, given, given.split or "all", given.hold_out, mix)
