import json
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

from agents.policy.bundle import load_bundle, load_encoder, save_bundle
from agents.policy.encoder import LENGTH
from agents.policy.network import Policy
from agents.training.prepared import prepare
from agents.training.text import fit_text
from envs.errors import BundleError, ConfigError
from envs.requests.directive import DEFAULT_CATALOGUE
from envs.requests.features import Featurizer
from envs.requests.request import fold_of
from experiments.llama.server import EMBEDDED
from tests import made

# The same words in two orders: only a model that reads word order can tell them apart.
KINDS = {"one": "Is {n} more than seven, or seven more than {n}? Add one."}


@pytest.fixture(scope="module")
def encoder():
    """The weights of the served model."""
    return load_encoder(EMBEDDED)


@pytest.fixture(scope="module")
def fitted(encoder, tmp_path_factory):
    requests = made.chats(60, KINDS)
    profile = made.profile(tmp_path_factory.mktemp("encoder"), requests, lambda r, d: 1.0)
    return profile, fit_text(profile, "correct", encoder)


def saved_with(featurizer, folder):
    width = len(featurizer.names)
    layers = ((np.ones((3, width), np.float32), np.zeros(3, np.float32)),)
    policy = Policy(np.zeros(width, np.float32), np.ones(width, np.float32), layers)
    return save_bundle(folder, policy, DEFAULT_CATALOGUE, featurizer, "made", {})


def test_vectors_have_one_norm_and_are_equal_alone_and_in_a_batch(encoder):
    texts = ["7 + 5", "Which is larger, 52 (A) or 61 (B)? Say why.", ""]
    alone = np.stack([encoder.vector(text) for text in texts])
    encoder.warm(texts)
    assert alone.shape == (3, encoder.width)
    assert np.linalg.norm(alone, axis=1) == pytest.approx(np.full(3, LENGTH), rel=1e-4)
    assert np.stack([encoder.vector(text) for text in texts]) == pytest.approx(alone, abs=1e-4)


@pytest.mark.long
def test_an_encoder_predicts_quality_that_only_word_order_shows(encoder, tmp_path):
    rng = np.random.default_rng(0)
    requests, verdicts = [], []
    for r in made.chats(160, {"t": "{n}"}):
        first = bool(rng.random() < 0.5)
        text = "first 3 then 9" if first else "first 9 then 3"
        content = f"{text} item {r.reference}"
        requests.append(type(r)(r.request_id, "t", ({"role": "user", "content": content},), "1"))
        verdicts.append(first)
    verdict_by_id = {r.request_id: verdict for r, verdict in zip(requests, verdicts, strict=True)}
    profile = made.profile(
        tmp_path, requests, lambda r, d: float(d == "none" or verdict_by_id[r.request_id])
    )

    def correlation(vectors):
        prepared = prepare(profile, {"t": 0.9}, 300.0, quality="correct", vectors=vectors)
        column = prepared.featurizer.names.index("quality=brief")
        return np.corrcoef(prepared.parts[1][:, column], verdicts)[0, 1]

    assert abs(correlation(None)) < 0.35
    assert correlation(encoder) > 0.9


def test_a_bundle_carries_its_encoder_and_refuses_a_damaged_one(fitted, tmp_path):
    profile, text = fitted
    featurizer = Featurizer(profile.tasks, text.full)
    saved = saved_with(featurizer, tmp_path / "b")
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
def test_a_listed_file_outside_the_bundle_is_refused(name, tmp_path):
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


def test_a_prompts_own_outcome_does_not_reach_its_features(fitted, encoder):
    profile, text = fitted
    featurizer = Featurizer(profile.tasks, text.full)
    dearer = profile.outcomes.energy_joules.copy()
    dearer[5] *= 1000
    changed = fit_text(
        replace(profile, outcomes=replace(profile.outcomes, energy_joules=dearer)),
        "correct",
        encoder,
    )
    fold = [fold_of(request) for request in profile.requests]
    own_fold = fold[5]
    before, after = text.without[own_fold], changed.without[own_fold]
    # The model of the prompt's own fold was fitted to the other folds. Only the mean energy, to
    # which all energies are relative, includes the prompt.
    spread = np.ptp(after.weights - before.weights)
    others = [i for i in range(len(text.without)) if i != own_fold]
    assert spread < 0.01 * max(np.ptp(changed.without[i].weights) for i in others)
    assert featurizer.text is text.full


def test_code_in_an_encoders_folder_is_not_run(encoder, tmp_path, monkeypatch):
    encoder.save(tmp_path)
    executed = tmp_path / "executed"
    (tmp_path / "evil.py").write_text(f"open({str(executed)!r}, 'w')")
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    # The encoder is loaded without that code, or refused.
    with suppress(ConfigError):
        load_encoder(tmp_path)
    assert not executed.exists()


def test_files_that_the_manifest_does_not_list_are_refused(fitted, tmp_path):
    profile, text = fitted
    saved_with(Featurizer(profile.tasks, text.full), tmp_path)
    (tmp_path / "encoder" / "adapter_config.json").write_text("{}")
    with pytest.raises(BundleError, match=r"adapter_config.json: not among the manifest's files"):
        load_bundle(tmp_path)
    (tmp_path / "encoder" / "adapter_config.json").unlink()
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    other_files = {n: d for n, d in manifest["files"].items() if not n.startswith("encoder/")}
    path.write_text(json.dumps(manifest | {"files": other_files}))
    with pytest.raises(BundleError, match="not among the manifest's files"):
        load_bundle(tmp_path)
