import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.expectation import expectation
from agents.linear_program import best_fixed_mix, fixed
from envs.workload import generate
from tests import made

TASKS = np.array(["a", "b"])


def test_the_mix_is_the_closed_form_of_two_directives():
    # Cheap one keeps 0.5 of the quality: to keep 0.9, at most a fifth may be cheap.
    costs = np.array([[10.0, 1.0]])
    mix = best_fixed_mix(costs, np.array([[0.8, 0.4]]), np.array(["a"]), {"a": 0.9})
    assert mix == pytest.approx([0.8, 0.2])


quality = st.floats(0.05, 1.0)


@given(st.lists(quality, min_size=6, max_size=6), st.floats(0, 1))
def test_the_mix_keeps_every_floor_and_costs_no_more_than_l0(scores, floor):
    table = np.array(scores).reshape(2, 3)
    costs = np.array([[9.0, 3.0, 1.0], [5.0, 2.0, 1.0]])
    mix = best_fixed_mix(costs, table, TASKS, {"a": floor, "b": floor})
    assert mix.sum() == pytest.approx(1)
    assert (mix >= 0).all()
    assert (table @ mix >= floor * table[:, 0] - 1e-7).all()
    assert (costs @ mix).mean() <= costs[:, 0].mean() + 1e-9


@pytest.mark.parametrize("directive", [0, 1, 2])
def test_a_fixed_directives_expectation_is_the_tables_mean(tmp_path, directive):
    profile = made.profile(tmp_path, generate(8, seed=0), lambda r, d: float(d != "brief"))
    found = expectation(profile, fixed(profile, directive))
    assert found.joules_per_request == pytest.approx(
        profile.energy_joules[:, directive].mean(), rel=1e-12
    )
    assert set(found.ratio_by_task.values()) == {0.0 if directive == 1 else 1.0}
