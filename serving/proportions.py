"""Intervals of proportions, as SciPy has them, which is too large for the serving path."""

import math
from statistics import NormalDist

Z95 = NormalDist().inv_cdf(0.975)


def wilson(successes: float, count: float) -> tuple[float, float] | None:
    """Return the 95% interval of a proportion (Wilson, 1927); None for no observations."""
    if not count:
        return None
    p, spread = successes / count, Z95 * Z95 / count
    centre, scale = p + spread / 2, 1 + spread
    width = Z95 * math.sqrt(p * (1 - p) / count + spread / (4 * count))
    return max(0.0, (centre - width) / scale), min(1.0, (centre + width) / scale)
