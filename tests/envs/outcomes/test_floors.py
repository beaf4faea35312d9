import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.carbon.intensity import IntensityTrace
from envs.errors import ConfigError
from envs.outcomes.floors import BANDS, CONSTANT_FLOORS, floor_schedule, untagged_name
from envs.outcomes.outcome import Outcomes
from envs.outcomes.reward import Reward


def trace(values):
    values = np.asarray(values, dtype=float)
    return IntensityTrace("X", 0.0, values, np.full(len(values), "measured"), "made")


@given(st.lists(st.floats(1, 900), min_size=12, max_size=200, unique=True), st.floats(0.01, 1))
def test_floors_fall_from_band_to_band_and_stay_within_the_slack(values, slack):
    schedule = floor_schedule(trace(values), slack)
    floors = [schedule.floor(0.9, band) for band in range(len(BANDS))]
    assert 0.9 >= floors[0] > floors[1] > floors[2] >= 0.9 * (1 - slack) - 1e-12
    # Each band holds a third of the hours, and the mean floor is SPROUT's.
    bands = schedule.band(np.array(values))
    places = (np.array(values) - min(values)) / (max(values) - min(values))
    average = np.mean([floors[band] for band in bands])
    assert average == pytest.approx((0.9 * (1 - slack * places)).mean())
    assert np.bincount(bands).max() <= len(values) / 3 + 2


@pytest.mark.parametrize("flat", [trace(np.full(48, 300.0)), trace([300.0, 400.0] * 24)])
def test_a_grid_without_three_bands_is_refused_unless_the_floors_are_constant(flat):
    with pytest.raises(ConfigError, match="hours are alike"):
        floor_schedule(flat, 0.2)
    assert floor_schedule(flat, 0.0) == CONSTANT_FLOORS
    assert CONSTANT_FLOORS.names("maths") == ("maths",)


def test_the_reward_prices_quality_by_the_band_of_the_hour():
    schedule = floor_schedule(trace(np.linspace(100, 500, 60)), 0.5)
    name = {band: f"maths, {band}" for band in BANDS}
    multipliers = {name["clean"]: 4.0, name["dirty"]: 1.0, untagged_name(name["dirty"]): 2.0}
    reward = Reward(1.0, {"maths": 1.0}, {"maths": 0.8}, multipliers, floor_schedule=schedule)
    zeros = {
        field: np.zeros(3)
        for field in Outcomes.__dataclass_fields__
        if field not in ("energy_method", "responses")
    }
    outcomes = Outcomes(**zeros, energy_method="estimated")
    intensity = np.array([110.0, 490.0, 490.0])
    tagged = np.array([True, True, False])
    quality_terms = reward.terms(np.full(3, "maths"), outcomes, intensity, tagged)["quality"]
    floors = np.array([schedule.floor(0.8, 0), schedule.floor(0.8, 2), schedule.floor(0.8, 2)])
    assert quality_terms == pytest.approx(-np.array([4.0, 1.0, 2.0]) * floors)
