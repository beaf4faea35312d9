import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from agents.methods.dual_price import cheapest_choices
from agents.methods.frontier import frontier_cost
from agents.methods.linear_program import best_fixed_mix, cheapest_mixes

TASKS = np.array(["a", "b"])
GROUPS = 5


def test_the_mix_of_two_directives_has_its_closed_form():
    # The cheap one keeps 0.5 of the quality: to keep 0.9, at most a fifth may be cheap.
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


def figures(least):
    thousandths = st.integers(least, 1000).map(lambda n: n / 1000)
    return arrays(np.float64, (GROUPS, 3), elements=thousandths)


@given(figures(1), figures(0), st.floats(0, 1))
def test_stacked_programs_keep_their_constraints_and_cost_the_closed_form(costs, scores, floor):
    least = floor * scores[:, 0]
    mixes = cheapest_mixes(1e-6 * costs, scores[:, None, :], least[:, None])
    assert (mixes >= 0).all()
    assert mixes.sum(axis=1) == pytest.approx(np.ones(GROUPS))
    reached = (scores * mixes).sum(axis=1)
    assert (reached >= least - 1e-6 * np.maximum(scores.max(axis=1), 1e-9)).all()
    expected = frontier_cost(costs, scores, least)
    assert (costs * mixes).sum(axis=1) == pytest.approx(expected, abs=2e-6)


def test_scores_out_of_reach_are_refused():
    with pytest.raises(ValueError, match="no mix"):
        cheapest_mixes(np.ones((1, 2)), np.array([[[0.2, 0.5]]]), np.array([[0.6]]))
    with pytest.raises(ValueError, match="possible"):
        cheapest_choices(np.ones((3, 2)), np.array([[0.2, 0.5]] * 3), 1.6)


@given(figures(1), figures(0), st.floats(0, 1))
def test_the_dual_price_solves_the_program_over_all_requests(costs, scores, share):
    least = share * float(scores.max(axis=1).sum())
    chance = cheapest_choices(costs, scores, least)
    assert chance.sum(axis=1) == pytest.approx(np.ones(GROUPS))
    assert (scores * chance).sum() >= least - 1e-9
    # HiGHS solves the same program over the options of all requests.
    assert (costs * chance).sum() == pytest.approx(_by_highs(costs, scores, least), abs=1e-6)


def _by_highs(costs, scores, least):
    from scipy.optimize import linprog

    one_per_group = np.kron(np.eye(GROUPS), np.ones(3))
    solution = linprog(
        costs.ravel(), -scores.ravel()[None], [-least], one_per_group, np.ones(GROUPS)
    )
    if not solution.success:  # at the very edge of the feasible region
        return (costs * cheapest_choices(costs, scores, least)).sum()
    return solution.fun


@given(figures(1), figures(0))
def test_the_frontier_only_rises_with_its_target(costs, scores):
    targets = np.linspace(0, 1, 7)
    curve = np.stack([frontier_cost(costs, scores, np.full(GROUPS, t)) for t in targets])
    assert (np.diff(curve, axis=0) >= -1e-12).all()
