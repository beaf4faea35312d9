"""The policy bundle: a folder that training writes and serving loads without executing code."""

import hashlib
import importlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from agents.policy.bundle_files import ENCODER, MANIFEST, TENSORS, sha256_of, verify
from agents.policy.front import FILE as FRONT
from agents.policy.front import Front, load_front
from agents.policy.network import ACTIVATIONS, Policy
from agents.policy.novelty import Novelty, load_novelty
from agents.policy.pricing import Pricing, pricing_of
from envs.carbon.intensity import Kind
from envs.errors import BundleError, ConfigError, DataError
from envs.requests.directive import Catalogue
from envs.requests.features import Featurizer
from envs.requests.projection import EncodedProjection, Vectors, WordProjection, word_projection
from envs.requests.structure import Feature

SCHEMA_VERSION = 5
VOCABULARY = "vocabulary.json"
REQUIRED = (
    *("schema_version", "catalogue", "tasks", "features", "text", "network", "model"),
    "files",
)


class Measured(NamedTuple):
    """Measurements of a policy after its training.

    Attributes:
        front: its quality and costs at every price; None if it observes no prices.
        novelty: the limits of what is like its training; None if that is unknown.
    """

    front: Front | None = None
    novelty: Novelty | None = None


@dataclass(frozen=True)
class Bundle:
    """A loaded policy bundle.

    Attributes:
        version: first 12 hexadecimal digits of the manifest's SHA-256.
        catalogue: the directives that the policy chooses from.
        featurizer: turns requests into the policy's observations.
        front: the policy's quality and costs at every price; None if it was trained elsewhere.
        novelty: the limits of what is like the training; None if it was not measured.
        manifest: contents of manifest.json.
    """

    version: str
    policy: Policy
    catalogue: Catalogue
    featurizer: Featurizer
    front: Front | None
    novelty: Novelty | None
    manifest: Mapping[str, Any]

    def pricing(self, zone: str | None) -> Pricing:
        """Return the prices for requests in a zone; None if the zone is unknown."""
        return pricing_of(self.manifest, self.featurizer, self.front, zone)

    @property
    def model(self) -> str:
        """The served model that the policy was trained for."""
        return str(self.manifest["model"])

    @property
    def intensity_kind(self) -> Kind | None:
        """Kind of carbon intensity used in training, or None if the manifest does not record it."""
        recorded = self.manifest.get("intensity")
        if not isinstance(recorded, dict) or "signal" not in recorded:
            return None
        return Kind(str(recorded["signal"]), str(recorded.get("scope")))

    @property
    def prompt_hashes(self) -> frozenset[str]:
        """Hashes of all prompts used in training, recorded or live; not for use in evaluation."""
        parts = (self.manifest.get("data", {}), self.manifest.get("live", {}))
        return frozenset(name for part in parts for name in part.get("prompt_hashes", ()))


def save_bundle(
    folder: Path,
    policy: Policy,
    catalogue: Catalogue,
    featurizer: Featurizer,
    model: str,
    extra: Mapping[str, Any],
    measured: Measured | None = None,
) -> Bundle:
    """Write a bundle into `folder` and return it as loaded from there.

    Args:
        folder: created if missing; a bundle in it is replaced.
        model: name of the served model.
        extra: further manifest fields: floors, multipliers, training configuration, data
            fingerprint, validation metrics, versions, Git commit.
        measured: what was measured of the policy; None for nothing.

    Raises:
        BundleError: the featurizer's text features cannot be stored.
    """
    front, novelty = measured or Measured()
    folder.mkdir(parents=True, exist_ok=True)
    # Encoder files of an earlier bundle in this folder must not be taken for this bundle's.
    shutil.rmtree(folder / ENCODER, ignore_errors=True)
    arrays, text, files = policy.arrays(), [], [TENSORS]
    if featurizer.text is not None:
        projection = featurizer.text
        if not isinstance(projection, WordProjection | EncodedProjection):
            raise BundleError(f"a bundle cannot store text features of {type(projection).__name__}")
        arrays |= projection.arrays()
        text = [asdict(feature) for feature in projection.features]
        files += _save_text(folder, projection)
    if novelty is not None:
        arrays |= novelty.arrays()
        extra = {**extra, "novelty": novelty.to_json()}
    (folder / FRONT).unlink(missing_ok=True)
    if front is not None:
        front.save(folder / FRONT)
        files.append(FRONT)
    tensors = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    # Not by the library's `save_file`, which lets only the owner read the file.
    (folder / TENSORS).write_bytes(save(tensors))
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "model": model,
        "catalogue": catalogue.to_rows(),
        "tasks": list(featurizer.tasks),
        "features": [
            {"name": f.name, "unit": f.unit, "mean": float(m), "scale": float(s)}
            for f, m, s in zip(featurizer.features, policy.mean, policy.scale, strict=True)
        ],
        "text": text,
        "network": {
            "kind": "mlp",
            "activation": policy.activation,
            # JSON has no infinity; null means no clipping.
            "clip": policy.clip if policy.clip < float("inf") else None,
            "shapes": [list(weight.shape) for weight, _ in policy.layers],
        },
        **extra,
        "files": {name: sha256_of(folder / name) for name in files},
    }
    # Written last and moved into place, so that a reader never sees an incomplete bundle.
    draft = folder / f"{MANIFEST}.new"
    draft.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    shutil.move(draft, folder / MANIFEST)
    return load_bundle(folder)


def _save_text(folder: Path, projection: WordProjection | EncodedProjection) -> list[str]:
    """Write the vocabulary, and the encoder if there is one; return the files' names."""
    files = [VOCABULARY]
    if isinstance(projection, EncodedProjection):
        saved = projection.vectors.save(folder / ENCODER)
        files += [f"{ENCODER}/{name}" for name in saved]
        projection = projection.words
    words = json.dumps(projection.vocabulary, ensure_ascii=False)
    (folder / VOCABULARY).write_text(words, encoding="utf-8")
    return files


def load_bundle(folder: Path | str) -> Bundle:
    """Load and verify a bundle.

    Raises:
        BundleError: a file is missing, is damaged or does not fit this version.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    try:
        raw = path.read_bytes()
        manifest = json.loads(raw)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BundleError(f"{folder} is no policy bundle: {MANIFEST} is missing") from error
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} cannot be read: {error}") from error
    if not isinstance(manifest, dict) or any(field not in manifest for field in REQUIRED):
        raise BundleError(f"{path}: a field is missing; required are {', '.join(REQUIRED)}")
    if manifest["schema_version"] != SCHEMA_VERSION:
        raise BundleError(
            f"{path}: schema_version {manifest['schema_version']}; this version of sprout-rl reads "
            f"{SCHEMA_VERSION}: train the bundle again, or use the version that wrote it"
        )
    try:
        verify(folder, manifest["files"])
        catalogue = Catalogue.from_rows(manifest["catalogue"], path)
        tensors = load_file(folder / TENSORS)
        tasks = [str(task) for task in manifest["tasks"]]
        featurizer = Featurizer(tasks, _text(folder, manifest, tensors))
        names = tuple(row["name"] for row in manifest["features"])
        shapes = [[int(size) for size in shape] for shape in manifest["network"]["shapes"]]
        if any(len(shape) != 2 for shape in shapes):
            raise ValueError(f"network shapes {shapes}: each needs two numbers")
        front = load_front(folder / FRONT) if FRONT in manifest["files"] else None
        novelty = load_novelty(manifest, tensors)
    except DataError as error:
        raise BundleError(f"{path}: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise BundleError(f"{path}: a field is missing or of a wrong kind ({error})") from error
    if names != featurizer.names:
        raise BundleError(f"{path}: features are {names}; this version has {featurizer.names}")
    policy = _policy(path, tensors, shapes, len(names), len(catalogue))
    policy = replace(policy, **_form(path, manifest["network"]))
    version = hashlib.sha256(raw).hexdigest()[:12]
    return Bundle(version, policy, catalogue, featurizer, front, novelty, manifest)


def _text(
    folder: Path, manifest: Mapping[str, Any], tensors: Mapping[str, Any]
) -> WordProjection | EncodedProjection | None:
    """Return the bundle's text features, or None if it has none."""
    if not manifest["text"]:
        return None
    if VOCABULARY not in manifest["files"]:
        raise ValueError(f"files does not list {VOCABULARY}")
    words = json.loads((folder / VOCABULARY).read_text(encoding="utf-8"))
    features = [Feature(**row) for row in manifest["text"]]
    projection = word_projection([str(word) for word in words], features, tensors)
    if "text.vectors" not in tensors:
        return projection
    if f"{ENCODER}/config.json" not in manifest["files"]:
        raise ValueError(f"files does not list {ENCODER}/config.json")
    vectors, weights = load_encoder(folder / ENCODER), tensors["text.vectors"]
    if weights.shape != (vectors.width, len(features)):
        raise ValueError(f"text.vectors is {weights.shape}, not {(vectors.width, len(features))}")
    return EncodedProjection(projection, vectors, weights)


def load_encoder(folder: Path) -> Vectors:
    """Return the text encoder in a folder; its libraries are imported only here.

    Raises:
        ConfigError: the folder holds no usable model, or the libraries are not installed.
    """
    try:
        encoder: Vectors = importlib.import_module("agents.policy.encoder").Encoder(folder)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"encoder {folder}: package {error.name!r} is not installed; "
            "pip install 'sprout-rl[train]'"
        ) from error
    return encoder


def _form(path: Path, network: Mapping[str, Any]) -> dict[str, Any]:
    """Return the network's activation and clip from the manifest."""
    clip, activation = network.get("clip"), network.get("activation")
    if activation not in ACTIVATIONS:
        raise BundleError(f"{path}: activation {activation!r} is not in {', '.join(ACTIVATIONS)}")
    if clip is not None and not (isinstance(clip, int | float) and clip > 0):
        raise BundleError(f"{path}: clip {clip!r} is invalid; must be a number above 0, or null")
    return {"activation": activation, "clip": float("inf") if clip is None else float(clip)}


def _policy(
    path: Path,
    tensors: Mapping[str, Any],
    shapes: list[list[int]],
    n_features: int,
    n_directives: int,
) -> Policy:
    """Return the network; raise BundleError if a tensor is missing or does not fit."""
    layers = []
    width = n_features
    for index, shape in enumerate(shapes):
        try:
            weight, bias = tensors[f"layers.{index}.weight"], tensors[f"layers.{index}.bias"]
        except KeyError as error:
            raise BundleError(f"{path}: tensor {error} is missing") from error
        if list(weight.shape) != shape or shape[1] != width or bias.shape != (shape[0],):
            raise BundleError(f"{path}: layer {index} has shape {weight.shape}, not {shape}")
        layers.append((weight, bias))
        width = shape[0]
    if width != n_directives:
        raise BundleError(f"{path}: {width} outputs for {n_directives} directives")
    if any(tensors.get(n) is None or tensors[n].shape != (n_features,) for n in ("mean", "scale")):
        raise BundleError(f"{path}: mean and scale must have shape ({n_features},)")
    if not all(np.isfinite(array).all() for array in tensors.values()):
        raise BundleError(f"{path}: a tensor holds NaN or infinity")
    return Policy(tensors["mean"], tensors["scale"], tuple(layers))
