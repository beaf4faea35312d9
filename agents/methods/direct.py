"""`direct`: predict quality and cost of each request, then choose by dual price; no RL."""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array, hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from agents.methods.method import CROSS_FITTED
from agents.methods.scene import Scene
from envs.arrays import Float64Array
from envs.carbon.footprint import footprint_grams
from envs.errors import ConfigError
from envs.outcomes.dual_price import cheapest_choices
from envs.requests.features import Featurizer
from envs.requests.structure import STRUCTURE
from envs.world import request_parts

FOLDS = 5


@dataclass(frozen=True)
class Direct:
    """Ridge regression on tf-idf, structure and task, then one dual price per task.

    Predictions are cross-fitted: each prompt's come from models fitted to the other folds, which
    are formed by prompt hash. The prices make every task's *predicted* quality reach its floor,
    so no measured outcome of an evaluated prompt is used.

    Attributes:
        regularisation: ridge penalty (alpha).
        vocabulary: number of most frequent words and word pairs to use.
    """

    regularisation: float = 10.0
    vocabulary: int = 20_000
    knows = CROSS_FITTED

    def choose(self, scene: Scene) -> Float64Array:
        """Return the probability of each directive for each request, shape (n, D)."""
        predicted = self._predicted(scene)
        quality, energy, seconds = np.split(predicted, 3, axis=1)
        grams = footprint_grams(energy, seconds, scene.intensity[:, None])
        probabilities = np.zeros(scene.scores.shape)
        for task, floor in scene.floors.items():
            rows = scene.rows_of(task)
            weights = scene.weights[rows, None]
            probabilities[rows] = cheapest_choices(
                weights * grams[rows],
                weights * quality[rows],
                floor * float((weights[:, 0] * quality[rows, 0]).sum()),
            )
        return probabilities

    def _predicted(self, scene: Scene) -> Float64Array:
        """Return cross-fitted predictions under each directive, shape (n, 3 D).

        The columns are quality (D), energy in J (D) and device time in s (D).
        """
        requests = scene.profile.requests
        texts = ["\n".join(str(m.get("content", "")) for m in r.messages) for r in requests]
        parts = request_parts(Featurizer(sorted(scene.floors)), requests)
        structure = np.concatenate([parts[:, : len(STRUCTURE)], parts[:, -len(scene.floors) :]], 1)
        outcomes = scene.profile.outcomes
        targets = np.concatenate(
            [
                scene.scores,
                outcomes.energy_joules,
                outcomes.device_seconds,
            ],
            axis=1,
        )
        folds = np.array([int(r.prompt_hash[:8], 16) % FOLDS for r in requests])
        predicted = np.empty_like(targets)
        for fold in np.unique(folds):
            test, train = folds == fold, folds != fold
            vectorizer = TfidfVectorizer(
                max_features=self.vocabulary,
                ngram_range=(1, 2),
                sublinear_tf=True,
                token_pattern=r"(?u)\b\w+\b",  # noqa: S106 - no password
            )
            try:
                vectorizer.fit([texts[i] for i in np.flatnonzero(train)])
            except ValueError as error:
                raise ConfigError(
                    f"direct: the profile's prompts contain no words to fit ({error})"
                ) from error
            scaler = StandardScaler().fit(structure[train])
            inputs = csr_array(hstack([vectorizer.transform(texts), scaler.transform(structure)]))
            target_scaler = StandardScaler().fit(targets[train])
            model = Ridge(alpha=self.regularisation).fit(
                inputs[train], target_scaler.transform(targets[train])
            )
            predicted[test] = target_scaler.inverse_transform(model.predict(inputs[test]))
        return predicted
