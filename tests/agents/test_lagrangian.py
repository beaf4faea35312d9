import numpy as np
import pytest

from agents.lagrangian import Constraint, Prompts
from agents.policy import Policy
from envs.carbon import synthetic_day
from envs.features import Featurizer
from envs.reward import untagged
from envs.workload import generate
from envs.world import both_parts
from tests import made

FLOOR = 0.9


def policy(featurizer, logits, by_tag=()):
    width = len(featurizer.names)
    weight = np.zeros((3, width), np.float32)
    for task, row in by_tag:
        weight[row, featurizer.names.index(f"task={task}")] = 50
    return Policy(
        np.zeros(width, np.float32),
        np.ones(width, np.float32),
        ((weight, np.array(logits, np.float32)),),
    )


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    # Brief answers keep half of it, the shortest nothing.
    worth = {"none": 1.0, "brief": 0.5, "very_brief": 0.0}
    profile = made.profile(
        tmp_path_factory.mktemp("lagrangian"), generate(20, seed=0), lambda r, d: worth[d]
    )
    featurizer = Featurizer(profile.tasks)
    parts = both_parts(featurizer, profile.requests)
    return featurizer, Prompts(profile, parts, featurizer, synthetic_day(), "correct", 0)


def constraint(prompts, **changed):
    settings = {"initial": 2.0, "rate": 1.0, "damping": 10.0, "confidence": 1.0, "safety": 0.0}
    return Constraint(prompts, {"arithmetic": FLOOR, "recall": FLOOR}, **(settings | changed))


def test_fixed_directives_come_to_their_closed_form(prompts):
    featurizer, of = prompts
    found = constraint(of).measure(policy(featurizer, (0, 50, 0)))
    assert list(found.ratio_by_task.values()) == pytest.approx([0.5] * 4)
    assert found.grams_ratio == pytest.approx(10 / 50, rel=1e-6)
    assert found.share == pytest.approx((0, 1, 0))


def test_tagged_and_untagged_requests_have_a_floor_each(prompts):
    featurizer, of = prompts
    # Whoever shows its tag gets L2; whoever does not, L0.
    chosen = policy(featurizer, (20, 0, 0), [(task, 2) for task in featurizer.tasks])
    found = constraint(of).measure(chosen)
    assert found.ratio_by_task["recall"] == pytest.approx(0)
    assert found.ratio_by_task[untagged("recall")] == pytest.approx(1)


def test_multipliers_rise_under_the_floor_and_fall_above(prompts):
    featurizer, of = prompts
    for logits, up in (((0, 50, 0), True), ((50, 0, 0), False)):
        moving = constraint(of)
        found = moving.measure(policy(featurizer, logits))
        once, twice = moving.moved(found), moving.moved(found)
        for task in ("arithmetic", untagged("arithmetic")):
            assert (once[task] > 2.0) == up
            assert (twice[task] > once[task]) == up


def test_multipliers_stay_within_reach_for_ever(prompts):
    featurizer, of = prompts
    moving = constraint(of)
    found = moving.measure(policy(featurizer, (0, 50, 0)))
    for _ in range(500):
        moved = moving.moved(found)
    assert 100 <= moved["recall"] < 1000
