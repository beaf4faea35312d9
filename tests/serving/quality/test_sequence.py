"""The interval of the ratio holds at every look, and narrows with evidence."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.quality.sequence import RATIOS, RatioSequence


def judged(count, quality, l0, rng):
    return (rng.random(count) < quality).astype(float), (rng.random(count) < l0).astype(float)


@pytest.mark.parametrize(("quality", "l0"), [(0.6, 0.7), (0.3, 0.3), (0.5, 0.4)])
def test_it_seldom_misses_the_ratio_at_any_of_a_thousand_looks(quality, l0):
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(20):
        sequence, missed_once = RatioSequence(), False
        for y, y0 in zip(*judged(1000, quality, l0, rng), strict=True):
            sequence.add(y, y0, 1.0)
            sequence.look()
            missed_once |= not sequence.low <= quality / l0 <= sequence.high
        missed += missed_once
    # At 5 %, more than 4 of 20 have a probability of 0.3 %.
    assert missed <= 4


def test_it_narrows_around_the_ratio():
    sequence = RatioSequence()
    for y, y0 in zip(*judged(4000, 0.63, 0.7, np.random.default_rng(1)), strict=True):
        sequence.add(y, y0, 1.0)
        sequence.look()
    assert sequence.ratio == pytest.approx(0.9, abs=0.05)
    assert 0.8 < sequence.low < 0.9 < sequence.high < 1.0


def test_requests_count_by_what_they_stand_for():
    """A share of the sample that changes in time does not move the ratio."""
    rng = np.random.default_rng(2)
    sequence = RatioSequence()
    for number, (y, y0) in enumerate(zip(*judged(20_000, 0.5, 0.8, rng), strict=True)):
        probability = 0.4 if number < 10_000 else 0.8
        if rng.random() < probability:
            sequence.add(y, y0, probability)
            sequence.look()
    assert sequence.ratio == pytest.approx(0.5 / 0.8, abs=0.03)
    assert sequence.low <= 0.5 / 0.8 <= sequence.high


def test_without_evidence_it_excludes_nothing():
    sequence = RatioSequence()
    assert (sequence.low, sequence.high, sequence.ratio) == (0.0, float("inf"), None)
    sequence.add(0.0, 0.0, 1.0)
    sequence.look()
    assert (sequence.low, sequence.high, sequence.ratio) == (0.0, float("inf"), None)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=80))
def test_what_is_refuted_has_no_gaps(pairs):
    sequence = RatioSequence(alpha=0.9)
    for y, y0 in pairs:
        sequence.add(float(y), float(y0), 1.0)
        sequence.look()
    low = sequence._refuted(sequence._for_higher)
    high = sequence._refuted(sequence._for_lower)
    assert not np.any(np.diff(low.astype(int)) > 0)
    assert not np.any(np.diff(high.astype(int)) < 0)
    assert len(low) == len(RATIOS)
