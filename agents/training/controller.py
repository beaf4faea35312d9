"""Dual updates: a damped controller that moves the logarithms of the Lagrange multipliers."""

from collections.abc import Mapping

import numpy as np

# Bounds on the logarithm of a multiplier's integral part: multipliers from 0.01 to 100.
LOG_BOUNDS = float(np.log(0.01)), float(np.log(100.0))
# Largest shortfall of one update: a poor initial policy must not throw a multiplier far off.
MOST_SHORTFALL = 0.1
# Share of the damping left at the end. Multipliers that jump would mix many different policies
# into the running average of the weights.
LEAST_DAMPING = 0.2


class Controller:
    """Dual update: ln lambda = sum over steps of rate * shortfall, plus damping * shortfall.

    PID Lagrangian (Stooke et al., 2020) without the derivative term. The integral term alone
    oscillates about the constraint. The update acts on logarithms because multipliers differ a
    hundredfold between tasks.

    Args:
        initial: multipliers at the start by constraint, all above 0.
        rate: integral gain.
        damping: proportional gain.
    """

    def __init__(self, initial: Mapping[str, float], rate: float, damping: float) -> None:
        self.levels = {name: float(np.log(value)) for name, value in initial.items()}
        self._rate = rate
        self._damping = damping

    def moved(self, shortfalls: Mapping[str, float], remaining: float) -> dict[str, float]:
        """Update the controller and return the new multipliers by constraint.

        Args:
            shortfalls: measured shortfall of each constraint; above 0 if it is violated.
            remaining: remaining share of the training, 1 to 0; the damping falls linearly with it.
        """
        multipliers = {}
        damping = self._damping * (LEAST_DAMPING + (1 - LEAST_DAMPING) * remaining)
        for name, measured in shortfalls.items():
            shortfall = float(np.clip(measured, -MOST_SHORTFALL, MOST_SHORTFALL))
            level = float(np.clip(self.levels[name] + self._rate * shortfall, *LOG_BOUNDS))
            self.levels[name] = level
            multipliers[name] = float(np.exp(level + damping * shortfall))
        return multipliers
