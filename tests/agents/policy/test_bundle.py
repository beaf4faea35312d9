import hashlib
import json
import pickle

import numpy as np
import pytest

from agents.policy.bundle import load_bundle
from agents.policy.bundle_files import MANIFEST, TENSORS
from envs.errors import BundleError
from tests import made


def test_the_services_user_may_read_a_bundle_that_another_user_trained(tmp_path):
    made.bundle(tmp_path)
    (tmp_path / "plain").touch()
    usual = (tmp_path / "plain").stat().st_mode
    assert {path.stat().st_mode for path in tmp_path.iterdir()} == {usual}


def test_a_saved_bundle_is_loaded_unchanged(tmp_path):
    saved = made.bundle(tmp_path, (0.0, 1.0, 2.0))
    loaded = load_bundle(tmp_path)
    observations = np.zeros((1, len(loaded.featurizer.names)), dtype=np.float32)
    expected = np.exp([0.0, 1.0, 2.0]) / np.exp([0.0, 1.0, 2.0]).sum()
    assert loaded.policy.probabilities(observations)[0] == pytest.approx(expected)
    assert loaded.version == saved.version
    assert loaded.catalogue == saved.catalogue


def test_any_flipped_byte_is_refused(tmp_path):
    made.bundle(tmp_path)
    path = tmp_path / TENSORS
    good = path.read_bytes()
    for place in np.linspace(0, len(good) - 1, 25, dtype=int):
        bad = bytearray(good)
        bad[place] ^= 1
        path.write_bytes(bytes(bad))
        with pytest.raises(BundleError, match=f"{TENSORS} is damaged"):
            load_bundle(tmp_path)


def changed(folder, **fields):
    path = folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"schema_version": 99}, "schema_version 99"),
        ({"features": []}, "features"),
        ({"network": {"shapes": [[3, 7]]}}, "layer 0"),
        ({"network": {"shapes": []}}, "outputs for 3 directives"),
        ({"catalogue": [{"name": "none"}, {"name": "x"}]}, "3 outputs for 2 directives"),
        ({"files": {TENSORS: "0", "../x": "0"}}, "damaged"),
        ({"files": {}}, "does not list"),
    ],
)
def test_a_bundle_whose_parts_do_not_fit_is_refused(tmp_path, fields, message):
    made.bundle(tmp_path)
    changed(tmp_path, **fields)
    with pytest.raises(BundleError, match=message):
        load_bundle(tmp_path)


def test_a_missing_or_unreadable_manifest_is_named(tmp_path):
    with pytest.raises(BundleError, match=r"manifest\.json is missing"):
        load_bundle(tmp_path)
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(BundleError, match="cannot be read"):
        load_bundle(tmp_path)


def test_a_pickle_in_the_folder_is_refused(tmp_path):
    made.bundle(tmp_path)
    (tmp_path / "model.pkl").write_bytes(b"anything")
    with pytest.raises(BundleError, match=r"model\.pkl: a bundle holds no pickles"):
        load_bundle(tmp_path)


def test_a_pickle_listed_as_a_file_is_refused(tmp_path):
    made.bundle(tmp_path)
    listed = {TENSORS: hashlib.sha256((tmp_path / TENSORS).read_bytes()).hexdigest()}
    (tmp_path / "x.dat").write_bytes(pickle.dumps({}))
    changed(tmp_path, files=listed | {"x.dat": "0"})
    with pytest.raises(BundleError, match=r"lists 'x\.dat'; a bundle holds \.safetensors"):
        load_bundle(tmp_path)


def test_a_pickle_in_place_of_the_tensors_is_refused(tmp_path):
    made.bundle(tmp_path)
    (tmp_path / TENSORS).write_bytes(pickle.dumps({"mean": 0}))
    digest = hashlib.sha256((tmp_path / TENSORS).read_bytes()).hexdigest()
    changed(tmp_path, files={TENSORS: digest})
    with pytest.raises(BundleError, match="of a wrong kind"):
        load_bundle(tmp_path)
