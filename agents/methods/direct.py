"""`direct`: predict quality and cost of each request, then choose by dual price; no RL."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from agents.methods.method import CROSS_FITTED
from agents.methods.ridge import NestedPredictions, fold_by_hash, nested_predictions
from agents.methods.scene import Scene
from envs.arrays import Float64Array, Int64Array
from envs.carbon.footprint import footprint_grams
from envs.carbon.intensity import IntensityTrace
from envs.outcomes.dual_price import candidate_prices
from envs.outcomes.profile import fingerprint
from envs.requests.request import Request

# Most prices that are tried for a task; they are spread over those at which some choice changes.
MOST_PRICES = 200


@dataclass
class Direct:
    """Ridge regression on tf-idf, structure and task, then one dual price per task.

    The choice for a fold's prompts uses the outcomes of the other folds only: the models are fitted
    to these training prompts, and a task's price is the lowest from which on the training prompts'
    own measured quality clears the floor by `confidence` standard errors, as PPO is asked to. There
    each training prompt is predicted by models that were not fitted to it (nested
    cross-fitting). Without such a price the task stays at L0.

    Attributes:
        fold_of: returns the fold of a request, which must depend on its prompt only.
        confidence: number of standard errors by which the training prompts must clear a floor.
        trace: hours at which the training prompts are priced; None for those of the scene.
    """

    fold_of: Callable[[Request], int] = fold_by_hash
    confidence: float = 1.0
    trace: IntensityTrace | None = None
    knows = CROSS_FITTED
    # Predictions of the last profile, because the scenes of a study differ in the hours only.
    _last: tuple[str, NestedPredictions] | None = field(default=None, init=False, repr=False)

    def choose(self, scene: Scene) -> Float64Array:
        """Return the choices for each request as one-hot rows, shape (n, D)."""
        predictions, places = self._predictions(scene)
        training_intensity = self._training_intensity(scene)
        chosen = np.zeros(len(scene), dtype=np.int64)
        for fold in np.unique(predictions.folds):
            test = (predictions.folds == fold)[places]
            for task, floor in scene.floors.items():
                train, rows = (scene.rows_of(task) & side for side in (~test, test))
                if not rows.any() or not train.any():
                    continue
                quality, grams = _split(
                    predictions.inner[fold][places[train]], training_intensity[train]
                )
                weights = scene.weights[train]
                prices = candidate_prices(weights[:, None] * grams, weights[:, None] * quality)
                price = self._price(prices, grams, quality, scene.scores[train], weights, floor)
                if price is not None:
                    quality, grams = _split(predictions.outer[places[rows]], scene.intensity[rows])
                    chosen[rows] = (grams - price * quality).argmin(axis=1)
        one_hot: Float64Array = np.eye(scene.scores.shape[1])[chosen]
        return one_hot

    def _price(
        self,
        prices: Float64Array,
        grams: Float64Array,
        quality: Float64Array,
        scores: Float64Array,
        weights: Float64Array,
        floor: float,
    ) -> float | None:
        """Return the lowest of the prices from which on the floor is cleared; None if none is."""
        tried = np.linspace(0, len(prices) - 1, min(len(prices), MOST_PRICES)).astype(np.int64)
        lowest = None
        for price in prices[tried][::-1]:
            choice = (grams - price * quality).argmin(axis=1)
            expected = scores[np.arange(len(choice)), choice]
            reference = float(weights @ scores[:, 0])
            ratio = float(weights @ expected) / reference if reference else 0.0
            residuals = weights * (expected - ratio * scores[:, 0])
            error = float(np.sqrt(residuals @ residuals)) / reference if reference else 0.0
            if ratio - self.confidence * error < floor:
                break
            lowest = float(price)
        return lowest

    def _predictions(self, scene: Scene) -> tuple[NestedPredictions, Int64Array]:
        """Return the predictions, and the place of each of the scene's requests in them."""
        order = np.argsort([request.request_id for request in scene.profile.requests])
        profile = scene.profile.select(order)
        key = f"{fingerprint(profile)} {scene.quality}"
        if self._last is None or self._last[0] != key:
            predicted = nested_predictions(profile, scene.quality, self.fold_of)
            self._last = key, predicted
        places = np.empty(len(order), dtype=np.int64)
        places[order] = np.arange(len(order))
        return self._last[1], places

    def _training_intensity(self, scene: Scene) -> Float64Array:
        if self.trace is None:
            return scene.intensity
        steps = np.linspace(0, len(self.trace.g_per_kwh), len(scene), endpoint=False)
        shuffled = np.random.default_rng(0).permutation(steps.astype(np.int64))
        intensity: Float64Array = self.trace.g_per_kwh[shuffled]
        return intensity


def _split(predicted: Float64Array, intensity: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Return predicted quality and footprint (gCO2e), each of shape (n, D)."""
    quality, energy, seconds = np.split(predicted, 3, axis=1)
    return quality, footprint_grams(energy, seconds, intensity[:, None])
