"""Ridge regression of quality and cost on a prompt's words, structure and task, cross-fitted."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array, hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from envs.arrays import BoolArray, Float64Array, Int64Array
from envs.errors import ConfigError
from envs.outcomes.profile import Profile
from envs.requests.features import Featurizer
from envs.requests.request import Request
from envs.requests.structure import STRUCTURE
from envs.world import request_parts

# Ridge penalty, and number of most frequent words and word pairs.
PENALTY = 10.0
VOCABULARY = 20_000


@dataclass(frozen=True)
class NestedPredictions:
    """Predictions for n requests under D directives, in columns: quality, J, device seconds.

    Attributes:
        folds: fold of each request, shape (n,).
        outer: predictions from the other folds, shape (n, 3 D).
        inner: by fold, predictions of the other folds' requests, each from the rest of them, so
            that neither the fold nor the request itself is used; shape (n, 3 D), NaN in the fold.
    """

    folds: Int64Array
    outer: Float64Array
    inner: dict[int, Float64Array]


def nested_predictions(
    profile: Profile, quality: str, fold_of: Callable[[Request], int]
) -> NestedPredictions:
    """Return cross-fitted predictions, and for each fold those within its training requests.

    Raises:
        ConfigError: the prompts contain no words, or are too few.
    """
    outcomes = profile.outcomes
    targets = np.concatenate(
        [profile.quality(quality), outcomes.energy_joules, outcomes.device_seconds], axis=1
    )
    folds = np.array([fold_of(request) for request in profile.requests], dtype=np.int64)
    # Two folds leave no rest to predict a training request from, so they are halved.
    halves = np.array([int(r.prompt_hash[8:16], 16) % 2 for r in profile.requests])
    groups = folds if len(np.unique(folds)) > 2 else 2 * folds + halves
    fitted = _Fits(profile, targets, groups)
    outer, inner = np.empty_like(targets), {}
    for fold in (int(fold) for fold in np.unique(folds)):
        test = folds == fold
        own = frozenset(int(group) for group in np.unique(groups[test]))
        outer[test] = fitted.without(own)[test]
        inner[fold] = np.full_like(targets, np.nan)
        for group in np.unique(groups[~test]):
            rows = groups == group
            inner[fold][rows] = fitted.without(own | {int(group)})[rows]
    return NestedPredictions(folds, outer, inner)


class _Fits:
    """Models by the groups that they were not fitted to; each is fitted once.

    Args:
        targets: shape (n, outputs).
        groups: group of each request, shape (n,).
    """

    def __init__(self, profile: Profile, targets: Float64Array, groups: Int64Array) -> None:
        requests = profile.requests
        self._texts = ["\n".join(str(m.get("content", "")) for m in r.messages) for r in requests]
        parts = request_parts(Featurizer(profile.tasks), requests)
        self._structure = np.concatenate(
            [parts[:, : len(STRUCTURE)], parts[:, -len(profile.tasks) :]], 1
        )
        self._targets, self._groups = targets, groups
        self._predicted: dict[frozenset[int], Float64Array] = {}

    def without(self, groups: frozenset[int]) -> Float64Array:
        """Return predictions for all requests from models fitted to none of the groups."""
        if groups not in self._predicted:
            train = ~np.isin(self._groups, list(groups))
            self._predicted[groups] = self._fit(np.asarray(train))
        return self._predicted[groups]

    def _fit(self, train: BoolArray) -> Float64Array:
        if not train.any():
            raise ConfigError("direct: too few prompts to predict some of them from others")
        vectorizer = TfidfVectorizer(
            max_features=VOCABULARY,
            ngram_range=(1, 2),
            sublinear_tf=True,
            token_pattern=r"(?u)\b\w+\b",  # noqa: S106 - no password
        )
        try:
            vectorizer.fit([self._texts[i] for i in np.flatnonzero(train)])
        except ValueError as error:
            raise ConfigError(
                f"direct: the profile's prompts contain no words to fit ({error})"
            ) from error
        scaler = StandardScaler().fit(self._structure[train])
        inputs = csr_array(
            hstack([vectorizer.transform(self._texts), scaler.transform(self._structure)])
        )
        target_scaler = StandardScaler().fit(self._targets[train])
        model = Ridge(alpha=PENALTY).fit(
            inputs[train], target_scaler.transform(self._targets[train])
        )
        predicted: Float64Array = target_scaler.inverse_transform(model.predict(inputs))
        return predicted
