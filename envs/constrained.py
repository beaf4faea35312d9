"""A wrapper for algorithms of constrained RL that take the cost from the step."""

from typing import Any, SupportsFloat

import gymnasium

from envs.arrays import Float32Array
from envs.errors import ConfigError


class CostInStep(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Returns the cost as an element of the step, as OmniSafe and Safety-Gymnasium expect it.

    `step` returns (observation, reward, cost, terminated, truncated, info); see
    `omnisafe.envs.core.CMDP.step` (https://github.com/PKU-Alignment/omnisafe).

    Args:
        env: an environment whose `info` has `cost` and `costs`.
        constraint: name of the constraint whose cost is returned; None for the sum of all.

    Raises:
        ConfigError: the environment has no such constraint.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], constraint: str | None = None) -> None:
        super().__init__(env)
        names = env.unwrapped.world.reward.constraints  # type: ignore[attr-defined]
        if constraint is not None and constraint not in names:
            raise ConfigError(f"constraint {constraint!r}: give one of {', '.join(names)}")
        self._constraint = constraint

    def step(  # type: ignore[override]
        self, action: Any
    ) -> tuple[Float32Array, SupportsFloat, float, bool, bool, dict[str, Any]]:
        """Take a step; return the cost after the reward."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        cost = info["cost"] if self._constraint is None else info["costs"][self._constraint]
        return observation, reward, float(cost), terminated, truncated, info
