"""`direct`: predict quality and cost of each request, then choose by dual price; no RL."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from agents.methods.dual_price import candidate_prices
from agents.methods.method import CROSS_FITTED
from agents.methods.ridge import NestedPredictions, nested_predictions
from agents.methods.scene import Scene
from envs.arrays import Float64Array, Int64Array
from envs.carbon.footprint import footprint_grams
from envs.carbon.intensity import IntensityTrace
from envs.outcomes.profile import Profile, fingerprint
from envs.requests.request import Request, fold_of

# Most prices that are tried for a task; they are spread over those at which some choice changes.
MOST_PRICES = 200


@dataclass
class Direct:
    """Ridge regression on tf-idf, structure and task, then one dual price per task.

    The choice for a fold's prompts uses the outcomes of the other folds only: the models are fitted
    to these training prompts, and a task's price is the lowest such that at it, and at every higher
    one, their own measured quality clears the floor by `confidence` standard errors, as PPO is
    asked to. There each training prompt is predicted by models that were not fitted to it (nested
    cross-fitting). Without such a price the task stays at L0.

    Attributes:
        fold_of: returns the fold of a request, which must depend on its prompt only.
        confidence: number of standard errors by which the training prompts must clear a floor.
        profile: the training prompts, all of whose qualities are known; must hold the judged ones
            too. None for those of the scene.
        trace: training hours, of which each training prompt is priced at several
            (`IntensityTrace.spread_each`); None for the hours of the scene.
    """

    fold_of: Callable[[Request], int] = fold_of
    confidence: float = 1.0
    profile: Profile | None = None
    trace: IntensityTrace | None = None
    knows = CROSS_FITTED
    # Predictions of the last profile, because the scenes of a study differ in the hours only.
    _last: tuple[str, NestedPredictions] | None = field(default=None, init=False, repr=False)

    def choose(self, scene: Scene) -> Float64Array:
        """Return the choices for each request as one-hot rows, shape (n, D)."""
        profile = scene.profile if self.profile is None else self.profile
        ids = np.array([request.request_id for request in profile.requests])
        profile, ids = profile.select(np.argsort(ids)), np.sort(ids)
        predictions = self._predictions(profile, scene.quality)
        # The place of each judged request among the training prompts.
        places = np.searchsorted(ids, [request.request_id for request in scene.profile.requests])
        intensity = self._training_intensity(scene, places, len(ids))
        scores = profile.quality(scene.quality)
        chosen = np.zeros(len(scene), dtype=np.int64)
        for task, floor in scene.floors.items():
            of_task, judged = profile.rows_of(task), scene.rows_of(task)
            for fold in np.unique(predictions.folds):
                train = of_task & (predictions.folds != fold)
                rows = judged & (predictions.folds == fold)[places]
                if not rows.any() or not train.any():
                    continue
                known = _split(predictions.inner[fold][train], intensity[:, train])
                price = self._price(*known, scores[train], floor)
                if price is not None:
                    quality, grams = _split(predictions.outer[places[rows]], scene.intensity[rows])
                    chosen[rows] = (grams - price * quality).argmin(axis=1)
        one_hot: Float64Array = np.eye(scene.scores.shape[1])[chosen]
        return one_hot

    def _price(
        self, quality: Float64Array, grams: Float64Array, scores: Float64Array, floor: float
    ) -> float | None:
        """Return the lowest price such that it and every higher one clears the floor.

        Args:
            quality: predicted for the n training prompts of a task, shape (n, D).
            grams: the same at H hours each, shape (H, n, D).
            scores: their measured qualities, shape (n, D).
        """
        width = quality.shape[1]
        prices = candidate_prices(grams.reshape(-1, width), np.tile(quality, (len(grams), 1)))
        tried = np.linspace(0, len(prices) - 1, min(len(prices), MOST_PRICES)).astype(np.int64)
        reference = float(scores[:, 0].sum())
        lowest = None
        for price in prices[tried][::-1]:
            choice = (grams - price * quality).argmin(axis=-1)
            expected = scores[np.arange(len(scores)), choice].mean(axis=0)
            ratio = float(expected.sum()) / reference if reference else 0.0
            residuals = expected - ratio * scores[:, 0]
            error = float(np.sqrt(residuals @ residuals)) / reference if reference else 0.0
            if ratio - self.confidence * error < floor:
                break
            lowest = float(price)
        return lowest

    def _predictions(self, profile: Profile, quality: str) -> NestedPredictions:
        key = f"{fingerprint(profile)} {quality}"
        if self._last is None or self._last[0] != key:
            self._last = key, nested_predictions(profile, quality, self.fold_of)
        return self._last[1]

    def _training_intensity(self, scene: Scene, places: Int64Array, count: int) -> Float64Array:
        """Return the intensity at the hours of each training prompt, gCO2e/kWh, (H, count)."""
        if self.trace is None:
            intensity = np.zeros((1, count))
            intensity[0, places] = scene.intensity
            return intensity
        return self.trace.at(self.trace.spread_each(count, np.random.default_rng(0)))


def _split(predicted: Float64Array, intensity: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Return predicted quality, shape (n, D), and footprint (gCO2e), with the hours' shape first.

    Args:
        predicted: of n requests, shape (n, 3 D).
        intensity: at their hours, gCO2e/kWh, shape (..., n).
    """
    quality, energy, seconds = np.split(predicted, 3, axis=1)
    return quality, footprint_grams(energy, seconds, intensity[..., None])
