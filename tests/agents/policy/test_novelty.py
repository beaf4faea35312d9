"""Requests unlike the training are told from those like it, with a bounded rate of false alarms."""

import json

import numpy as np
import pytest

from agents.policy.bundle import Measured, load_bundle, save_bundle
from agents.policy.novelty import FALSE_ALARM, fit_novelty, inputs_of, load_novelty
from agents.training.text import fit_text
from envs.errors import BundleError
from envs.outcomes.profile import with_known_quality
from envs.outcomes.profile_reader import read_profile
from envs.requests.features import Featurizer
from envs.requests.request import fold_of
from envs.requests.structure import read_chat
from tests import made

WIDTH = 18


def prompts(rng, count=600, shift=0.0):
    """Return inputs of two tasks; the tag columns of the structure vary too."""
    tasks = np.where(np.arange(count) % 2, "a", "b")
    inputs = rng.normal(size=(count, WIDTH)) + 5 * (tasks == "a")[:, None] + shift
    return inputs.astype(np.float32), tasks.tolist(), np.arange(count) % 5


def far(novelty, inputs):
    return np.array([novelty.unlike(row) for row in inputs])


def test_new_prompts_like_the_training_are_seldom_taken_for_unlike():
    rng = np.random.default_rng(0)
    rates = [far(fit_novelty(*prompts(rng)), prompts(rng, 1000)[0]).mean() for _ in range(20)]
    assert np.mean(rates) <= FALSE_ALARM + 3 * np.std(rates) / np.sqrt(20)


def test_one_request_is_judged_as_many_are():
    rng = np.random.default_rng(4)
    novelty = fit_novelty(*prompts(rng))
    noise = rng.normal(size=(300, WIDTH)) * rng.uniform(0, 2, (300, 1))
    rows = (prompts(rng, 300)[0] + noise).astype(np.float32)
    expected = (novelty.distances(rows) > novelty.limits).all(axis=1)
    assert far(novelty, rows).tolist() == expected.tolist()
    assert 0 < expected.sum() < 300


def test_what_lies_between_the_tasks_is_unlike_both():
    rng = np.random.default_rng(1)
    novelty = fit_novelty(*prompts(rng))
    middle = rng.normal(size=(200, WIDTH)).astype(np.float32) * 0.1 + 2.5
    assert far(novelty, middle).mean() > 0.95
    assert far(novelty, prompts(rng, shift=30.0)[0]).all()


def test_few_prompts_have_no_limit_or_a_wider_one():
    rng = np.random.default_rng(2)
    assert fit_novelty(*prompts(rng, 30)) is None
    assert fit_novelty(*prompts(rng, 80)).false_alarm == pytest.approx(1 / 41)
    inputs, tasks, _ = prompts(rng)
    assert fit_novelty(inputs, tasks, np.zeros(600, dtype=np.int64)) is None
    assert fit_novelty(np.ones((600, WIDTH)), tasks, np.arange(600) % 5) is None


def test_a_bundle_keeps_its_limits(tmp_path):
    rng = np.random.default_rng(3)
    bundle = made.bundle(tmp_path / "made")
    assert bundle.novelty is None
    novelty = fit_novelty(*prompts(rng))
    parts = bundle.policy, bundle.catalogue, bundle.featurizer, "made", {}
    saved = save_bundle(tmp_path / "bundle", *parts, Measured(None, novelty))
    rows = prompts(rng, 50)[0]
    assert saved.novelty.distances(rows) == pytest.approx(novelty.distances(rows), rel=1e-4)
    assert saved.novelty.limits.tolist() == novelty.limits.tolist()
    manifest = tmp_path / "bundle" / "manifest.json"
    broken = json.loads(manifest.read_text())
    broken["novelty"]["limits"] = [1.0]
    manifest.write_text(json.dumps(broken))
    with pytest.raises(BundleError, match="novelty"):
        load_bundle(tmp_path / "bundle")
    assert load_novelty({}, {}) is None


def test_on_published_prompts_code_contracts_and_chinese_are_unlike(shared_data):
    profile = read_profile(shared_data / "llama2_outcomes.parquet")
    profile = with_known_quality(profile, "correct")
    text = fit_text(profile, "correct")
    featurizer = Featurizer(profile.tasks, text.full)
    parts = text.parts(featurizer, profile.requests, False)
    inputs = text.novelty_inputs(featurizer, profile.requests, parts)
    folds = np.array([fold_of(request) for request in profile.requests])
    novelty = fit_novelty(inputs, [r.task for r in profile.requests], folds)

    def unlike(question):
        reading = read_chat([{"role": "user", "content": question}])
        part = featurizer.part(reading, None)
        return novelty.unlike(inputs_of(featurizer, part, reading.words))

    assert not unlike("What is the capital of France?")
    assert not unlike("Natalia sold 48 clips in April and half as many in May. How many in all?")
    for question in (
        "请详细说明量子力学的基本原理",
        "def foo(x):\n    return x+1\nfix this code;\n",
        "Summarise the following contract clause: The lessee shall indemnify and hold harmless "
        "the lessor against any and all claims arising out of the use of the premises.",
    ):
        assert unlike(question)
