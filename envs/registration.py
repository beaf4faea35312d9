"""Registers the environments with Gymnasium: `gymnasium.make("envs.registration:sprout/...")`.

`sprout/Llama2Live-v0` sends requests to a live server; `sprout/Llama2Replay-v0` replays a
profile. `gymnasium.make` returns the scalar form. `gymnasium.make_vec` returns one vector
environment, whose requests are in flight together. Keyword arguments of the environments are
the attributes of `envs.problem.arguments.LiveArguments` and `ReplayArguments` there.
"""

from typing import Any

import gymnasium

from envs.errors import ConfigError
from envs.llama2 import Llama2Env, Llama2VectorEnv
from envs.problem.arguments import LiveArguments, ReplayArguments
from envs.world import MAX_EPISODE_STEPS
from envs.worlds import live_world, replay_world


def make_live(render_mode: str | None = None, **arguments: Any) -> Llama2Env:
    """Return the scalar live environment; the arguments are `LiveArguments`."""
    return Llama2Env(live_world(LiveArguments.of(arguments), max_episode_steps=None), render_mode)


def make_live_vector(
    num_envs: int, max_episode_steps: int | None = MAX_EPISODE_STEPS, **arguments: Any
) -> Llama2VectorEnv:
    """Return the vector live environment; the arguments are `LiveArguments`."""
    given, lanes = LiveArguments.of(arguments), _lanes(num_envs)
    return Llama2VectorEnv(live_world(given, lanes=lanes, max_episode_steps=max_episode_steps))


def make_replay(render_mode: str | None = None, **arguments: Any) -> Llama2Env:
    """Return the scalar replay environment; the arguments are `ReplayArguments`."""
    given = ReplayArguments.of(arguments)
    return Llama2Env(replay_world(given, max_episode_steps=None), render_mode)


def make_replay_vector(
    num_envs: int, max_episode_steps: int | None = MAX_EPISODE_STEPS, **arguments: Any
) -> Llama2VectorEnv:
    """Return the vector replay environment; the arguments are `ReplayArguments`."""
    given, lanes = ReplayArguments.of(arguments), _lanes(num_envs)
    return Llama2VectorEnv(replay_world(given, lanes=lanes, max_episode_steps=max_episode_steps))


def _lanes(num_envs: int) -> int:
    if num_envs < 1:
        raise ConfigError(f"num_envs {num_envs}: give 1 or more")
    return num_envs


gymnasium.register(
    "sprout/Llama2Live-v0",
    entry_point="envs.registration:make_live",
    vector_entry_point="envs.registration:make_live_vector",
    max_episode_steps=MAX_EPISODE_STEPS,
    nondeterministic=True,
)
gymnasium.register(
    "sprout/Llama2Replay-v0",
    entry_point="envs.registration:make_replay",
    vector_entry_point="envs.registration:make_replay_vector",
    max_episode_steps=MAX_EPISODE_STEPS,
)
