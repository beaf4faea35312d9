"""Under the default multipliers, nobody who maximises the reward breaks a floor."""

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import envs.registration  # noqa: F401, registers the environments
from envs.carbon.csv_traces import read_trace
from envs.outcomes.multipliers import default_multipliers, safe_multiplier
from envs.outcomes.outcome import Outcomes
from envs.outcomes.profile import Profile
from envs.outcomes.reward import reward_from_profile
from envs.requests.request import Request
from envs.requests.workload import generate_requests
from tests import made

TRACE = read_trace(None)
WORTH = {
    # Brief is cheap, and only a little below the floor: it pays under a low multiplier.
    "arithmetic": {"none": 1.0, "brief": 0.85, "very_brief": 0.2},
    "choice": {"none": 0.5, "brief": 0.5, "very_brief": 0.4},
    "recall": {"none": 1.0, "brief": 1.0, "very_brief": 1.0},
    "sequence": {"none": 0.4, "brief": 0.9, "very_brief": 0.1},
}


@pytest.mark.parametrize("floor", [0.9, 0.95, 1.0])
def test_no_task_is_better_off_breaking_its_floor_by_default(tmp_path, floor):
    made.profile(tmp_path, generate_requests(8, seed=0), lambda r, d: WORTH[r.task][d])
    env = gymnasium.make_vec(
        "sprout/Llama2Replay-v0",
        num_envs=512,
        profile=tmp_path / "profile.parquet",
        floor=floor,
    )
    rewards = {task: [] for task in WORTH}
    for action in range(3):
        env.reset(seed=0)
        steps = [env.step(np.full(512, action)) for _ in range(64)]
        earned = np.concatenate([step[1] for step in steps])
        tasks = np.concatenate([step[-1]["task"] for step in steps])
        for task, of_task in rewards.items():
            of_task.append(earned[tasks == task].mean())
    for task, worth in WORTH.items():
        ratio = np.array(list(worth.values())) / worth["none"]
        earned = np.array(rewards[task])
        assert (earned[ratio < floor] < earned[ratio >= floor].max()).all()


def profile_of(scores, energy):
    """Return a profile of one task; scores and energies have shape (requests, 3)."""
    requests = tuple(
        Request(f"{i}", "task", ({"role": "user", "content": str(i)},)) for i in range(len(scores))
    )
    unknown = np.full(scores.shape, np.nan)
    return Profile(
        requests,
        ("none", "brief", "very_brief"),
        "made",
        Outcomes(energy, energy, energy, energy, energy, scores, unknown, "estimated"),
    )


def tables(low, high):
    hundredths = st.integers(100 * low, 100 * high).map(lambda n: n / 100)
    return st.lists(hundredths, min_size=3, max_size=3)


@given(st.lists(st.tuples(tables(0, 1), tables(1, 1000)), min_size=2, max_size=40), st.floats(0, 1))
@settings(max_examples=80, deadline=None)
def test_who_knows_the_hour_the_costs_or_the_outcomes_keeps_the_floor(requests, floor):
    scores, energy = (np.array(values) for values in zip(*requests, strict=True))
    scores[0, 0] = 1.0
    profile = profile_of(scores, energy)
    reward = reward_from_profile(profile, float(TRACE.g_per_kwh.mean()), {"task": floor})
    price = default_multipliers(profile, reward, TRACE)["task"]
    own = scores / scores[:, 0].mean()
    mean = np.tile(own.mean(axis=0), (len(scores), 1))
    # In the cleanest hour carbon weighs least, so the floor holds there whatever is known.
    clean = np.full((len(scores), 1), TRACE.g_per_kwh.min())
    costs = reward.grams(profile.outcomes, clean) / reward.footprint_ref_grams
    for known in (mean, own):
        chosen = (costs - price * known).argmin(axis=1)
        assert known[np.arange(len(known)), chosen].mean() >= floor - 1e-9
    hours = profile_of(mean[:1], energy.mean(axis=0, keepdims=True)).outcomes
    by_hour = reward.grams(hours, TRACE.g_per_kwh[:, None]) / reward.footprint_ref_grams
    chosen = (by_hour - price * mean[0]).argmin(axis=1)
    assert mean[0][chosen].mean() >= floor - 1e-9


@given(st.floats(0, 1), st.floats(0.1, 30), st.floats(0, 1), st.floats(0, 1))
def test_the_safe_multiplier_makes_l0_better_than_anything_below_the_floor(
    floor, footprint, ratio, share
):
    price = safe_multiplier(floor, footprint)
    if ratio < min(floor, 0.99):
        assert footprint * (1 - share) <= price * (1 - ratio) + 1e-9
