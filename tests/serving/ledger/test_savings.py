"""The interval of the live saving covers the truth."""

import numpy as np
import pytest

from serving.ledger.savings import COLUMNS, LEAST_CONVERSATIONS, estimate_savings, hold_out_saving


def world(seed, conversations, hold_out, truth_only=False):
    """Heavy-tailed costs, several turns a conversation, a policy that differs by task."""
    rng = np.random.default_rng(seed)
    turns = rng.integers(1, 4, conversations)
    group = np.repeat(np.arange(conversations), turns)
    task = rng.integers(0, 3, conversations)[group]
    characters = np.exp(rng.normal(5, 1, conversations))[group]
    grid = 200 + 150 * np.sin(rng.uniform(0, 2 * np.pi, conversations))[group]
    noise = rng.normal(0, 0.7, len(group)) + rng.normal(0, 0.5, conversations)[group]
    l0 = np.exp(noise) * (1 + task) * np.log1p(characters) * grid / 1000
    kept = rng.random(conversations)[group] < np.array([0.2, 0.5, 1.0])[task]
    held = (rng.random(conversations) < hold_out)[group]
    cost = np.where(held | kept, l0, 0.15 * l0)
    if truth_only:
        return 1 - np.where(kept, l0, 0.15 * l0).sum() / l0.sum()
    tags = [(task == t).astype(float) for t in (1, 2)]
    seen = np.column_stack([np.ones(len(group)), grid, np.log1p(characters), *tags])
    return cost, held, np.full(len(group), hold_out), seen, group


def test_the_interval_covers_the_truth_in_95_of_100():
    truth = world(99, 500_000, 0.0, truth_only=True)
    for conversations, hold_out in ((800, 0.05), (1500, 0.2)):
        found = [hold_out_saving(*world(seed, conversations, hold_out)) for seed in range(1000)]
        covered = np.mean([low <= truth <= high for low, high in (f.ci95 for f in found)])
        # Of 1,000 trials at 95 % all but one in a thousand runs lie within 2.3 points.
        assert 0.925 <= covered <= 0.975
        assert abs(np.mean([f.ratio for f in found]) - truth) < 0.05


def row(**given):
    base = {
        "hold_out": False,
        "hold_out_ratio": 0.5,
        "conversation": "0",
        "task": None,
        "characters": 10,
        "intensity_g_per_kwh": 100.0,
        "grams": 0.5,
        "energy_joules": 5.0,
        "completion_tokens": 5,
        "energy_method": "estimated",
        "lottery": True,
        "mode": "on",
        "outcome": "completed",
        "intensity_kind": "average direct",
    }
    return [(base | given)[name] for name in COLUMNS]


def halves(count, **given):
    rng = np.random.default_rng(0)
    for n in range(count):
        held = n % 2 == 0
        scale = rng.uniform(0.9, 1.1) * (2 if held else 1)
        yield row(hold_out=held, conversation=str(n), grams=scale, energy_joules=scale, **given)


def test_half_saved_is_half():
    found = estimate_savings(halves(400))
    assert found["grams"]["ratio"] == np.clip(found["grams"]["ratio"], 0.48, 0.52)
    low, high = found["grams"]["ci95"]
    assert low < 0.5 < high
    assert high - low < 0.03
    assert found["grams"]["total"] == np.clip(found["grams"]["total"], 190, 210)
    assert (found["requests"], found["held_out_requests"]) == (400, 200)
    assert found["completion_tokens"]["ratio"] == 0


def test_what_was_not_drawn_by_lot_does_not_count():
    for given in (
        {"lottery": False},
        {"mode": "shadow"},
        {"outcome": "client_left"},
        {"hold_out_ratio": 0.0},
        {"completion_tokens": None},
    ):
        assert estimate_savings(halves(100, **given))["requests"] == 0


def test_too_few_say_nothing():
    found = estimate_savings(halves(2 * LEAST_CONVERSATIONS - 2))
    assert found["grams"] is None
    assert "fewer than" in found["reason"]
    assert estimate_savings([])["grams"] is None


def test_grams_of_unlike_intensities_are_not_summed():
    rows = list(halves(400))
    found = estimate_savings(rows)
    assert found["sci"]["l0"]["grams_per_request"] == found["grams"]["l0"]
    tokens = found["completion_tokens"]["policy"]
    assert found["sci"]["policy"]["grams_per_1k_generated_tokens"] == pytest.approx(
        1000 * found["grams"]["policy"] / tokens
    )
    place = COLUMNS.index("intensity_kind")
    rows[0] = [*rows[0][:place], "marginal direct", *rows[0][place + 1 :]]
    mixed = estimate_savings(rows)
    assert mixed["grams"] is None
    assert "average direct, marginal direct" in mixed["reason"]
    assert mixed["energy_joules"] is not None
