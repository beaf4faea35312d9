"""A wrapper for algorithms of constrained RL that take the cost from the step."""

from typing import Any, SupportsFloat

import gymnasium
from gymnasium.utils import RecordConstructorArgs

from envs.arrays import Float32Array
from envs.errors import ConfigError
from envs.llama2 import Llama2Env


class CostInStep(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Returns a cost as an element of the step, as OmniSafe and Safety-Gymnasium expect it.

    `step` returns (observation, reward, cost, terminated, truncated, info); see
    `omnisafe.envs.core.CMDP.step` (https://github.com/PKU-Alignment/omnisafe). Gymnasium's wrappers
    expect five elements, so this must be the outermost wrapper.

    Args:
        env: a `Llama2Env`, wrapped or not.
        constraint: name of the constraint whose cost is returned. None returns the sum of all
            costs; to keep its mean at 0 is one floor over all tasks, so that one task may make up
            for another.

    Raises:
        ConfigError: the environment has no such constraint.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], constraint: str | None) -> None:
        RecordConstructorArgs.__init__(self, constraint=constraint)
        super().__init__(env)
        if not isinstance(env.unwrapped, Llama2Env):
            raise ConfigError(f"CostInStep: {env} is no environment of Sprout-RL")
        names = env.unwrapped.world.reward.constraints
        if constraint is not None and constraint not in names:
            raise ConfigError(f"constraint {constraint!r}: give one of {', '.join(names)}, or None")
        self._constraint = constraint

    def step(  # type: ignore[override]
        self, action: Any
    ) -> tuple[Float32Array, SupportsFloat, float, bool, bool, dict[str, Any]]:
        """Take a step; return the cost after the reward."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        cost = info["cost"] if self._constraint is None else info["costs"][self._constraint]
        return observation, reward, float(cost), terminated, truncated, info
