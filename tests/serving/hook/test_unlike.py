"""Requests that are unlike the policy's training keep L0, and are counted."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from agents.policy.novelty import Novelty
from tests.serving.hooks import hook, metric, records

LIKE, UNLIKE = (
    "Three plus four?",
    "Which of the many rivers that cross this old town has no bridge at all?",
)


def with_limits(own):
    """Let the hook's policy know only questions of fewer than ten words."""
    (decider,) = own.policies.loaded
    names = [feature.name for feature in decider.bundle.featurizer.features]
    column = np.array([names.index("log_words")])
    novelty = Novelty(column, np.zeros((1, 1)), np.eye(1), np.array([np.log(10.0) ** 2]), 0.01)
    decider.bundle = replace(decider.bundle, novelty=novelty)
    return own


def plan(own, *messages):
    roles = ("user", "assistant")
    chat = [{"role": roles[n % 2], "content": text} for n, text in enumerate(messages)]
    body = {"model": "made", "messages": chat}
    planned = asyncio.run(own.plan("/v1/chat/completions", body, {}))
    own.finish(planned, own.answer(planned), "completed")
    return planned


def test_an_unlike_request_keeps_l0_outside_of_the_lottery(tmp_path):
    own = with_limits(hook(tmp_path))
    planned = plan(own, UNLIKE)
    assert planned.steered is None
    (row,) = records(own)
    assert (row["reason"], row["directive"], row["lottery"]) == ("unlike_profile", "none", False)
    assert (
        metric(own, 'sprout_requests_total{directive="none",mode="on",reason="unlike_profile"') == 1
    )
    own.close()


def test_the_opening_decides_for_all_turns(tmp_path):
    own = with_limits(hook(tmp_path))
    assert plan(own, LIKE).record.reason == "policy"
    assert plan(own, LIKE, "Seven.", UNLIKE).record.reason == "sticky"
    assert plan(own, UNLIKE, "Seven.", LIKE).record.reason == "unlike_profile"
    own.close()


@pytest.mark.parametrize("settings", [{"unlike": "steer"}])
def test_an_operator_may_steer_them_all_the_same(tmp_path, settings):
    own = with_limits(hook(tmp_path, **settings))
    assert plan(own, UNLIKE).record.reason == "policy"
    own.close()
