import json

import numpy as np
import pytest

from agents.bundle import load_bundle, load_encoder, save_bundle
from agents.encoder import LENGTH
from agents.policy import Policy
from agents.prepared import prepare
from agents.text import fit_text, fold_of
from envs.directive import DEFAULT_CATALOGUE
from envs.errors import BundleError, ConfigError
from envs.features import Featurizer
from experiments.llama.server import EMBEDDED
from tests import made

# The same words in either order: only what reads their order can tell which.
KINDS = {"one": "Is {n} more than seven, or seven more than {n}? Add one."}


@pytest.fixture(scope="module")
def encoder():
    """The served model's own weights."""
    return load_encoder(EMBEDDED)


@pytest.fixture(scope="module")
def fitted(encoder, tmp_path_factory):
    requests = made.chats(60, KINDS)
    profile = made.profile(tmp_path_factory.mktemp("encoder"), requests, lambda r, d: 1.0)
    return profile, fit_text(profile, "correct", encoder)


def test_vectors_are_of_one_length_whether_read_alone_or_in_a_batch(encoder):
    texts = ["7 + 5", "Which is larger, 52 (A) or 61 (B)? Say why.", ""]
    alone = np.stack([encoder.vector(text) for text in texts])
    encoder.warm(texts)
    assert alone.shape == (3, encoder.width)
    assert np.linalg.norm(alone, axis=1) == pytest.approx(np.full(3, LENGTH), rel=1e-4)
    assert np.stack([encoder.vector(text) for text in texts]) == pytest.approx(alone, abs=1e-4)


def test_what_only_the_order_of_words_tells_is_foretold(encoder, tmp_path):
    rng = np.random.default_rng(0)
    requests, good = [], []
    for r in made.chats(160, {"t": "{n}"}):
        first = bool(rng.random() < 0.5)
        text = "first 3 then 9" if first else "first 9 then 3"
        content = f"{text} item {r.reference}"
        requests.append(type(r)(r.request_id, "t", ({"role": "user", "content": content},), "1"))
        good.append(first)
    of = {r.request_id: g for r, g in zip(requests, good, strict=True)}
    profile = made.profile(tmp_path, requests, lambda r, d: float(d == "none" or of[r.request_id]))

    def told(vectors):
        prepared = prepare(profile, {"t": 0.9}, 300.0, quality="correct", vectors=vectors)
        column = prepared.featurizer.names.index("quality=brief")
        return np.corrcoef(prepared.parts[1][:, column], good)[0, 1]

    assert abs(told(None)) < 0.35
    assert told(encoder) > 0.9


def test_a_bundle_carries_its_encoder(fitted, tmp_path):
    profile, text = fitted
    featurizer = Featurizer(profile.tasks, text.whole)
    width = len(featurizer.names)
    layers = ((np.ones((3, width), np.float32), np.zeros(3, np.float32)),)
    policy = Policy(np.zeros(width, np.float32), np.ones(width, np.float32), layers)
    saved = save_bundle(tmp_path / "b", policy, DEFAULT_CATALOGUE, featurizer, "made", {})
    assert {"encoder/config.json", "encoder/model.safetensors"} <= set(saved.manifest["files"])
    moved = tmp_path / "elsewhere"
    (tmp_path / "b").rename(moved)
    request = profile.requests[0]
    assert load_bundle(moved).featurizer.request(request.messages, None) == pytest.approx(
        featurizer.request(request.messages, None), abs=1e-5
    )

    model = moved / "encoder" / "model.safetensors"
    damaged = bytearray(model.read_bytes())
    damaged[-1] ^= 1
    model.write_bytes(damaged)
    with pytest.raises(BundleError, match=r"encoder/model.safetensors is damaged"):
        load_bundle(moved)
    (moved / "encoder" / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(BundleError, match="holds no pickles"):
        load_bundle(moved)


@pytest.mark.parametrize("name", ["encoder/../x.json", "encoder/a/b.json", "other/x.json"])
def test_no_listed_file_leaves_the_bundle(name, tmp_path):
    made.bundle(tmp_path / "b")
    path = tmp_path / "b/manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"][name] = "0"
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="leaves the bundle"):
        load_bundle(tmp_path / "b")


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_encoder(tmp_path)


def test_training_folds_see_other_prompts_only(fitted):
    profile, text = fitted
    assert {fold_of(request) for request in profile.requests} == set(range(len(text.without)))
    assert all(one.vectors is text.whole.vectors for one in text.without)
