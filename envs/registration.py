"""Registers the environments with Gymnasium: `gymnasium.make("envs.registration:sprout/...")`.

`sprout/Llama2Live-v0` sends requests to a live server; `sprout/Llama2Replay-v0` replays a
profile. `gymnasium.make` returns the scalar form. `gymnasium.make_vec` returns one vector
environment, whose requests are in flight together. Keyword arguments of the environments are
those of `live_world` and `replay_world`.
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
# The reward with its penalties for quality and latency, or the footprint's term alone.
REWARD_MODES = ("penalised", "footprint")


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
    reward_mode: str = "penalised",
) -> World:
    """Return a world that sends its requests to a live server.

    Args:
        upstream: URL of an OpenAI-compatible server on this machine.
        model: name of the model; None for the server's first model.
        requests: the workload; None for 50 generated requests per task.
        profile: profile whose L0 means are the reward's references. If None,
            `CALIBRATION_REQUESTS` requests are first sent at L0 to measure the reference
            footprint, and the mean quality under L0 is assumed to be 1.
        intensity: CSV of a carbon-intensity trace; None for the shipped synthetic day.
        zone: grid zone; needed only if the CSV holds several zones.
        catalogue: the directives to choose among.
        floor: least ratio of a task's quality to its quality under L0.
        clock_speed: experiment seconds per real second.
        lanes: number of requests in flight together.
        episode_requests: requests per lane in an episode.
        meter: meter of the server's energy; None to let `choose_meter` choose one.
        reward_mode: one of `REWARD_MODES`.

    Raises:
        UpstreamError, MeterError: the server or its meter cannot be reached.
        ConfigError: an argument is out of range.
    """
    _check(floor, episode_requests, reward_mode)
    _check_seconds("clock_speed", clock_speed)
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
            penalised=reward_mode == "penalised",
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
    profile: Profile | Path | str,
    *,
    intensity: Path | str | None = None,
    zone: str | None = None,
    floor: float = DEFAULT_FLOOR,
    step_seconds: float = 60.0,
    lanes: int = 1,
    episode_requests: int = 64,
    mix: Mix | Path | str | None = None,
    arrivals: Path | str | None = None,
    reward_mode: str = "penalised",
) -> World:
    """Return a world that replays a profile.

    Args:
        profile: the profile, or the path of its Parquet file.
        intensity: CSV of a carbon-intensity trace; None for the shipped synthetic day.
        zone: grid zone; needed only if the CSV holds several zones.
        floor: least ratio of a task's quality to its quality under L0.
        step_seconds: experiment time between two requests, s; not used with `arrivals`.
        lanes: number of independent streams of requests.
        episode_requests: requests per lane in an episode.
        mix: shares of tasks by hour of the trace (`envs.requests.mix`), or a CSV of them;
            None to draw every request of the profile equally often.
        arrivals: CSV of a service's arrivals, which set the times of requests and the load
            in flight (`envs.requests.arrivals`); None for even times and a load of 0.
        reward_mode: one of `REWARD_MODES`.

    Raises:
        ConfigError: an argument is out of range.
    """
    _check(floor, episode_requests, reward_mode)
    _check_seconds("step_seconds", step_seconds)
    recorded = profile if isinstance(profile, Profile) else read_profile(Path(profile))
    clock: Clock = SteppedClock(step_seconds)
    load = None
    if arrivals is not None:
        tokens = max(1.0, float(recorded.outcomes.completion_tokens[:, 0].sum()))
        seconds_per_token = float(recorded.outcomes.device_seconds[:, 0].sum()) / tokens
        clock = arrival_clock = ArrivalClock(read_arrivals(Path(arrivals), seconds_per_token))
        load = arrival_clock.in_flight
    trace = read_trace(None if intensity is None else Path(intensity), zone)
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
        penalised=reward_mode == "penalised",
    )


def make_live(render_mode: str | None = None, **arguments: Any) -> Llama2Env:
    """Return the scalar live environment; the arguments are those of `live_world`."""
    return Llama2Env(live_world(**arguments, lanes=1), render_mode)


def make_live_vector(num_envs: int, **arguments: Any) -> Llama2VectorEnv:
    """Return the vector live environment; the arguments are those of `live_world`."""
    return Llama2VectorEnv(live_world(**arguments, lanes=_lanes(num_envs)))


def make_replay(render_mode: str | None = None, **arguments: Any) -> Llama2Env:
    """Return the scalar replay environment; the arguments are those of `replay_world`."""
    return Llama2Env(replay_world(**arguments, lanes=1), render_mode)


def make_replay_vector(num_envs: int, **arguments: Any) -> Llama2VectorEnv:
    """Return the vector replay environment; the arguments are those of `replay_world`."""
    return Llama2VectorEnv(replay_world(**arguments, lanes=_lanes(num_envs)))


def _lanes(num_envs: int) -> int:
    if num_envs < 1:
        raise ConfigError(f"num_envs {num_envs}: give 1 or more")
    return num_envs


def _check(floor: float, episode_requests: int, reward_mode: str) -> None:
    """Refuse arguments that make no environment.

    Raises:
        ConfigError: an argument is out of range.
    """
    if not 0 <= floor <= 1:
        raise ConfigError(f"floor {floor}: give a ratio of L0's quality, 0 to 1")
    if episode_requests < 1:
        raise ConfigError(f"episode_requests {episode_requests}: give 1 or more")
    if reward_mode not in REWARD_MODES:
        raise ConfigError(f"reward_mode {reward_mode!r}: give one of {', '.join(REWARD_MODES)}")


def _check_seconds(name: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise ConfigError(f"{name} {value}: give a number above 0")


gymnasium.register(
    "sprout/Llama2Live-v0",
    entry_point="envs.registration:make_live",
    vector_entry_point="envs.registration:make_live_vector",
    nondeterministic=True,
)
gymnasium.register(
    "sprout/Llama2Replay-v0",
    entry_point="envs.registration:make_replay",
    vector_entry_point="envs.registration:make_replay_vector",
)
