"""The manifest's foretold figures, against policies whose choices are known."""

import math

import numpy as np
import pytest

from agents.policy.network import Policy
from agents.training.foretold import UNTAGGED, foretell
from agents.training.prepared import Prepared
from agents.training.prompts import PromptSet
from envs.carbon.csv_traces import synthetic_day
from envs.outcomes.reward import reward_from_profile
from envs.requests.features import Featurizer
from envs.world import parts_by_tag
from tests import made


@pytest.fixture
def told(tmp_path):
    """Brief answers keep half of the quality; "hard" requests get brief ones, "easy" ones none."""
    requests = made.chats(30, {"easy": "What is {n}?", "hard": "Why {n}?"})
    profile = made.profile(tmp_path, requests, lambda r, d: 1.0 if d == "none" else 0.5)
    # Odd requests have no known quality under brief.
    profile.outcomes.correct[1::2, 1] = np.nan
    featurizer = Featurizer(profile.tasks)
    weight = np.zeros((3, len(featurizer.names)), np.float32)
    weight[1, featurizer.names.index("task=hard")] = 50
    width = len(featurizer.names)
    layers = ((weight, np.array([10.0, 0.0, -50.0], np.float32)),)
    policy = Policy(np.zeros(width, np.float32), np.ones(width, np.float32), layers)
    parts = parts_by_tag(featurizer, profile.requests)
    reward = reward_from_profile(profile, 300.0, {})
    prepared = Prepared(profile, profile, featurizer, parts, reward, "correct")
    prompts = PromptSet(prepared, synthetic_day(), 0)
    return foretell(prompts.chances(policy).mean(axis=1), prompts, prepared)


def test_costs_and_qualities_are_those_of_the_requests_that_get_the_directive(told):
    brief = told["chosen"]["hard"]["brief"]
    assert brief["weight"] == pytest.approx(30, rel=1e-3)
    assert brief["joules"] / brief["joules_l0"] == pytest.approx(
        made.TOKENS["brief"] / made.TOKENS["none"]
    )
    assert brief["quality"] / brief["quality_l0"] == pytest.approx(0.5)
    assert brief["joules_ratio_error"] == pytest.approx(0, abs=1e-9)
    assert told["chosen"]["easy"]["none"]["weight"] == pytest.approx(30, rel=1e-3)
    # Without a tag, nothing tells the hard requests apart.
    assert told["chosen"][UNTAGGED]["brief"]["weight"] < 1


def test_the_length_of_an_answer_is_foretold_from_its_directive(told):
    # Without text features, the line is flat.
    for name, tokens in made.TOKENS.items():
        line = told["lengths"][name]
        assert (line["slope"], line["count"]) == (0, 60)
        assert line["intercept"] == pytest.approx(math.log1p(tokens))
        assert line["error"] == pytest.approx(0, abs=1e-9)
