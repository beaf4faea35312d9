"""A model that was replaced under the same name is noticed, and a model that was not never is."""

import base64
import math

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from serving.ledger.model_watch import LEAST_CHANGE, LENGTH, NAME, WINDOW, ModelWatch
from serving.ledger.record import Record
from serving.settings.suspensions import Finding

SPREAD = 0.6
MANIFEST = {
    "model": "made",
    "features": [{"name": "questions"}, {"name": "log_energy=none"}, {"name": "log_energy=brief"}],
    "answers": {"models": ["made-13b"], "fingerprints": ["fp1"]},
    "foretold": {
        "lengths": {
            "none": {"intercept": 5.0, "slope": 1.0, "error": 0.02, "count": 900},
            "brief": {"intercept": 4.5, "slope": 0.5, "error": 0.02, "count": 900},
            "very_brief": {"intercept": 1.0, "slope": 0.0, "error": 0.3, "count": 4},
        }
    },
}


class Manifests:
    def __init__(self, manifest):
        self.by_version = {"v1": manifest, "v2": manifest}


def watch(manifest=None, findings=None):
    registry = CollectorRegistry()
    manifests = Manifests(MANIFEST | (manifest or {}))
    return ModelWatch(manifests, findings or {}, registry), registry


def answers(count, rng, longer=1.0, **values):
    """Return answers to requests of which the policy sends the cheaper half "brief" ones.

    Args:
        longer: factor of their lengths against training.
    """
    records = []
    for _ in range(count):
        energy = rng.normal()
        directive = "brief" if energy < 0 else "none"
        line = MANIFEST["foretold"]["lengths"][directive]
        mean = line["intercept"] + line["slope"] * energy + math.log(longer)
        observation = np.array([1.0, energy, energy], np.float32)
        fields = {
            "decision_id": f"{rng.integers(1 << 60):x}",
            "conversation": f"{rng.integers(1 << 60):x}",
            "time": 0.0,
            "route": "/v1/chat/completions",
            "model": "made",
            "policy_version": "v1",
            "opening": True,
            "features": base64.b64encode(observation.tobytes()).decode(),
            "directive": directive,
            "completion_tokens": max(0, round(math.exp(rng.normal(mean, SPREAD)) - 1)),
            "tokens_method": "reported",
            "outcome": "completed",
            "status": 200,
            "answer_model": "made-13b",
            "fingerprint": "fp1",
        }
        records.append(Record(**(fields | values)))
    return records


@pytest.mark.parametrize("longer", [0.5, 1.8])
def test_answers_of_another_length_are_noticed_under_each_directive(longer):
    rng = np.random.default_rng(0)
    model_watch, registry = watch()
    model_watch.saw(answers(3 * WINDOW, rng, longer))
    kinds = model_watch.findings["made"]
    assert kinds.keys() == {f"{LENGTH} none", f"{LENGTH} brief"}
    labels = {"model": "made", "directive": "none"}
    ratio = registry.get_sample_value("sprout_answer_length_ratio", labels)
    assert ratio == pytest.approx(longer, rel=0.15)
    # The old model is back; in shadow, only answers under L0 can show it.
    model_watch.saw(answers(3 * WINDOW, rng, applied=False))
    assert model_watch.findings["made"].keys() == {f"{LENGTH} brief"}
    model_watch.forget()
    assert model_watch.findings == {}


def test_a_model_that_ignores_its_directives_is_not_steered_again_because_of_its_l0():
    rng = np.random.default_rng(7)
    model_watch, _ = watch()
    steered, found = [], False
    for record in answers(20 * WINDOW, rng):
        record.applied = not found
        if record.applied and record.directive == "brief":
            record.completion_tokens *= 3
        model_watch.saw([record])
        found = bool(model_watch.findings)
        steered.append(record.applied)
    assert sum(steered) < 4 * WINDOW
    assert not any(steered[4 * WINDOW :])


@pytest.mark.parametrize("longer", [1.0, LEAST_CHANGE, 1 / LEAST_CHANGE])
def test_a_model_within_the_stated_change_is_never_suspected(longer):
    rng = np.random.default_rng(1)
    for _ in range(40):
        model_watch, _ = watch()
        model_watch.saw(answers(3 * WINDOW, rng, longer))
        assert model_watch.findings == {}


@pytest.mark.parametrize(
    "changed",
    [
        {"conversation": "the same opening"},
        {"opening": False},
        {"features": None},
        {"tokens_method": "counted"},
        {"outcome": "answer_incomplete"},
        {"directive": "very_brief"},
        {"status": 500},
        {"policy_version": "unknown"},
    ],
)
def test_answers_that_training_does_not_foretell_are_no_evidence(changed):
    model_watch, registry = watch()
    model_watch.saw(answers(4 * WINDOW, np.random.default_rng(2), 3.0, **changed))
    assert model_watch.findings == {}
    for directive in ("none", "brief", "very_brief"):
        labels = {"model": "made", "directive": directive}
        assert registry.get_sample_value("sprout_answer_length_ratio", labels) is None


def test_another_name_is_noticed_at_once_and_forgotten_after_a_window_of_the_right_one():
    rng = np.random.default_rng(3)
    model_watch, registry = watch()
    model_watch.saw(answers(1, rng, answer_model="made-7b"))
    text = model_watch.findings["made"][NAME].text
    assert "its answers are from model 'made-7b'" in text
    assert "from 'made-13b'" in text
    model_watch.saw(answers(WINDOW - 1, rng))
    assert NAME in model_watch.findings["made"]
    model_watch.saw(answers(1, rng))
    assert model_watch.findings == {}
    labels = {"model": "made", "sign": "name"}
    assert registry.get_sample_value("sprout_model_changes_total", labels) == 1


def test_without_the_profiles_name_the_first_answer_tells_it():
    rng = np.random.default_rng(4)
    model_watch, _ = watch({"answers": {"models": [], "fingerprints": []}})
    model_watch.saw(answers(3, rng, answer_model="path/model.gguf", fingerprint="fp7"))
    assert model_watch.findings == {}
    model_watch.saw(answers(1, rng, answer_model="path/other.gguf"))
    assert NAME in model_watch.findings["made"]


def test_a_restart_does_not_take_the_wrong_model_for_the_expected_one():
    rng = np.random.default_rng(8)
    unknown = {"answers": {"models": [], "fingerprints": []}}
    before, _ = watch(unknown)
    before.saw(answers(3, rng) + answers(1, rng, answer_model="made-7b"))
    after, _ = watch(unknown, before.findings)
    after.saw(answers(2 * WINDOW, rng, answer_model="made-7b"))
    assert NAME in after.findings["made"]
    after.saw(answers(WINDOW, rng))
    assert after.findings == {}


@pytest.mark.parametrize("name", [None, ""])
def test_an_answer_without_a_name_is_no_other_model(name):
    model_watch, _ = watch()
    model_watch.saw(answers(3, np.random.default_rng(9), answer_model=name))
    assert model_watch.findings == {}


def test_fingerprints_that_change_with_every_answer_are_soon_no_longer_logged(caplog):
    rng = np.random.default_rng(10)
    model_watch, _ = watch()
    for n in range(200):
        model_watch.saw(answers(1, rng, fingerprint=f"fp-{n}"))
    assert 0 < len([r for r in caplog.records if "system_fingerprint" in r.message]) < 30


def test_a_new_fingerprint_is_counted_once_and_no_reason_to_stop(caplog):
    rng = np.random.default_rng(5)
    model_watch, registry = watch()
    model_watch.saw(answers(20, rng, fingerprint="fp2"))
    assert model_watch.findings == {}
    labels = {"model": "made", "sign": "fingerprint"}
    assert registry.get_sample_value("sprout_model_changes_total", labels) == 1
    assert len([r for r in caplog.records if "system_fingerprint is new (fp2)" in r.message]) == 1


def test_a_finding_survives_a_restart_until_another_policy_is_used():
    rng = np.random.default_rng(6)
    found = {"made": {f"{LENGTH} none": Finding(version="v1", text="too long")}}
    model_watch, _ = watch(findings=found)
    model_watch.saw(answers(5, rng))
    assert model_watch.findings["made"]
    model_watch.saw(answers(1, rng, policy_version="v2"))
    assert model_watch.findings == {}
