"""The saving per conversation in one measure, and the part of it that follow-ups took back."""

from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple

from envs.arrays import Float64Array
from serving.savings.hold_out import ArmMean, HoldOut, Term


@dataclass(frozen=True)
class Saving:
    """Savings in one measure, in its unit (gCO2e, J or tokens), per conversation.

    Attributes:
        l0: mean cost of a conversation under L0.
        policy: mean cost of a conversation under the policy.
        ratio: share of L0's cost that is saved.
        ci95: 95% interval of `ratio`.
        total: amount saved in all conversations that were not held out.
        total_ci95: 95% interval of `total`.
        per_turn_ratio: share of L0's cost per turn that is saved, whatever the number of turns.
        rebound_pct: percentage of `per_turn_ratio` that follow-ups took back; None while the 95%
            interval of `per_turn_ratio` includes 0.
        rebound_pct_ci95: 95% interval of `rebound_pct`, by Fieller's theorem.
    """

    l0: float
    policy: float
    ratio: float
    ci95: tuple[float, float]
    total: float
    total_ci95: tuple[float, float]
    per_turn_ratio: float
    rebound_pct: float | None
    rebound_pct_ci95: tuple[float, float] | None


def estimate_saving(experiment: HoldOut, cost: Float64Array, turns: Float64Array) -> Saving:
    """Estimate the savings in one measure.

    Args:
        cost: cost of each conversation, shape (n,).
        turns: turns of each conversation, shape (n,).
    """
    l0, policy = experiment.means(cost)
    ratio = _ratio(experiment, l0, policy)
    width = experiment.half_width(*ratio.terms)
    steered = int((~experiment.held_out).sum())
    difference = l0.value - policy.value
    difference_width = experiment.half_width(Term(1, l0), Term(-1, policy))
    # Cost per turn: the ratio of the arms' costs divided by that of their turns.
    growth = _ratio(experiment, *experiment.means(turns))
    kept, gain = 1 - ratio.value, 1 - ratio.value / growth.value
    by_ratio, by_growth = -1 / growth.value, ratio.value / growth.value**2
    by_turns = growth.times(by_growth)
    share = _fieller(
        kept,
        gain,
        width,
        experiment.half_width(*ratio.times(by_ratio), *by_turns),
        experiment.half_width(*ratio.times(by_ratio - 1), *by_turns),
    )
    return Saving(
        l0.value,
        policy.value,
        kept,
        (kept - width, kept + width),
        steered * difference,
        (steered * (difference - difference_width), steered * (difference + difference_width)),
        gain,
        None if share is None else 100 * (1 - kept / gain),
        None if share is None else (100 * (1 - share[1]), 100 * (1 - share[0])),
    )


def _fieller(
    above: float, below: float, above_width: float, below_width: float, sum_width: float
) -> tuple[float, float] | None:
    """Return the 95% interval of a ratio above / below, by Fieller's theorem (1954).

    None if `below` may be 0 or less: the interval has no end then.

    Args:
        above_width, below_width, sum_width: half the widths of the intervals of above, of below
            and of their sum.
    """
    shared = (sum_width**2 - above_width**2 - below_width**2) / 2
    a, b = below**2 - below_width**2, above * below - shared
    root = b**2 - a * (above**2 - above_width**2)
    if below <= below_width or root < 0:
        return None
    return (b - sqrt(root)) / a, (b + sqrt(root)) / a


class _Ratio(NamedTuple):
    """The policy's mean divided by L0's, with its derivatives by both."""

    value: float
    terms: tuple[Term, Term]

    def times(self, slope: float) -> list[Term]:
        """Return the terms of a figure whose derivative by this ratio is `slope`."""
        return [Term(slope * term.slope, term.mean) for term in self.terms]


def _ratio(experiment: HoldOut, l0: ArmMean, policy: ArmMean) -> _Ratio:
    """Return the ratio of two arms' means."""
    ratio = policy.value / l0.value
    # A ratio of estimates is too large on average: the second-order term of its expectation.
    excess = ratio * experiment.covariance(l0, l0) - experiment.covariance(policy, l0)
    terms = Term(-ratio / l0.value, l0), Term(1 / l0.value, policy)
    return _Ratio(ratio - excess / l0.value**2, terms)
