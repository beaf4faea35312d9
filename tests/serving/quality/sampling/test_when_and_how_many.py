"""Samples are judged in clean and idle hours, and no more of them than the limits allow."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.carbon.clean_hours import is_cleanest_hour, is_sprout_hour, seasonal_naive
from serving.quality.cell import Cell
from serving.quality.sampling.shares import Shares
from serving.quality.sampling.trigger import HOUR_SECONDS, Trigger

DAY = [200.0 + 100.0 * np.cos(2 * np.pi * (hour - 20) / 24) for hour in range(24)]
CLEANEST = int(np.argmin(DAY))


def fired_hours(trigger, days=14, waited=0.0, in_flight=0):
    """Show the trigger each hour of some days; return the hours in which it fires."""
    fired = []
    for hour in range(24 * days):
        trigger.saw(hour * HOUR_SECONDS, DAY[hour % 24])
        if trigger.due(waited, in_flight):
            fired.append(hour)
    return fired


def test_sprouts_rule_fires_in_clean_hours():
    fired = fired_hours(Trigger("sprout", 1e9, 8))
    assert 10 <= len(fired) <= 20
    assert np.mean([DAY[hour % 24] for hour in fired]) < 0.75 * np.mean(DAY)


def test_with_a_forecast_it_fires_in_the_cleanest_hour_of_each_day():
    fired = fired_hours(Trigger("forecast", 24 * HOUR_SECONDS, 8))
    assert fired == [24 * day + CLEANEST for day in range(14) if 24 * day + CLEANEST >= 23]


def test_a_sample_never_waits_for_longer_than_its_limit():
    trigger = Trigger("forecast", 3600.0, 8)
    assert not trigger.due(3599.0, 0)
    assert trigger.due(3600.0, 1000)


def test_a_busy_server_is_left_alone():
    assert Trigger("any", 3600.0, 8).due(0.0, 7)
    assert not Trigger("any", 3600.0, 8).due(0.0, 8)


def test_an_unknown_grid_waits_for_the_limit():
    for hours in ("sprout", "forecast"):
        assert not Trigger(hours, 3600.0, 8).due(10.0, 0)


def test_a_gap_in_the_hours_does_not_confuse_it():
    trigger = Trigger("sprout", 1e9, 8)
    trigger.saw(0.0, 100.0)
    trigger.saw(50 * HOUR_SECONDS, 90.0)
    trigger.saw(1e7 * HOUR_SECONDS, 80.0)
    trigger.saw(0.0, 100.0)
    assert not trigger.due(0.0, 0)


def test_sprouts_rule_waits_for_seven_hours_and_at_most_for_three_days():
    trough = [300.0, 100.0, 110.0]
    assert is_sprout_hour(trough, 200.0, 7)
    assert not is_sprout_hour(trough, 200.0, 6)
    assert not is_sprout_hour(trough, 100.0, 7)
    assert not is_sprout_hour([100.0, 200.0, 300.0], 1000.0, 71)
    assert is_sprout_hour([100.0, 200.0, 300.0], 0.0, 72)


def test_the_naive_forecast_is_yesterday():
    assert seasonal_naive(list(range(23)), 3) == []
    assert seasonal_naive([*range(100), *range(24)], 26) == [*range(24), 0, 1]
    assert is_cleanest_hour(5.0, [5.0, 6.0])
    assert not is_cleanest_hour(5.0, [6.0, 4.9])


FREQUENT, RARE = Cell("m", "frequent", "Z"), Cell("m", "rare", "Z")


def shares_after(counts, share=0.02, energy_share=1.0, joules=10.0, cost=20.0, probability=0.02):
    shares = Shares(share, energy_share)
    for cell, count in counts.items():
        for _ in range(count):
            shares.saw(cell, probability, joules, cost)
    return shares.by_cell()


def test_a_rare_task_is_sampled_more_often_than_a_frequent_one():
    shares = shares_after({FREQUENT: 990, RARE: 10})
    assert shares[RARE] == 1.0
    assert shares[FREQUENT] == pytest.approx(0.01, abs=0.0005)


def test_judging_stays_within_its_share_of_the_energy():
    # Without the limit, one in 50 is judged at twice the energy of a request: 4 %.
    shares = shares_after({FREQUENT: 500}, energy_share=0.01)
    assert shares[FREQUENT] * 20.0 <= 0.0101 * 10.0
    assert shares[FREQUENT] == pytest.approx(0.005)


def test_little_traffic_and_unknown_energy_change_nothing():
    assert shares_after({FREQUENT: 49}) == {}
    unknown = shares_after({FREQUENT: 500}, energy_share=0.01, cost=None)
    assert unknown[FREQUENT] == pytest.approx(0.02)


def test_traffic_of_long_ago_counts_less():
    shares = Shares(0.02, 1.0)
    shares.age(1.0)
    for _ in range(1000):
        shares.saw(RARE, 0.02, 10.0, 1.0)
    shares.age(1.0 + 20 * 86400)
    for _ in range(1000):
        shares.saw(FREQUENT, 0.02, 10.0, 1.0)
    assert shares.by_cell()[RARE] == 1.0


@given(
    st.dictionaries(st.integers(0, 9), st.integers(1, 400), min_size=1),
    st.floats(0.001, 1.0),
    st.floats(0.001, 1.0),
)
def test_shares_are_probabilities_that_keep_both_limits(counts, share, energy_share):
    cells = {Cell("m", str(n), "Z"): count for n, count in counts.items()}
    shares = shares_after(cells, share, energy_share, probability=0.1)
    requests = {cell: 10.0 * count for cell, count in cells.items()}
    assert all(0 < value <= 1 for value in shares.values())
    sampled = sum(value * requests[cell] for cell, value in shares.items())
    total = sum(requests.values())
    # Shares are rounded to two digits, and none falls below 1e-4.
    assert sampled <= 1.06 * share * total + 1e-4 * total
    assert sampled * 20.0 <= 1.06 * energy_share * 10.0 * total + 20e-4 * total
