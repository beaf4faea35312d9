"""Fits the word projection to a profile: what a chat's words foretell of its outcomes."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array, hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge

from envs.arrays import BoolArray, Float32Array, Float64Array
from envs.errors import ConfigError
from envs.outcomes.profile import Profile
from envs.requests.features import LOG_ENERGY, Featurizer
from envs.requests.projection import EncodedProjection, Vectors, WordProjection
from envs.requests.request import Request
from envs.requests.structure import Feature, read_chat

FOLDS = 5
# Regularisations tried; each target takes the one that predicts other folds' prompts best.
ALPHAS = (3.0, 10.0, 30.0, 100.0)
VOCABULARY = 4000
# A word of fewer prompts is noise, and may be somebody's name.
LEAST_PROMPTS = 3
# Relative to the mean at L0; a request may cost next to nothing.
LEAST_ENERGY = 1e-3


def fold_of(request: Request) -> int:
    """The cross-fitting fold of a prompt, by its hash."""
    return int(request.prompt_hash[:8], 16) % FOLDS


@dataclass(frozen=True)
class FittedText:
    """A projection fitted to all prompts, and one for each fold fitted without it.

    A policy that trained on the first would learn to trust features that have seen the
    prompt's own verdict; new prompts have no such features. So it trains on the second.
    """

    whole: WordProjection | EncodedProjection
    without: tuple[WordProjection | EncodedProjection, ...]

    def parts(
        self, featurizer: Featurizer, requests: Sequence[Request], tags: bool
    ) -> Float32Array:
        """Observations of training prompts as if each were new, without the context."""
        by_fold = [Featurizer(featurizer.tasks, text) for text in self.without]
        return np.stack(
            [by_fold[fold_of(r)].request(r.messages, r.task if tags else None) for r in requests]
        )


def fit_text(profile: Profile, quality: str, vectors: Vectors | None = None) -> FittedText:
    """Ridge regression of outcomes and tasks on words and structure, and vectors if given.

    Targets: the quality and the logarithm of the energy (relative to the mean at L0) under
    each directive, and each task's indicator, so that a request without a tag is placed by
    its words.

    Raises:
        ConfigError: the prompts hold too few words, or fall into one fold.
    """
    targets = _targets(profile, quality)
    data = _Data(profile, np.stack([values for _, values in targets], axis=1), vectors)
    features = [feature for feature, _ in targets]
    folds = np.array([fold_of(request) for request in profile.requests])
    if len(np.unique(folds)) < 2:
        raise ConfigError(f"{len(folds)} prompts are too few to fit; record more")
    vectorizers = [data.vectorizer(folds != fold) for fold in range(FOLDS)]
    fits = [
        [data.fit(folds != fold, vectorizers[fold], [alpha] * len(features)) for alpha in ALPHAS]
        for fold in range(FOLDS)
    ]
    errors = np.zeros((len(ALPHAS), len(features)))
    for fold, by_alpha in enumerate(fits):
        held = folds == fold
        for place, fit in enumerate(by_alpha):
            errors[place] += data.squared_errors(fit, held)
    chosen = [ALPHAS[i] for i in errors.argmin(axis=0)]
    everyone = np.ones(len(folds), dtype=np.bool_)

    def projection(
        rows: BoolArray, vectorizer: TfidfVectorizer
    ) -> WordProjection | EncodedProjection:
        """Fitted to some prompts, with each target's own regularisation."""
        fit = data.fit(rows, vectorizer, chosen)
        words = fit.projection(features)
        if vectors is None:
            return words
        return EncodedProjection(words, vectors, fit.vectors.astype(np.float32))

    return FittedText(
        projection(everyone, data.vectorizer(everyone)),
        tuple(projection(folds != fold, vectorizers[fold]) for fold in range(FOLDS)),
    )


def _targets(profile: Profile, quality: str) -> list[tuple[Feature, Float64Array]]:
    scores = np.nan_to_num(profile.quality(quality))
    joules = profile.outcomes.energy_joules
    middle = max(float(joules[:, 0].mean()), 1e-12)
    energy = np.log(np.maximum(joules / middle, LEAST_ENERGY))
    found = []
    for i, name in enumerate(profile.directives):
        meaning = f"{quality} foretold under {name}"
        found.append((Feature(f"quality={name}", "0..1", -1, 2, meaning), scores[:, i]))
    for i, name in enumerate(profile.directives):
        meaning = f"energy foretold under {name}, to the mean under {profile.directives[0]}"
        found.append((Feature(LOG_ENERGY + name, "ln(ratio)", -8, 4, meaning), energy[:, i]))
    for task in profile.tasks:
        meaning = f"how much its words are those of {task}"
        own = profile.rows_of(task).astype(np.float64)
        found.append((Feature(f"like={task}", "0..1", -1, 2, meaning), own))
    return found


class _Data:
    """Texts, structure and targets, and ridge regressions of some of their rows."""

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
        """The words that count among some prompts."""
        chosen = [self._words[i] for i in np.flatnonzero(rows)]
        found = TfidfVectorizer(
            analyzer=_itself, binary=True, min_df=LEAST_PROMPTS, max_features=VOCABULARY
        )
        try:
            return found.fit(chosen)
        except ValueError as error:
            raise ConfigError(f"the prompts share too few words to fit ({error})") from error

    def fit(self, rows: BoolArray, vectorizer: TfidfVectorizer, alphas: Sequence[float]) -> "_Fit":
        """Regression on some prompts, with a regularisation for each target."""
        structure, targets = self._structure[rows], self._targets[rows]
        middle, spread = _scaling(structure)
        inputs = csr_array(
            hstack(
                [
                    vectorizer.transform([self._words[i] for i in np.flatnonzero(rows)]),
                    csr_array((structure - middle) / spread),
                    csr_array(self._vectors[rows]),
                ]
            )
        )
        goal, scale = _scaling(targets)
        model = Ridge(alpha=np.array(alphas), solver="sparse_cg", tol=1e-4)
        model.fit(inputs, (targets - goal) / scale)
        weights = model.coef_.T * scale
        words = len(vectorizer.vocabulary_)
        by_structure = weights[words : words + len(spread)] / spread[:, None]
        bias = goal + model.intercept_ * scale - middle @ by_structure
        by_vectors = weights[words + len(spread) :]
        return _Fit(vectorizer, weights[:words], by_structure, bias, by_vectors)

    def squared_errors(self, fit: "_Fit", rows: BoolArray) -> Float64Array:
        """Of each target over some prompts, shape (K,)."""
        found = fit.bias + self._structure[rows] @ fit.structure
        found = found + self._vectors[rows] @ fit.vectors
        chosen = [self._words[i] for i in np.flatnonzero(rows)]
        found = found + fit.vectorizer.transform(chosen) @ fit.words
        errors: Float64Array = ((found - self._targets[rows]) ** 2).sum(axis=0)
        return errors


@dataclass(frozen=True)
class _Fit:
    vectorizer: TfidfVectorizer
    words: Float64Array
    structure: Float64Array
    bias: Float64Array
    vectors: Float64Array

    def projection(self, features: Sequence[Feature]) -> WordProjection:
        """The part that reads words and structure, as serving uses it."""
        return WordProjection(
            tuple(str(word) for word in self.vectorizer.get_feature_names_out()),
            tuple(features),
            *(
                np.asarray(array, dtype=np.float32)
                for array in (self.vectorizer.idf_, self.words, self.structure, self.bias)
            ),
        )


def _itself(words: Collection[str]) -> Collection[str]:
    return words


def _scaling(values: Float64Array) -> tuple[Float64Array, Float64Array]:
    spread = values.std(axis=0)
    return values.mean(axis=0), np.where(spread > 1e-9, spread, 1.0)
