"""False alarms stay within their bound, and falls are caught, however late they come."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.quality.detector import BETS, Detector

FLOOR = 0.95


def detector(*, falls=True, threshold=2000.0, streams=200):
    return Detector(falls=falls, threshold=threshold, streams=streams)


def answers(quality, streams, rng, l0=0.7):
    """Return y - FLOOR y0 where the answers are right with probability `quality` x `l0`."""
    return (rng.random(streams) < quality * l0) - FLOOR * (rng.random(streams) < l0)


def steps_to_alarm(watch, quality, most, rng, probability=1.0):
    caught = np.full(len(watch.evidence), most)
    for step in range(most):
        watch.add(answers(quality, len(caught), rng), probability)
        caught[watch.alarms & (caught == most)] = step
    return caught


@pytest.mark.parametrize("falls", [True, False])
def test_at_the_floor_alarms_are_rarer_than_stated(falls):
    # At most 2000 / 20000 of the streams; with luck of the draw, three standard errors.
    watch = detector(falls=falls, threshold=20_000, streams=400)
    caught = steps_to_alarm(watch, FLOOR, 2000, np.random.default_rng(0))
    assert (caught < 2000).mean() < 0.1 + 3 * np.sqrt(0.1 * 0.9 / 400)


def test_requests_that_are_seldom_judged_count_as_many():
    # One in 50 is judged, so 2,000 judged ones are 100,000 requests.
    watch = detector(threshold=1_000_000, streams=400)
    caught = steps_to_alarm(watch, FLOOR, 2000, np.random.default_rng(1), probability=0.02)
    assert (caught < 2000).mean() < 0.1 + 3 * np.sqrt(0.1 * 0.9 / 400)


def test_a_late_fall_is_caught_as_soon_as_an_early_one():
    rng = np.random.default_rng(2)
    early, late = detector(), detector()
    for _ in range(5000):
        late.add(answers(1.0, 200, rng), 1.0)
    late.restart(late.alarms)
    medians = [np.median(steps_to_alarm(watch, 0.7, 3000, rng)) for watch in (early, late)]
    assert max(medians) < 500
    assert medians[1] < 1.3 * medians[0]


def test_better_answers_are_noticed_by_the_detector_of_rises_only():
    rng = np.random.default_rng(3)
    falls, rises = detector(streams=50), detector(falls=False, streams=50)
    for _ in range(2000):
        differences = answers(1.2, 50, rng)
        falls.add(differences, 1.0)
        rises.add(differences, 1.0)
    assert rises.alarms.mean() > 0.95
    assert not falls.alarms.any()


def test_a_stream_that_starts_again_has_no_evidence_and_leaves_the_others_alone():
    watch = detector(streams=2)
    for _ in range(100):
        watch.add(np.array([-1.0, -1.0]), 1.0)
    before = watch.evidence.copy()
    watch.restart(np.array([True, False]))
    assert watch.evidence.tolist() == [0.0, before[1]]


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.5, 1.0])),
        min_size=1,
        max_size=60,
    ),
    st.floats(0.01, 1.0),
)
def test_the_evidence_is_the_sum_over_all_possible_beginnings(pairs, probability):
    """A direct computation of the definition."""
    watch = Detector(falls=True, threshold=10.0, streams=1)
    for quality, l0 in pairs:
        watch.add(quality - FLOOR * l0, probability)
    gains = np.array([1 - BETS * (quality - FLOOR * l0) for quality, l0 in pairs])
    after = range(1, len(pairs) + 1)
    expected = sum(gains[start:].prod(axis=0) for start in after) / probability
    assert watch.evidence[0] == pytest.approx(float(np.mean(expected)))
