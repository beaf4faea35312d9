"""Read the observations' normalisation from a file of stable-baselines3's `VecNormalize.save`.

The file is a pickle. Only numbers and NumPy arrays are built from it; every other object becomes a
mere holder of its state, and no code that the file names is run.
"""

import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from envs.arrays import Float32Array
from envs.errors import DataError

REMEDY = "give a file written by VecNormalize.save()"
# Callables that build arrays and numbers.
_ALLOWED = {
    (module, name)
    for module in ("numpy.core.multiarray", "numpy._core.multiarray")
    for name in ("_reconstruct", "scalar")
} | {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy.core.numeric", "_frombuffer"),
}


class Normalisation(NamedTuple):
    """Observations are normalised as clip((x - mean) * scale, -clip, clip).

    Attributes:
        mean, scale: shape (n_features,).
        clip: the bound.
    """

    mean: Float32Array
    scale: Float32Array
    clip: float


class _Holder:
    """An object whose class is not loaded; it keeps its state."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        self.state: Any = {}

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    """An unpickler that loads no class and calls no function but those in `_ALLOWED`."""

    def find_class(self, module: str, name: str) -> Any:
        """Return an allowed callable, or the holder."""
        if (module, name) in _ALLOWED:
            return super().find_class(module, name)
        return _Holder


def read_normalisation(path: Path) -> Normalisation | None:
    """Return the normalisation of a file; None if it leaves observations as they are.

    Raises:
        DataError: the file is missing, damaged or none of `VecNormalize`, or it normalises
            observations of several parts.
    """
    try:
        with path.open("rb") as file:
            holder = _Unpickler(file).load()
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror})", REMEDY) from error
    except Exception as error:
        # Damaged pickles raise errors of many kinds.
        raise DataError(path, f"is no such file ({type(error).__name__})", REMEDY) from error
    state = holder.state if isinstance(holder, _Holder) else None
    if not isinstance(state, dict) or "norm_obs" not in state:
        raise DataError(path, "holds no VecNormalize", REMEDY)
    if not state["norm_obs"]:
        return None
    moments = getattr(state.get("obs_rms"), "state", None)
    try:
        mean = np.asarray(moments["mean"], np.float64)  # type: ignore[index]
        spread = np.asarray(moments["var"], np.float64) + float(state["epsilon"])  # type: ignore[index]
        clip = float(state["clip_obs"])
    except (KeyError, TypeError, ValueError) as error:
        problem = "normalises observations of several parts, or in another way"
        raise DataError(path, problem, "give one for observations of one vector") from error
    if mean.ndim != 1 or mean.shape != spread.shape or not (spread > 0).all() or not clip > 0:
        raise DataError(path, "holds impossible moments", REMEDY)
    return Normalisation(mean.astype(np.float32), (1 / np.sqrt(spread)).astype(np.float32), clip)
