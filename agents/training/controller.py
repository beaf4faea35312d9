"""Multipliers that follow their constraints: a damped controller of their logarithms."""

from collections.abc import Mapping

import numpy as np

# Logarithms of the least and the greatest multiplier that is reached in the long run.
LEVELS = float(np.log(0.01)), float(np.log(100.0))
# Of one step: a bad first policy must not throw a multiplier far off.
MOST_SHORTFALL = 0.1
# Share of the damping that is left at the end: a price that jumps mixes many policies.
LEAST_DAMPING = 0.2


class Controller:
    """ln lambda = sum over steps of rate * shortfall, plus damping * shortfall.

    PID Lagrangian (Stooke et al., 2020) without its derivative. The sum alone swings about
    the constraint; in logarithms, since prices differ a hundredfold from task to task.

    Args:
        initial: multipliers at the start, all above 0.
    """

    def __init__(self, initial: Mapping[str, float], rate: float, damping: float) -> None:
        self.levels = {name: float(np.log(value)) for name, value in initial.items()}
        self._rate = rate
        self._damping = damping

    def moved(self, shortfalls: Mapping[str, float], left: float) -> dict[str, float]:
        """The multipliers after a measurement; a shortfall above 0 is a broken constraint.

        Args:
            left: share of the training that is left; the damping falls with it in a line.
        """
        moved = {}
        damping = self._damping * (LEAST_DAMPING + (1 - LEAST_DAMPING) * left)
        for name, measured in shortfalls.items():
            shortfall = float(np.clip(measured, -MOST_SHORTFALL, MOST_SHORTFALL))
            level = float(np.clip(self.levels[name] + self._rate * shortfall, *LEVELS))
            self.levels[name] = level
            moved[name] = float(np.exp(level + damping * shortfall))
        return moved
