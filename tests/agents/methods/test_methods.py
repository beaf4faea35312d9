from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.methods import METHODS, make_method
from agents.methods.bundle import Learned
from agents.methods.method import ORACLE
from agents.methods.scene import Scene, Windows, build_scene
from envs.carbon.footprint import footprint_grams
from envs.carbon.intensity import IntensityTrace
from envs.errors import BundleError, ConfigError, DataError
from envs.outcomes.outcome import Outcomes
from envs.outcomes.profile import Profile
from envs.requests.mix import Mix, fixed_mix
from tests import made

KINDS = {"easy": "What is item {n}?", "hard": "Explain why {n} is so. Show all steps."}


def trace(values, zone="X"):
    values = np.asarray(values, dtype=float)
    return IntensityTrace(zone, 0.0, values, np.full(len(values), "measured"), "made")


def profile(count=60, seed=0) -> Profile:
    """Outcomes at random; hard requests lose by brevity, easy ones do not."""
    rng = np.random.default_rng(seed)
    requests = tuple(made.chats(count, KINDS, seed))
    keep = {"easy": (0.7, 0.7, 0.65), "hard": (0.8, 0.5, 0.2)}
    scores = np.array([rng.random(3) < keep[r.task] for r in requests], dtype=float)
    joules = rng.uniform(0.5, 1.5, (len(requests), 1)) * np.array([1000.0, 200.0, 80.0])
    joules *= rng.uniform(0.8, 1.2, joules.shape)
    outcomes = Outcomes(
        energy_method="estimated",
        prompt_tokens=np.full(joules.shape, 20.0),
        completion_tokens=joules / 6,
        energy_joules=joules,
        latency_seconds=joules / 250,
        device_seconds=joules / 250,
        correct=scores,
        preference=np.full(joules.shape, np.nan),
    )
    return Profile(requests, ("none", "brief", "very_brief"), "made", outcomes)


def scene(floor=0.9, seed=0, count=60, **arguments) -> Scene:
    recorded = profile(count, seed)
    rng = np.random.default_rng(seed)
    return build_scene(
        recorded,
        [trace(rng.uniform(20, 400, 48)), trace(rng.uniform(5, 50, 30), "Y")],
        dict.fromkeys(recorded.tasks, floor),
        quality="correct",
        **arguments,
    )


def ratio(scene, chance, rows=None):
    rows = np.ones(len(scene), dtype=bool) if rows is None else rows
    weights = scene.weights[rows]
    kept = (weights * (scene.scores[rows] * chance[rows]).sum(axis=1)).sum()
    return kept / (weights * scene.scores[rows, 0]).sum()


def spent(scene, chance):
    return float((scene.weights * (scene.grams * chance).sum(axis=1)).sum())


@pytest.mark.parametrize("name", METHODS)
def test_every_method_gives_a_distribution_for_every_request(name):
    seen = scene()
    chance = make_method(name).choose(seen)
    assert chance.shape == seen.scores.shape
    assert (chance >= 0).all()
    assert chance.sum(axis=1) == pytest.approx(np.ones(len(seen)))
    assert np.array_equal(make_method(name).choose(scene()), chance)


@pytest.mark.parametrize(
    "name",
    [
        *("base", "co2_opt", "random", "intensity_threshold"),
        *("sprout_static", "sprout_lp", "per_task_lp", "hourly_task_lp", "direct"),
    ],
)
def test_only_oracles_look_at_a_request_s_own_outcomes(name):
    # Two scenes that differ in which of two like requests had which outcome.
    chosen = make_method(name)
    assert chosen.knows != ORACLE
    seen = scene()
    a, b = np.flatnonzero((seen.tasks == "easy") & (seen.zone == 0))[:2]
    order = np.arange(len(seen))
    order[[a, b]] = [b, a]
    swapped = seen.profile.select(order)
    mixed = replace(seen.profile, outcomes=swapped.outcomes)
    other = replace(seen, profile=mixed)
    before, after = chosen.choose(seen)[[a, b]], chosen.choose(other)[[a, b]]
    assert np.allclose(before, after, atol=1e-2 if chosen.knows == "cross-fitted" else 2e-2)


def test_linucb_knows_nothing_of_what_comes_later():
    seen = scene(0.9, count=200)
    late = seen.times > np.median(seen.times)
    worse = np.where(late[:, None], 0.0, seen.scores)
    dearer = np.where(late[:, None], 3.0, 1.0) * seen.profile.outcomes.energy_joules
    changed = replace(seen.profile.outcomes, correct=worse, energy_joules=dearer)
    other = replace(seen, profile=replace(seen.profile, outcomes=changed))
    before, after = (make_method("linucb").choose(s)[~late] for s in (seen, other))
    # The last batch of the early ones may have begun to learn from late ones.
    order = np.argsort(seen.times[~late], kind="stable")[:-64]
    assert np.array_equal(before[order], after[order])


def test_sprout_lp_follows_the_hour_s_mix():
    recorded = profile()
    hours = np.tile([[0.9, 0.1], [0.1, 0.9]], (12, 1))
    seen = build_scene(
        recorded,
        [trace(np.full(24, 100.0))],
        dict.fromkeys(recorded.tasks, 0.9),
        quality="correct",
        mix=Mix(("easy", "hard"), hours),
    )
    hourly, static = (make_method(name).choose(seen) for name in ("sprout_lp", "sprout_static"))
    # Hard requests lose by brevity: where they are many, more are left alone.
    assert (
        hourly[seen.hours % 2 == 1, 0].min() > static[0, 0] > hourly[seen.hours % 2 == 0, 0].max()
    )
    means = seen.task_means(seen.scores)
    for hour in (0, 1):
        shares = hours[hour]
        mix = hourly[seen.hours == hour][0]
        assert shares @ means @ mix >= 0.9 * shares @ means[:, 0] - 1e-7


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.integers(0, 10_000), st.floats(0.5, 1.0))
def test_no_method_that_keeps_the_floors_emits_less_than_the_clairvoyant(seed, floor):
    seen = scene(floor, seed)
    best = make_method("clairvoyant").choose(seen)
    best_global = make_method("clairvoyant_global").choose(seen)
    for task in seen.floors:
        assert ratio(seen, best, seen.rows_of(task)) >= floor - 1e-9
    assert ratio(seen, best_global) >= floor - 1e-9
    rng = np.random.default_rng(seed)
    others = [
        make_method(name).choose(seen)
        for name in METHODS
        if name not in ("direct", "linucb", "clairvoyant", "clairvoyant_global")
    ]
    # Any rule whatever, drawn towards L0 until it keeps the floors.
    wild = rng.dirichlet(np.ones(3), len(seen))
    others += [share * wild + (1 - share) * np.eye(3)[0] for share in np.linspace(0, 1, 6)]
    for chance in others:
        if all(ratio(seen, chance, seen.rows_of(t)) >= floor - 1e-9 for t in seen.floors):
            assert spent(seen, best) <= spent(seen, chance) * (1 + 1e-6)
        if ratio(seen, chance) >= floor - 1e-9:
            assert spent(seen, best_global) <= spent(seen, chance) * (1 + 1e-6)


@pytest.mark.parametrize("name", ["per_task_lp", "intensity_threshold", "clairvoyant"])
@pytest.mark.parametrize("floor", [0.8, 0.95, 1.0])
def test_methods_with_task_floors_keep_them(name, floor):
    seen = scene(floor)
    chance = make_method(name).choose(seen)
    for task in seen.floors:
        assert ratio(seen, chance, seen.rows_of(task)) >= floor - 1e-6


@pytest.mark.parametrize("name", ["hourly_task_lp", "known_cost_lp"])
def test_where_requests_are_alike_the_hours_are_all_that_can_be_used(name):
    """Then the floors hold exactly, and less is emitted than by one mix for all hours."""
    seen = scene(0.9)
    alike = {
        field: np.select(
            [np.repeat(seen.rows_of(task)[:, None], 3, axis=1) for task in seen.floors],
            list(seen.task_means(getattr(seen.profile.outcomes, field))),
        )
        for field in ("correct", "energy_joules", "device_seconds")
    }
    outcomes = replace(seen.profile.outcomes, **alike)
    seen = replace(seen, profile=replace(seen.profile, outcomes=outcomes))
    chance = make_method(name).choose(seen)
    for task in seen.floors:
        assert ratio(seen, chance, seen.rows_of(task)) >= 0.9 - 1e-9
    assert spent(seen, chance) < 0.95 * spent(seen, make_method("per_task_lp").choose(seen))
    assert spent(seen, chance) == pytest.approx(
        spent(seen, make_method("clairvoyant").choose(seen))
    )


@pytest.mark.parametrize("name", ["sprout_lp", "sprout_static", "clairvoyant_global"])
def test_methods_with_one_floor_keep_it_on_the_average(name):
    seen = scene(0.9)
    chance = make_method(name).choose(seen)
    assert ratio(seen, chance) >= 0.9 - 1e-6
    assert spent(seen, chance) < 0.9 * spent(seen, make_method("base").choose(seen))


@pytest.mark.parametrize(("name", "directive"), [("base", 0), ("co2_opt", 2)])
def test_a_fixed_directive_costs_the_closed_form_of_the_table(name, directive):
    seen = scene()
    chance = make_method(name).choose(seen)
    table = footprint_grams(
        seen.profile.outcomes.energy_joules[:, directive],
        seen.profile.outcomes.device_seconds[:, directive],
        seen.intensity,
    )
    assert spent(seen, chance) == pytest.approx(float(table.sum()), rel=1e-12)


def test_linucb_learns_what_it_may_and_may_not_shorten():
    seen = scene(0.95, count=700)
    chance = make_method("linucb").choose(seen)
    late = seen.times > np.median(seen.times)
    hard, easy = (late & (seen.tasks == task) for task in ("hard", "easy"))
    assert chance[easy, 0].mean() < 0.5 * chance[hard, 0].mean()


def test_a_policy_s_directives_are_found_by_name(tmp_path):
    seen = scene()
    bundle = made.bundle(tmp_path, (0.0, 0.0, 50.0), tasks=("easy", "hard"))
    chance = Learned(bundle).choose(seen)
    assert chance[:, 2] == pytest.approx(np.ones(len(seen)))
    other = replace(seen, profile=replace(seen.profile, directives=("none", "brief", "short")))
    with pytest.raises(BundleError, match="'very_brief'"):
        Learned(bundle).choose(other)


def test_requests_are_spread_evenly_over_all_hours_of_all_zones():
    recorded = profile(39)
    seen = build_scene(
        recorded,
        [trace(np.arange(48)), trace(np.arange(30), "Y")],
        dict.fromkeys(recorded.tasks, 0.9),
        quality="correct",
    )
    assert len(seen) == 78
    slots = sorted(zip(seen.zone.tolist(), seen.hours.tolist(), strict=True))
    assert slots == [(0, h) for h in range(48)] + [(1, h) for h in range(30)]
    assert np.array_equal(seen.intensity, seen.hours)
    assert {r.request_id for r in seen.profile.requests} == {
        r.request_id for r in recorded.requests
    }


def test_a_window_and_a_mix_are_kept():
    seen = scene(windows=Windows((6,), 12), mix=fixed_mix({"easy": 3, "hard": 1}))
    assert set(seen.hours) == set(range(12))
    assert np.array_equal(
        seen.intensity[seen.zone == 0], seen.traces[0].g_per_kwh[6:][seen.hours[seen.zone == 0]]
    )
    share = seen.weights[seen.tasks == "easy"].sum() / seen.weights.sum()
    assert share == pytest.approx(0.75)
    with pytest.raises(DataError, match="hours 20 to 40"):
        scene(windows=Windows((20,), 20))
    with pytest.raises(DataError, match="'other' has no requests"):
        scene(mix=fixed_mix({"easy": 1, "other": 1}))
    # A share of nothing leaves requests, or a whole task, out.
    alone = scene(mix=fixed_mix({"easy": 1, "hard": 0}))
    assert list(alone.floors) == ["easy"]
    assert alone.weights == pytest.approx(np.ones(len(alone)))
    by_turns = scene(mix=Mix(("easy", "hard"), np.eye(2)))
    assert all((by_turns.tasks == "hard") == (by_turns.hours % 2 == 1))


def test_a_scene_without_known_quality_is_refused():
    recorded = profile()
    with pytest.raises(ConfigError, match="preference"):
        build_scene(recorded, [trace([1.0])], {}, quality="preference")
