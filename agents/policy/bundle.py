"""The policy bundle: what training hands to serving. A folder; loading executes nothing."""

import hashlib
import importlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from agents.policy.bundle_files import ENCODER, MANIFEST, TENSORS, sha256_of, verify
from agents.policy.network import ACTIVATIONS, Policy
from envs.carbon.intensity import Kind
from envs.errors import BundleError, ConfigError, DataError
from envs.requests.directive import Catalogue
from envs.requests.features import Featurizer
from envs.requests.projection import EncodedProjection, Vectors, WordProjection, word_projection
from envs.requests.structure import Feature

SCHEMA_VERSION = 4
VOCABULARY = "vocabulary.json"
REQUIRED = (
    *("schema_version", "catalogue", "tasks", "features", "text", "network", "model"),
    "files",
)


@dataclass(frozen=True)
class Bundle:
    """A loaded policy bundle.

    Attributes:
        version: first 12 hexadecimal digits of the manifest's SHA-256.
        manifest: everything in manifest.json.
    """

    version: str
    policy: Policy
    catalogue: Catalogue
    featurizer: Featurizer
    manifest: Mapping[str, Any]

    @property
    def model(self) -> str:
        """The served model that the policy was trained for."""
        return str(self.manifest["model"])

    @property
    def intensity_kind(self) -> Kind | None:
        """Kind of the carbon intensity that it was trained on; None where nothing says so."""
        said = self.manifest.get("intensity")
        if not isinstance(said, dict) or "signal" not in said:
            return None
        return Kind(str(said["signal"]), str(said.get("scope")))

    @property
    def prompt_hashes(self) -> frozenset[str]:
        """Hashes of all prompts that training saw, recorded or live; none may judge it."""
        parts = (self.manifest.get("data", {}), self.manifest.get("live", {}))
        return frozenset(name for part in parts for name in part.get("prompt_hashes", ()))


def save_bundle(
    folder: Path,
    policy: Policy,
    catalogue: Catalogue,
    featurizer: Featurizer,
    model: str,
    extra: Mapping[str, Any],
) -> Bundle:
    """Write a bundle into `folder` and load it back.

    Args:
        extra: the rest of the manifest: floors, multipliers, training configuration,
            data fingerprint, validation figures, versions, git commit.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # What an earlier bundle of the folder left would be read as if it were this one's.
    shutil.rmtree(folder / ENCODER, ignore_errors=True)
    arrays, text, files = policy.arrays(), [], [TENSORS]
    if featurizer.text is not None:
        projection = featurizer.text
        if not isinstance(projection, WordProjection | EncodedProjection):
            raise BundleError(f"{type(projection).__name__}: not a kind of text that is stored")
        arrays |= projection.arrays()
        text = [asdict(feature) for feature in projection.features]
        files.append(VOCABULARY)
        if isinstance(projection, EncodedProjection):
            saved = projection.vectors.save(folder / ENCODER)
            files += [f"{ENCODER}/{name}" for name in saved]
            projection = projection.words
        words = json.dumps(projection.vocabulary, ensure_ascii=False)
        (folder / VOCABULARY).write_text(words, encoding="utf-8")
    tensors = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    save_file(tensors, folder / TENSORS)
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
            # JSON has no infinity.
            "clip": policy.clip if policy.clip < float("inf") else None,
            "shapes": [list(weight.shape) for weight, _ in policy.layers],
        },
        **extra,
        "files": {name: sha256_of(folder / name) for name in files},
    }
    # Written last and moved into place: a reader never sees half a bundle.
    draft = folder / f"{MANIFEST}.new"
    draft.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    shutil.move(draft, folder / MANIFEST)
    return load_bundle(folder)


def load_bundle(folder: Path) -> Bundle:
    """Load and verify a bundle.

    Raises:
        BundleError: naming the file and what is wrong: missing, other schema version,
            hash or shape that does not fit, features this version does not know.
    """
    path = folder / MANIFEST
    try:
        raw = path.read_bytes()
        manifest = json.loads(raw)
    except FileNotFoundError as error:
        raise BundleError(f"{folder} is no policy bundle: {MANIFEST} is missing") from error
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} cannot be read: {error}") from error
    if not isinstance(manifest, dict) or any(field not in manifest for field in REQUIRED):
        raise BundleError(f"{path}: one of {', '.join(REQUIRED)} is missing")
    if manifest["schema_version"] != SCHEMA_VERSION:
        raise BundleError(
            f"{path}: schema_version {manifest['schema_version']}; this version reads "
            f"{SCHEMA_VERSION}: train it again, or take the version that wrote it"
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
            raise ValueError(f"network shapes {shapes}")
    except DataError as error:
        raise BundleError(f"{path}: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise BundleError(f"{path}: a field is missing or of a wrong kind ({error})") from error
    if names != featurizer.names:
        raise BundleError(f"{path}: features {names} are not this version's {featurizer.names}")
    policy = _policy(path, tensors, shapes, len(names), len(catalogue))
    policy = replace(policy, **_form(path, manifest["network"]))
    version = hashlib.sha256(raw).hexdigest()[:12]
    return Bundle(version, policy, catalogue, featurizer, manifest)


def _text(
    folder: Path, manifest: Mapping[str, Any], tensors: Mapping[str, Any]
) -> WordProjection | EncodedProjection | None:
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
        raise ValueError(f"text.vectors of shape {weights.shape} for width {vectors.width}")
    return EncodedProjection(projection, vectors, weights)


def load_encoder(folder: Path) -> Vectors:
    """A transformer's vectors of texts; its libraries are loaded here, if at all.

    Raises:
        ConfigError: the folder holds no such model, or the libraries are missing.
    """
    try:
        made: Vectors = importlib.import_module("agents.policy.encoder").Encoder(folder)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"encoder {folder}: package {error.name!r} is not installed; "
            "pip install 'sprout-rl[train]'"
        ) from error
    return made


def _form(path: Path, network: Mapping[str, Any]) -> dict[str, Any]:
    """What the network does beside its weights."""
    clip, activation = network.get("clip"), network.get("activation")
    if activation not in ACTIVATIONS:
        raise BundleError(f"{path}: activation {activation!r}; one of {', '.join(ACTIVATIONS)}")
    if clip is not None and not (isinstance(clip, int | float) and clip > 0):
        raise BundleError(f"{path}: clip {clip!r}; a number above 0, or null")
    return {"activation": activation, "clip": float("inf") if clip is None else float(clip)}


def _policy(
    path: Path,
    tensors: Mapping[str, Any],
    shapes: list[list[int]],
    n_features: int,
    n_directives: int,
) -> Policy:
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
