import numpy as np
import pytest

from agents.methods.sprout import (
    evaluation_hours,
    largest_savings_first,
    last_evaluation,
    quality_floor,
)
from envs.carbon.csv_traces import read_traces


def test_the_floor_is_one_at_the_cleanest_hour_and_1_minus_xi_at_the_dirtiest():
    floors = quality_floor(np.array([50.0, 150.0, 250.0]), 50, 250, xi=0.2)
    assert floors == pytest.approx([1.0, 0.9, 0.8])


def test_the_evaluator_fires_after_its_grace_period_and_within_its_limit():
    calm = np.full(720, 100.0)
    fired = evaluation_hours(calm)
    # A constant grid has no trough: only the limit fires.
    assert fired == list(range(72, 720, 72))
    waves = 100 + 50 * np.sin(np.arange(720))
    gaps = np.diff([0, *evaluation_hours(waves)])
    assert gaps.min() >= 7
    assert gaps.max() <= 72


def test_each_hour_uses_the_last_evaluation():
    assert last_evaluation([2, 4], 6).tolist() == [0, 0, 2, 2, 4, 4]


def test_the_oracle_gives_each_level_its_share_where_it_saves_most():
    grams = np.array([[[9.0, 1, 0.5], [5, 1, 0.5], [7, 1, 0.5], [3, 1, 0.5]]])
    actions = largest_savings_first(grams, np.array([[0.25, 0.5, 0.25]]))
    # Brief saves most on the first and third, very brief on the second of the rest.
    assert actions.tolist() == [[1, 2, 1, 0]]


def test_the_oracles_shares_are_shares_of_the_weight():
    grams = np.array([[[9.0, 1], [8, 1], [7, 1], [6, 1]]])
    weights = np.array([[3.0, 1, 1, 1]])
    actions = largest_savings_first(grams, np.array([[0.5, 0.5]]), weights)
    assert actions.tolist() == [[1, 0, 0, 0]]


PUBLISHED = {
    800: {"US-TEX-ERCO": 46, "US-CAL-CISO": 29, "AU-SA": 46, "NL": 40, "GB": 34},
    3900: {"US-TEX-ERCO": 33, "US-CAL-CISO": 42, "AU-SA": 48, "NL": 31, "GB": 38},
    7000: {"US-TEX-ERCO": 41, "US-CAL-CISO": 31, "AU-SA": 51, "NL": 44, "GB": 41},
}


def test_the_evaluator_fires_as_often_as_published(shared_data):
    traces = read_traces([shared_data / "carbon_intensity"])
    evaluations = {
        start: {
            zone: len(evaluation_hours(traces[zone].at(traces[zone].window_times(start, 720))))
            for zone in zones
        }
        for start, zones in PUBLISHED.items()
    }
    assert evaluations == PUBLISHED
