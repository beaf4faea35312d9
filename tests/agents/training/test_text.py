import numpy as np
import pytest

from agents.training.text import fit_text
from envs.errors import ConfigError
from envs.requests.features import Featurizer
from envs.requests.request import FOLDS, fold_of
from envs.world import request_parts
from tests import made

KINDS = {
    "fact": "Name the capital of land {n} please",
    "proof": "Prove lemma {n} with rigour please",
}


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    requests = made.chats(80, KINDS)
    return made.profile(
        tmp_path_factory.mktemp("text"),
        requests,
        lambda r, d: float(r.task == "fact" or d == "none"),
    )


@pytest.fixture(scope="module")
def fitted(profile):
    return fit_text(profile, "correct")


def column(parts, featurizer, name):
    return parts[:, featurizer.names.index(name)]


def test_words_predict_quality_and_task_of_prompts_outside_the_fit(profile, fitted):
    featurizer = Featurizer(profile.tasks, fitted.full)
    parts = fitted.parts(featurizer, profile.requests, tags=False)
    fact = profile.rows_of("fact")
    quality = column(parts, featurizer, "quality=brief")
    assert quality[fact].min() > 0.8
    assert quality[~fact].max() < 0.2
    likeness = column(parts, featurizer, "like=proof")
    assert np.array_equal(likeness > 0.5, ~fact)
    costs = column(parts, featurizer, "log_energy=brief")
    assert costs == pytest.approx(np.full(len(costs), np.log(0.2)), abs=0.1)


def test_all_projections_give_new_prompts_nearly_the_same_features(profile, fitted, tmp_path):
    fresh = made.chats(20, KINDS, seed=9)
    by_whole = request_parts(Featurizer(profile.tasks, fitted.full), fresh)
    for text in fitted.without:
        assert request_parts(Featurizer(profile.tasks, text), fresh) == pytest.approx(
            by_whole, abs=0.15
        )


def test_a_prompts_own_outcome_does_not_reach_its_features(profile):
    changed = profile.with_quality("correct", profile.outcomes.correct.copy())
    changed.outcomes.correct[3] = 1 - changed.outcomes.correct[3]
    request = profile.requests[3:4]
    features = [
        fitted.parts(Featurizer(profile.tasks, fitted.full), request, tags=True)
        for fitted in (fit_text(profile, "correct"), fit_text(changed, "correct"))
    ]
    assert np.array_equal(*features)


def test_rare_words_are_not_in_the_vocabulary(profile, fitted):
    # Each number occurs in only one or two prompts, as people's names would.
    assert {"capital", "lemma"} <= set(fitted.full.vocabulary)
    assert not any(word.isdecimal() for word in fitted.full.vocabulary)


def test_every_prompt_has_one_fold(profile):
    folds = {fold_of(request) for request in profile.requests}
    assert folds == set(range(FOLDS))


def test_too_few_prompts_are_refused(profile):
    with pytest.raises(ConfigError, match="1 prompts are too few"):
        fit_text(profile.select([0]), "correct")
