"""Under the default multipliers, nobody who maximises the reward breaks a floor."""

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import envs.registration  # noqa: F401, registers the environments
from envs.carbon.csv_traces import read_trace
from envs.outcomes.multipliers import default_multipliers
from envs.outcomes.outcome import Outcomes
from envs.outcomes.profile import Profile
from envs.outcomes.reward import reward_from_profile
from envs.problem.arguments import ReplayArguments
from envs.requests.mix import Mix
from envs.requests.request import Request
from envs.requests.workload import generate_requests
from envs.worlds import replay_world
from tests import made

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


def priced(scores, energy, floor, hours):
    """Return the default multiplier, and footprints and margins by (request, hour, directive)."""
    profile = profile_of(scores, energy)
    reward = reward_from_profile(profile, hours.mean(), {"task": floor})
    everyone = np.ones(len(scores), dtype=bool)
    price = default_multipliers(profile, reward, {"task": hours.mean()}, everyone)["task"]
    grams = np.stack([reward.grams(profile.outcomes, np.full((len(scores), 1), h)) for h in hours])
    margin = scores / scores[:, 0].mean() - floor
    footprints = grams.transpose(1, 0, 2) / reward.footprint_ref_grams
    return price, footprints, np.repeat(margin[:, None], len(hours), axis=1)


def tables(low, high):
    hundredths = st.integers(100 * low, 100 * high).map(lambda n: n / 100)
    return st.lists(hundredths, min_size=3, max_size=3)


@given(
    st.lists(st.tuples(tables(0, 1), tables(1, 1000), st.integers(0, 2)), min_size=2, max_size=30),
    st.sampled_from([0.0, 0.5, 0.9, 0.95, 1.0]),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_the_best_policy_keeps_the_floor_whatever_it_knows(requests, floor, knows_hour):
    scores, energy, kinds = (np.array(values) for values in zip(*requests, strict=True))
    scores[0, 0] = 1.0
    price, footprints, margins = priced(scores, energy, floor, np.array([20.0, 300.0, 800.0]))
    assert 0 <= price < 1e5
    rewards = price * margins - footprints
    constant = rewards.mean(axis=(0, 1))
    # Nothing, a kind that can be told from the words, or each request's own outcomes.
    for known in (np.zeros(len(kinds)), kinds, np.arange(len(kinds))):
        reward, margin = 0.0, 0.0
        for kind in np.unique(known):
            of_kind = known == kind
            # What the policy sees of the rewards of this kind, by hour if it knows the hour.
            seen = rewards[of_kind].mean(axis=0) if knows_hour else rewards[of_kind].mean((0, 1))
            choice = np.broadcast_to(seen.argmax(axis=-1), 3)
            share = of_kind.mean() / 3
            reward += share * sum(rewards[of_kind, h, a].mean() for h, a in enumerate(choice))
            margin += share * sum(margins[of_kind, h, a].mean() for h, a in enumerate(choice))
        kept = constant[margins.mean(axis=(0, 1)) >= -1e-9].max()
        # A floor of 1 is priced as if it could be missed by a hundredth.
        assert margin >= -max(0, floor - 0.99) - 1e-9 or reward <= kept + 1e-9


def test_a_task_of_dirty_hours_has_a_higher_price(tmp_path):
    profile = made.profile(
        tmp_path, generate_requests(8, seed=0), lambda r, d: WORTH["arithmetic"][d]
    )
    trace = read_trace(None)
    dirty = trace.g_per_kwh > np.quantile(trace.g_per_kwh, 0.75)
    shares = np.full((len(dirty), 4), 0.3)
    shares[:, 0] = np.where(dirty, 0.1, 0.0)
    mix = Mix(profile.tasks, shares / shares.sum(axis=1, keepdims=True))
    plain, mixed = (
        replay_world(ReplayArguments(profile=profile, mix=each)).reward.multipliers
        for each in (None, mix)
    )
    assert plain["arithmetic"] == pytest.approx(plain["choice"])
    dirtier = trace.g_per_kwh[dirty].mean() / trace.g_per_kwh.mean()
    assert mixed["arithmetic"] / plain["arithmetic"] == pytest.approx(dirtier, rel=0.1)
    assert mixed["choice"] < plain["choice"]


def test_requests_that_cannot_be_steered_save_nothing(tmp_path):
    kinds = {"free": "What is {n}?", "bound": "Explain {n} in two sentences."}
    profile = made.profile(tmp_path, made.chats(20, kinds), lambda r, d: float(d == "none"))
    multipliers = replay_world(ReplayArguments(profile=profile)).reward.multipliers
    assert multipliers["bound"] == 0
    assert multipliers["free"] > 1
