"""Registers the environments with Gymnasium: `gymnasium.make("envs.registration:sprout/...")`.

`sprout/Llama2Live-v0` talks to a live server, `sprout/Llama2Replay-v0` replays a
profile. Both exist in scalar form and, through `gymnasium.make_vec`, as one vector
environment whose requests are in flight together.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from envs.carbon.csv_traces import read_trace
from envs.clock import Clock, SteppedClock, WallClock
from envs.energy.meter import Meter
from envs.energy.meters.choose import choose_meter
from envs.errors import ConfigError
from envs.live import LiveBackend
from envs.llama2 import Llama2Env, Llama2VectorEnv
from envs.outcomes.profile import Profile
from envs.outcomes.profile_reader import read_profile
from envs.outcomes.reward import Reward, reward_from_profile
from envs.replay import ReplayBackend
from envs.requests.arrivals import ArrivalClock, read_arrivals
from envs.requests.directive import DEFAULT_CATALOGUE, Catalogue
from envs.requests.features import Featurizer
from envs.requests.mix import Mix, read_mix
from envs.requests.request import Request
from envs.requests.workload import generate_requests
from envs.upstream import Upstream
from envs.world import World

DEFAULT_FLOOR = 0.95
CALIBRATION_REQUESTS = 16


def live_world(  # noqa: PLR0913, the configuration of an environment
    upstream: str,
    *,
    model: str | None = None,
    requests: Sequence[Request] | None = None,
    profile: Path | None = None,
    intensity: Path | None = None,
    zone: str | None = None,
    catalogue: Catalogue = DEFAULT_CATALOGUE,
    floor: float = DEFAULT_FLOOR,
    clock_speed: float = 1.0,
    lanes: int = 1,
    episode_requests: int = 64,
    meter: Meter | None = None,
) -> World:
    """A world on a live server.

    Args:
        upstream: URL of an OpenAI-compatible server on this machine.
        requests: the workload; default 50 generated requests a task.
        profile: gives the reward its L0 references; without it a few requests are
            sent at L0 first and quality under L0 is taken as 1.
        clock_speed: experiment seconds per second.
        lanes: requests in flight together.
        meter: of the server's energy; default the best there is.

    Raises:
        UpstreamError, MeterError: the server or its meter cannot be reached.
    """
    client = Upstream(upstream, model).open()
    try:
        workload = tuple(requests or generate_requests(50, seed=0))
        backend = LiveBackend(client, meter or choose_meter(upstream), catalogue, workload)
        trace = read_trace(intensity, zone)
        tasks = sorted({request.task for request in workload})
        floors = dict.fromkeys(tasks, floor)
        mean_intensity = float(trace.g_per_kwh.mean())
        if profile is not None:
            reward = reward_from_profile(read_profile(profile), mean_intensity, floors)
        else:
            reward = _calibrated(backend, mean_intensity, floors)
        return World(
            backend,
            Featurizer(tasks),
            trace,
            reward,
            WallClock(clock_speed),
            n_directives=len(catalogue),
            lanes=lanes,
            episode_requests=episode_requests,
        )
    except BaseException:
        client.close()
        raise


def _calibrated(backend: LiveBackend, mean_intensity: float, floors: dict[str, float]) -> Reward:
    rows = np.arange(min(CALIBRATION_REQUESTS, len(backend.requests)))
    outcomes = backend.play(rows, np.zeros(len(rows), dtype=np.int64))
    reward = Reward(1.0, dict.fromkeys(floors, 1.0), floors)
    grams = reward.grams(outcomes, np.full(len(rows), mean_intensity))
    reward.footprint_ref_grams = float(grams.mean())
    return reward


def replay_world(  # noqa: PLR0913, the configuration of an environment
    profile: Profile | Path,
    *,
    intensity: Path | None = None,
    zone: str | None = None,
    floor: float = DEFAULT_FLOOR,
    step_seconds: float = 60.0,
    lanes: int = 1,
    episode_requests: int = 64,
    mix: Mix | Path | str | None = None,
    arrivals: Path | str | None = None,
) -> World:
    """A world that replays a profile.

    Args:
        step_seconds: experiment time from a request to the next, if they come evenly.
        mix: shares of tasks by hour of the trace (`envs.requests.mix`), or a CSV of them; default
            the profile's own.
        arrivals: CSV of a service's arrivals, which then give the times and the load in
            flight (`envs.requests.arrivals`); the load is 0 without it.
    """
    recorded = profile if isinstance(profile, Profile) else read_profile(profile)
    clock: Clock = SteppedClock(step_seconds)
    load = None
    if arrivals is not None:
        tokens = max(1.0, float(recorded.outcomes.completion_tokens[:, 0].sum()))
        seconds_per_token = float(recorded.outcomes.device_seconds[:, 0].sum()) / tokens
        clock = arriving = ArrivalClock(read_arrivals(Path(arrivals), seconds_per_token))
        load = arriving.in_flight
    trace = read_trace(intensity, zone)
    floors = dict.fromkeys(recorded.tasks, floor)
    return World(
        ReplayBackend(recorded, load),
        Featurizer(recorded.tasks),
        trace,
        reward_from_profile(recorded, float(trace.g_per_kwh.mean()), floors),
        clock,
        n_directives=len(recorded.directives),
        lanes=lanes,
        episode_requests=episode_requests,
        mix=read_mix(Path(mix)) if isinstance(mix, Path | str) else mix,
    )


def _scalar(build: Any) -> Any:
    def make(**arguments: Any) -> Llama2Env:
        arguments.pop("render_mode", None)
        return Llama2Env(build(**arguments, lanes=1))

    return make


def _vector(build: Any) -> Any:
    def make(num_envs: int, **arguments: Any) -> Llama2VectorEnv:
        if num_envs < 1:
            raise ConfigError(f"num_envs {num_envs}: give 1 or more")
        return Llama2VectorEnv(build(**arguments, lanes=num_envs))

    return make


gymnasium.register(
    "sprout/Llama2Live-v0",
    entry_point=_scalar(live_world),
    vector_entry_point=_vector(live_world),
    nondeterministic=True,
)
gymnasium.register(
    "sprout/Llama2Replay-v0",
    entry_point=_scalar(replay_world),
    vector_entry_point=_vector(replay_world),
)
