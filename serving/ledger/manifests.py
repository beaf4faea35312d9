"""The manifests of the policy bundles in use, read beside the workers, without their networks."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agents.policy.bundle_files import MANIFEST
from serving.file_stamp import FileStamp, file_stamp

Manifest = Mapping[str, Any]


class Manifests:
    """Manifests by bundle version and by model.

    A manifest that cannot be read is left out: the workers refuse its bundle, and say so.

    Args:
        folders: one bundle in each.

    Attributes:
        by_version: manifests of the bundles that are or were in use here.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = tuple(folders)
        self._stamps: dict[Path, FileStamp] = {}
        self.by_version: dict[str, Manifest] = {}
        self._by_model: dict[str, Manifest] = {}

    def refresh(self) -> None:
        """Read the manifests that have changed."""
        for folder in self._folders:
            path = folder / MANIFEST
            stamp = file_stamp(path)
            if stamp is None or stamp == self._stamps.get(folder):
                continue
            try:
                raw = path.read_bytes()
                manifest = json.loads(raw)
                model = manifest["model"]
            except (OSError, ValueError, KeyError, TypeError):
                continue
            self._stamps[folder] = stamp
            version = hashlib.sha256(raw).hexdigest()[:12]
            self.by_version[version] = self._by_model[model] = manifest

    def for_model(self, model: str | None) -> Manifest | None:
        """Return the manifest of the bundle that is in use for a model, or None."""
        return None if model is None else self._by_model.get(model)
