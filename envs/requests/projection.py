"""Learned features of a chat: linear predictions from its words and structure. NumPy only."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from envs.arrays import Float32Array
from envs.requests.structure import STRUCTURE, Feature, Reading


class TextFeatures(Protocol):
    """Learned features of a chat's text: the interface for other, more accurate encoders."""

    @property
    def features(self) -> Sequence[Feature]:
        """Name, unit and bounds of each component."""

    def measure(self, reading: Reading) -> Float32Array:
        """Return the features of one chat, shape (len(features),)."""


@dataclass(frozen=True)
class WordProjection:
    """A linear projection of the set of a chat's words and of its structure.

    With x the inverse document frequencies of the chat's words, scaled to length 1 (binary
    tf-idf; Salton & Buckley, 1988), and s the structure: y = bias + x @ words + s @ structure.

    Attributes:
        vocabulary: the V known words, in lower case; other words are ignored.
        features: the K components of y.
        idf: inverse document frequency of each word, shape (V,).
        words: weights of the words, shape (V, K).
        structure: weights of the structure, shape (len(STRUCTURE), K).
        bias: shape (K,).
    """

    vocabulary: tuple[str, ...]
    features: tuple[Feature, ...]
    idf: Float32Array
    words: Float32Array
    structure: Float32Array
    bias: Float32Array

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {word: row for row, word in enumerate(self.vocabulary)}

    @cached_property
    def _rows(self) -> Float32Array:
        """The rows idf * words, with idf**2 as the last column, shape (V, K + 1).

        One sum over a chat's rows gives both x @ words, not yet scaled, and the squared length.
        """
        return np.column_stack([self.idf[:, None] * self.words, self.idf**2]).astype(np.float32)

    @cached_property
    def _affine(self) -> Float32Array:
        return np.vstack([self.structure, self.bias]).astype(np.float32)

    def measure(self, reading: Reading) -> Float32Array:
        """Return y of one chat, shape (K,)."""
        row_of = self._row_of
        values: Float32Array = np.array([*reading.structure, 1.0], dtype=np.float32).dot(
            self._affine
        )
        if rows := [row_of[word] for word in reading.words if word in row_of]:
            sums = np.add.reduce(self._rows.take(rows, axis=0), axis=0)
            if (squared := sums.item(-1)) > 0:
                sums *= 1 / math.sqrt(squared)
                values += sums[:-1]
        return values

    def likeness(self, a: Collection[str], b: Collection[str]) -> float:
        """Return the cosine of two sets of words by their inverse document frequencies, 0..1.

        Unknown words count like the rarest known one.
        """
        weight, rarest = self._squared_idf, self._squared_rarest
        own, other = (sum(weight.get(word, rarest) for word in words) for words in (a, b))
        shared = sum(weight.get(word, rarest) for word in set(a) & set(b))
        return shared / math.sqrt(own * other) if own and other else 0.0

    def unknown_share(self, words: Collection[str]) -> float:
        """Return the share of words that are not in the vocabulary; 0 without words."""
        known = sum(map(self._row_of.__contains__, words))
        return 1 - known / len(words) if words else 0.0

    @cached_property
    def _squared_idf(self) -> dict[str, float]:
        return dict(zip(self.vocabulary, (self.idf.astype(float) ** 2).tolist(), strict=True))

    @cached_property
    def _squared_rarest(self) -> float:
        return max(self._squared_idf.values(), default=1.0)

    def arrays(self) -> dict[str, Float32Array]:
        """Return the named tensors that the policy bundle stores."""
        return {
            "text.idf": self.idf,
            "text.words": self.words,
            "text.structure": self.structure,
            "text.bias": self.bias,
        }


class Vectors(Protocol):
    """Maps a text to a vector of fixed width, like a language model's embedding.

    Attributes:
        width: number of components of each vector.
    """

    width: int

    def warm(self, texts: Sequence[str]) -> None:
        """Prepare for texts whose vectors will be requested repeatedly."""

    def vector(self, text: str) -> Float32Array:
        """Return the vector of a text, shape (width,)."""

    def save(self, folder: Path) -> list[str]:
        """Write the encoder's files into a folder; return their names."""


@dataclass(frozen=True)
class EncodedProjection:
    """A word projection plus a linear projection of the text's vector v.

    y = words.measure(...) + v @ weights.

    Attributes:
        words: the word projection.
        vectors: maps a text to its vector v.
        weights: shape (vectors.width, K).
    """

    words: WordProjection
    vectors: Vectors
    weights: Float32Array

    @property
    def features(self) -> tuple[Feature, ...]:
        """The K components, the same as the word projection's."""
        return self.words.features

    def measure(self, reading: Reading) -> Float32Array:
        """Return y of one chat, shape (K,)."""
        values: Float32Array = (
            self.words.measure(reading) + self.vectors.vector(reading.text) @ self.weights
        )
        return values

    def arrays(self) -> dict[str, Float32Array]:
        """Return the named tensors that the policy bundle stores."""
        return {**self.words.arrays(), "text.vectors": self.weights}


def word_projection(
    vocabulary: Sequence[str], features: Sequence[Feature], tensors: Mapping[str, Float32Array]
) -> WordProjection:
    """Build a projection from its stored parts.

    Args:
        tensors: the arrays that `WordProjection.arrays` returned.

    Raises:
        ValueError: a tensor is missing or has the wrong shape, or a word occurs twice.
    """
    size, width = len(vocabulary), len(features)
    shapes = {
        "text.idf": (size,),
        "text.words": (size, width),
        "text.structure": (len(STRUCTURE), width),
        "text.bias": (width,),
    }
    for name, shape in shapes.items():
        if name not in tensors or tensors[name].shape != shape:
            raise ValueError(f"tensor {name} is missing or does not have shape {shape}")
    if len(set(vocabulary)) != size:
        raise ValueError("the vocabulary contains a word twice")
    return WordProjection(tuple(vocabulary), tuple(features), *(tensors[name] for name in shapes))
