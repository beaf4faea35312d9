"""A learned linear reading of a chat: what its words and structure foretell. NumPy only."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from envs.arrays import Float32Array
from envs.requests.structure import STRUCTURE, Feature, Reading


class TextFeatures(Protocol):
    """Learned features of a chat's text: the seam for slower, better encoders."""

    @property
    def features(self) -> Sequence[Feature]:
        """What the components are."""

    def measure(self, reading: Reading) -> Float32Array:
        """One chat, shape (len(features),)."""


@dataclass(frozen=True)
class WordProjection:
    """Linear in which words a chat has and in its structure.

    With x the words' inverse document frequencies, scaled to length 1 (binary tf-idf;
    Salton & Buckley, 1988) and s the structure: y = bias + x @ words + s @ structure.

    Attributes:
        vocabulary: the V words that count, in lower case.
        features: the K components.
        idf: shape (V,).
        words: shape (V, K).
        structure: shape (len(STRUCTURE), K).
        bias: shape (K,).
    """

    vocabulary: tuple[str, ...]
    features: tuple[Feature, ...]
    idf: Float32Array
    words: Float32Array
    structure: Float32Array
    bias: Float32Array

    @cached_property
    def _place(self) -> dict[str, int]:
        return {word: place for place, word in enumerate(self.vocabulary)}

    @cached_property
    def _rows(self) -> Float32Array:
        """Rows of idf * words, and idf squared: one sum gives the product and the length."""
        return np.column_stack([self.idf[:, None] * self.words, self.idf**2]).astype(np.float32)

    @cached_property
    def _affine(self) -> Float32Array:
        return np.vstack([self.structure, self.bias]).astype(np.float32)

    def measure(self, reading: Reading) -> Float32Array:
        """See `TextFeatures`."""
        place = self._place
        known: Float32Array = np.array([*reading.structure, 1.0], dtype=np.float32).dot(
            self._affine
        )
        if found := [place[word] for word in reading.words if word in place]:
            sums = np.add.reduce(self._rows.take(found, axis=0), axis=0)
            if (squared := sums.item(-1)) > 0:
                sums *= 1 / math.sqrt(squared)
                known += sums[:-1]
        return known

    def arrays(self) -> dict[str, Float32Array]:
        """Named tensors, as the policy bundle stores them."""
        return {
            "text.idf": self.idf,
            "text.words": self.words,
            "text.structure": self.structure,
            "text.bias": self.bias,
        }


class Vectors(Protocol):
    """Turns a text into a vector of fixed width, as a language model's embedding does."""

    width: int

    def warm(self, texts: Sequence[str]) -> None:
        """Texts that will be asked for again and again."""

    def vector(self, text: str) -> Float32Array:
        """Shape (width,)."""

    def save(self, folder: Path) -> list[str]:
        """Write what makes the vectors into a folder; names of the files."""


@dataclass(frozen=True)
class EncodedProjection:
    """A word projection, and what a text's vector adds to it: y = words(y) + v @ weights.

    Attributes:
        weights: shape (vectors.width, K).
    """

    words: WordProjection
    vectors: Vectors
    weights: Float32Array

    @property
    def features(self) -> tuple[Feature, ...]:
        """See `TextFeatures`."""
        return self.words.features

    def measure(self, reading: Reading) -> Float32Array:
        """See `TextFeatures`."""
        found: Float32Array = (
            self.words.measure(reading) + self.vectors.vector(reading.text) @ self.weights
        )
        return found

    def arrays(self) -> dict[str, Float32Array]:
        """Named tensors, as the policy bundle stores them."""
        return {**self.words.arrays(), "text.vectors": self.weights}


def word_projection(
    vocabulary: Sequence[str], features: Sequence[Feature], tensors: Mapping[str, Float32Array]
) -> WordProjection:
    """A projection from its stored parts.

    Raises:
        ValueError: a tensor is missing or its shape does not fit.
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
            raise ValueError(f"tensor {name} is missing or not of shape {shape}")
    if len(set(vocabulary)) != size:
        raise ValueError("the vocabulary names a word twice")
    return WordProjection(tuple(vocabulary), tuple(features), *(tensors[name] for name in shapes))
