"""The energy of requests: rates belong to a model, and what is unknown stays unknown."""

import asyncio

import numpy as np
import pytest

from envs.energy.coefficients import Coefficients
from serving.hook.outcome import ReportedAnswer, Usage
from serving.http.decide_routes import DecideRequest, DecideRoutes, OutcomeReport
from tests.serving.hooks import CHAT, hook, keeper, metric

ROUTE = "/v1/chat/completions"
USAGE = Usage(10, 5, "reported")
MEAN = {"energy": {"joules_per_completion_token": 2.0, "seconds_per_completion_token": 0.01}}
RATES = {
    "energy": {
        "rates": {
            "joules_per": {"request": 3.0, "prompt_token": 0.5, "completion_token": 2.0},
            "seconds_per": {"request": 0.0, "prompt_token": 0.0, "completion_token": 0.1},
            "factors": {"none": 1.0, "very_brief": 1.5},
            "relative_errors": {"none": 0.01, "very_brief": 0.1},
        }
    }
}


def played(made_hook, body=CHAT, headers=None, model="made", usage=USAGE):
    """Return the record of a request with this answer."""
    plan = asyncio.run(made_hook.plan(ROUTE, body, headers or {}))
    answer = ReportedAnswer(plan.started, 200, 0.1, usage, model)
    made_hook.finish(plan, answer, "completed")
    return plan.record


def set_mode(made_hook, mode):
    made_hook.control.write(made_hook.control.now.model_copy(update={"mode": mode}))
    made_hook.refresh()


def test_a_request_without_a_policy_costs_what_its_model_takes(tmp_path):
    made_hook = hook(tmp_path, extra=MEAN)
    set_mode(made_hook, "off")
    assert played(made_hook).energy_joules == 10.0
    set_mode(made_hook, "on")
    assert played(made_hook, headers={"x-sprout-opt-out": "1"}).energy_joules == 10.0
    assert played(made_hook).energy_joules == 10.0


def test_an_unknown_model_has_no_joules_and_is_counted(tmp_path):
    made_hook = hook(tmp_path, extra=MEAN)
    for body, model in ((CHAT | {"model": "other"}, "made"), (CHAT | {"model": None}, None)):
        record = played(made_hook, body, model=model)
        assert (record.energy_joules, record.grams, record.energy_method) == (None, None, None)
    played(made_hook, usage=Usage(None, None, None))
    assert metric(made_hook, 'sprout_energy_unknown_total{reason="no_rate"}') == 2
    assert metric(made_hook, 'sprout_energy_unknown_total{reason="no_tokens"}') == 1
    assert metric(made_hook, "sprout_request_energy_joules_total") == 0


def test_a_bundle_without_energy_gives_no_joules(tmp_path):
    assert played(hook(tmp_path, extra={"energy": {}})).energy_joules is None


def test_the_profiles_rates_hold_by_directive_with_their_error(tmp_path):
    made_hook = hook(tmp_path, extra=RATES)
    steered = played(made_hook)
    assert steered.directive == "very_brief"
    assert steered.energy_joules == pytest.approx(1.5 * (3 + 5 + 10))
    assert steered.energy_error_joules == pytest.approx(2.7)
    assert steered.grams == pytest.approx(27 * steered.intensity_g_per_kwh / 3.6e6)
    left = played(made_hook, headers={"x-sprout-opt-out": "1"})
    assert left.energy_joules == pytest.approx(18)
    # An unknown number of prompt tokens is estimated from the characters, and not taken for 0.
    counted = played(
        made_hook,
        CHAT | {"messages": [{"role": "user", "content": "a" * 400}]},
        usage=Usage(None, 5, "counted"),
    )
    assert counted.energy_joules == pytest.approx(1.5 * (3 + 50 + 10))


def test_the_operators_own_figures_come_first_and_hold_for_all_models(tmp_path):
    stated = hook(tmp_path, extra=MEAN, joules_per_token=7.0)
    assert played(stated, CHAT | {"model": "other"}).energy_joules == 35.0
    file = tmp_path / "coefficients.json"
    joules, seconds, errors = np.array([[0.1, 1, 0, 0], [0, 0.1, 0, 0], [0.03, 0.08, 0, 0]])
    Coefficients(joules, seconds, "made", errors).write(file)
    record = played(hook(tmp_path, extra=MEAN, coefficients=file), CHAT | {"model": "other"})
    assert record.energy_joules == pytest.approx(6.0)
    assert record.energy_error_joules == pytest.approx(0.5)


@pytest.mark.parametrize("energy", [{"rates": {}}, {"joules_per_completion_token": "many"}])
def test_a_bundle_with_broken_rates_is_refused(tmp_path, energy):
    made_hook = hook(tmp_path, extra={"energy": energy})
    assert "energy" in str(list(made_hook.policies.problems.values()))
    assert played(made_hook).reason == "no_bundle"


def test_a_reported_request_costs_what_its_own_model_and_hour_take(tmp_path):
    made_hook = hook(tmp_path, extra=RATES)
    routes = DecideRoutes(made_hook)
    ids = [
        asyncio.run(routes._decide(DecideRequest(route=ROUTE, body=CHAT | {"model": model}), {}))[
            "decision_id"
        ]
        for model in ("made", "other")
    ]
    for decision_id in ids:
        routes._record_outcome(
            OutcomeReport(
                decision_id=decision_id, status=200, prompt_tokens=10, completion_tokens=5
            )
        )
    ledger_keeper = keeper(made_hook)
    ledger_keeper.step()
    known, unknown = (ledger_keeper.ledger.find(decision_id) for decision_id in ids)
    ledger_keeper.close()
    assert known["energy_joules"] == pytest.approx(27)
    assert known["grams"] == pytest.approx(27 * known["intensity_g_per_kwh"] / 3.6e6)
    assert (unknown["energy_joules"], unknown["grams"]) == (None, None)
    assert unknown["completion_tokens"] == 5
