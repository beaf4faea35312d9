"""Fit the text projection to a profile: predict outcomes of a chat from its text."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array, hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge

from agents.policy.novelty import inputs_of
from envs.arrays import BoolArray, Float32Array, Float64Array
from envs.errors import ConfigError
from envs.outcomes.profile import Profile
from envs.requests.features import LOG_ENERGY, Featurizer
from envs.requests.projection import EncodedProjection, Vectors, WordProjection
from envs.requests.request import FOLDS, Request, fold_of
from envs.requests.structure import Feature, read_chat

# Candidate ridge penalties; each target uses the one with the least cross-validated error.
ALPHAS = (3.0, 10.0, 30.0, 100.0)
# Most words in the vocabulary.
VOCABULARY = 4000
# A word that occurs in fewer prompts is noise, and may be a person's name.
LEAST_PROMPTS = 3
# Lower bound on energy relative to the mean under L0, before taking logarithms.
LEAST_ENERGY = 1e-3


@dataclass(frozen=True)
class FittedText:
    """A projection fitted to all prompts, and for each fold one fitted to the other folds.

    Serving uses the first. Training uses the others (cross-fitting): otherwise the policy would
    learn to trust features that were fitted to the prompt's own verdict, which new prompts do
    not have.

    Attributes:
        full: fitted to all prompts.
        without: by fold, fitted to the prompts of the other folds.
    """

    full: WordProjection | EncodedProjection
    without: tuple[WordProjection | EncodedProjection, ...]

    def parts(
        self, featurizer: Featurizer, requests: Sequence[Request], tags: bool
    ) -> Float32Array:
        """Return cross-fitted features of training prompts, as if each were new.

        Args:
            featurizer: supplies the tasks.
            requests: the n training prompts.
            tags: whether the features show the task's tag.

        Returns:
            Shape (n, features before context).
        """
        by_fold = [Featurizer(featurizer.tasks, text) for text in self.without]
        return np.stack(
            [by_fold[fold_of(r)].request(r.messages, r.task if tags else None) for r in requests]
        )

    def novelty_inputs(
        self, featurizer: Featurizer, requests: Sequence[Request], parts: Float32Array
    ) -> Float32Array:
        """Return cross-fitted inputs of `agents.policy.novelty` for training prompts.

        Args:
            featurizer: supplies the tasks.
            requests: the n training prompts.
            parts: their cross-fitted features.

        Returns:
            Shape (n, inputs).
        """
        by_fold = [Featurizer(featurizer.tasks, text) for text in self.without]
        return np.stack(
            [
                inputs_of(by_fold[fold_of(r)], part, read_chat(r.messages).words)
                for r, part in zip(requests, parts, strict=True)
            ]
        )


def fit_text(profile: Profile, quality: str, vectors: Vectors | None = None) -> FittedText:
    """Fit ridge regressions of outcomes and tasks on words, structure and text vectors.

    Targets: quality and log-energy (relative to the mean under L0) under each directive, and an
    indicator of each task, so that the words show the task of a request without a tag.

    Args:
        profile: prompts with their outcomes under every directive.
        quality: "correct" or "preference".
        vectors: text encoder used in addition to words; None for words only.

    Raises:
        ConfigError: the prompts share too few words, or all fall into one fold.
    """
    targets = _targets(profile, quality)
    data = _Data(profile, np.stack([values for _, values in targets], axis=1), vectors)
    features = [feature for feature, _ in targets]
    folds = np.array([fold_of(request) for request in profile.requests])
    if len(np.unique(folds)) < 2:
        raise ConfigError(f"{len(folds)} prompts are too few to fit the text features; record more")
    vectorizers = [data.vectorizer(folds != fold) for fold in range(FOLDS)]
    fits = [
        [data.fit(folds != fold, vectorizers[fold], [alpha] * len(features)) for alpha in ALPHAS]
        for fold in range(FOLDS)
    ]
    errors = np.zeros((len(ALPHAS), len(features)))
    for fold, by_alpha in enumerate(fits):
        held_out = folds == fold
        for index, fit in enumerate(by_alpha):
            errors[index] += data.squared_errors(fit, held_out)
    best_alphas = [ALPHAS[i] for i in errors.argmin(axis=0)]
    all_rows = np.ones(len(folds), dtype=np.bool_)

    def projection(
        rows: BoolArray, vectorizer: TfidfVectorizer
    ) -> WordProjection | EncodedProjection:
        """Return the projection fitted to some prompts, with each target's best penalty."""
        fit = data.fit(rows, vectorizer, best_alphas)
        words = fit.projection(features)
        if vectors is None:
            return words
        return EncodedProjection(words, vectors, fit.vectors.astype(np.float32))

    return FittedText(
        projection(all_rows, data.vectorizer(all_rows)),
        tuple(projection(folds != fold, vectorizers[fold]) for fold in range(FOLDS)),
    )


def _targets(profile: Profile, quality: str) -> list[tuple[Feature, Float64Array]]:
    """Return the predicted features and their target values, each of shape (n,)."""
    scores = np.nan_to_num(profile.quality(quality))
    joules = profile.outcomes.energy_joules
    mean_l0 = max(float(joules[:, 0].mean()), 1e-12)
    energy = np.log(np.maximum(joules / mean_l0, LEAST_ENERGY))
    targets = []
    for i, name in enumerate(profile.directives):
        meaning = f"{quality} foretold under {name}"
        targets.append((Feature(f"quality={name}", "0..1", -1, 2, meaning), scores[:, i]))
    for i, name in enumerate(profile.directives):
        meaning = f"energy foretold under {name}, to the mean under {profile.directives[0]}"
        targets.append((Feature(LOG_ENERGY + name, "ln(ratio)", -8, 4, meaning), energy[:, i]))
    for task in profile.tasks:
        meaning = f"how much its words are those of {task}"
        indicator = profile.rows_of(task).astype(np.float64)
        targets.append((Feature(f"like={task}", "0..1", -1, 2, meaning), indicator))
    return targets


class _Data:
    """Inputs and targets of all prompts, and ridge regressions on subsets of the prompts.

    Args:
        profile: the n prompts.
        targets: shape (n, K).
        vectors: text encoder; None for words and structure only.
    """

    def __init__(self, profile: Profile, targets: Float64Array, vectors: Vectors | None) -> None:
        readings = [read_chat(request.messages) for request in profile.requests]
        self._vectors = np.zeros((len(readings), 0))
        if vectors is not None:
            vectors.warm([reading.text for reading in readings])
            self._vectors = np.stack([vectors.vector(r.text) for r in readings]).astype(np.float64)
        self._words = [reading.words for reading in readings]
        self._structure = np.array([reading.structure for reading in readings], dtype=np.float64)
        self._targets = targets

    def vectorizer(self, rows: BoolArray) -> TfidfVectorizer:
        """Return the binary tf-idf vectorizer fitted to some prompts."""
        words = [self._words[i] for i in np.flatnonzero(rows)]
        vectorizer = TfidfVectorizer(
            analyzer=_identity, binary=True, min_df=LEAST_PROMPTS, max_features=VOCABULARY
        )
        try:
            return vectorizer.fit(words)
        except ValueError as error:
            raise ConfigError(
                f"the prompts share too few words to fit the text features ({error}); record more"
            ) from error

    def fit(self, rows: BoolArray, vectorizer: TfidfVectorizer, alphas: Sequence[float]) -> "_Fit":
        """Fit a ridge regression to some prompts, with one penalty per target."""
        structure, targets = self._structure[rows], self._targets[rows]
        mean, spread = _scaling(structure)
        inputs = csr_array(
            hstack(
                [
                    vectorizer.transform([self._words[i] for i in np.flatnonzero(rows)]),
                    csr_array((structure - mean) / spread),
                    csr_array(self._vectors[rows]),
                ]
            )
        )
        target_mean, target_scale = _scaling(targets)
        model = Ridge(alpha=np.array(alphas), solver="sparse_cg", tol=1e-4)
        model.fit(inputs, (targets - target_mean) / target_scale)
        # Undo the scaling, so that the projection applies to raw structure features.
        weights = model.coef_.T * target_scale
        n_words = len(vectorizer.vocabulary_)
        by_structure = weights[n_words : n_words + len(spread)] / spread[:, None]
        bias = target_mean + model.intercept_ * target_scale - mean @ by_structure
        by_vectors = weights[n_words + len(spread) :]
        return _Fit(vectorizer, weights[:n_words], by_structure, bias, by_vectors)

    def squared_errors(self, fit: "_Fit", rows: BoolArray) -> Float64Array:
        """Return the summed squared error of each target over some prompts, shape (K,)."""
        predicted = fit.bias + self._structure[rows] @ fit.structure
        predicted = predicted + self._vectors[rows] @ fit.vectors
        words = [self._words[i] for i in np.flatnonzero(rows)]
        predicted = predicted + fit.vectorizer.transform(words) @ fit.words
        errors: Float64Array = ((predicted - self._targets[rows]) ** 2).sum(axis=0)
        return errors


@dataclass(frozen=True)
class _Fit:
    """A fitted ridge regression of K targets.

    Attributes:
        vectorizer: tf-idf vectorizer of V words.
        words: weights, shape (V, K).
        structure: weights, shape (len(STRUCTURE), K).
        bias: shape (K,).
        vectors: weights, shape (encoder width, K); 0 rows without an encoder.
    """

    vectorizer: TfidfVectorizer
    words: Float64Array
    structure: Float64Array
    bias: Float64Array
    vectors: Float64Array

    def projection(self, features: Sequence[Feature]) -> WordProjection:
        """Return the part that uses words and structure, as the projection used in serving."""
        return WordProjection(
            tuple(str(word) for word in self.vectorizer.get_feature_names_out()),
            tuple(features),
            *(
                np.asarray(array, dtype=np.float32)
                for array in (self.vectorizer.idf_, self.words, self.structure, self.bias)
            ),
        )


def _identity(words: Collection[str]) -> Collection[str]:
    return words


def _scaling(values: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Return mean and standard deviation of each column; 1 in place of a deviation of 0."""
    spread = values.std(axis=0)
    return values.mean(axis=0), np.where(spread > 1e-9, spread, 1.0)
