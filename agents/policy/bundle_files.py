"""Verification of a policy bundle's files: names, kinds and SHA-256."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from envs.errors import BundleError

MANIFEST = "manifest.json"
TENSORS = "policy.safetensors"
# Folder of the text encoder, if the bundle has one.
ENCODER = "encoder"
PICKLES = (".pkl", ".pickle", ".joblib", ".pt", ".pth", ".zip", ".bin")


def verify(folder: Path, files: Mapping[str, str]) -> None:
    """Check that a bundle's files match its manifest and that loading them cannot execute code.

    Args:
        folder: the bundle.
        files: SHA-256 by file name, from the manifest.

    Raises:
        BundleError: a file is missing, damaged or not allowed; the message names the file.
    """
    paths = [path for parent in (folder, folder / ENCODER) for path in sorted(parent.glob("*"))]
    pickles = [path.relative_to(folder) for path in paths if path.suffix in PICKLES]
    if pickles:
        raise BundleError(
            f"{folder / pickles[0]}: a bundle holds no pickles; remove the file, or get the "
            "bundle from a source that you trust"
        )
    unlisted = [
        path.relative_to(folder).as_posix()
        for path in sorted((folder / ENCODER).rglob("*"))
        if path.relative_to(folder).as_posix() not in files
    ]
    if unlisted:
        # The encoder's libraries load the whole folder, so an unlisted file would be read.
        raise BundleError(
            f"{folder / unlisted[0]}: not among the manifest's files; remove it, or "
            "get the bundle again"
        )
    if TENSORS not in files:
        raise BundleError(
            f"{folder / MANIFEST}: files does not list {TENSORS}; get the bundle again"
        )
    for name, digest in files.items():
        if Path(name).name != name.removeprefix(f"{ENCODER}/"):
            raise BundleError(f"{folder / MANIFEST}: file name {name!r} leaves the bundle folder")
        if Path(name).suffix not in (".safetensors", ".json"):
            raise BundleError(
                f"{folder / MANIFEST}: lists {name!r}; a bundle holds .safetensors and .json only, "
                "since loading it must not execute anything"
            )
        if not (folder / name).is_file():
            raise BundleError(f"{folder / name} is missing; get the bundle again")
        if sha256_of(folder / name) != digest:
            raise BundleError(
                f"{folder / name} is damaged: its SHA-256 differs from the manifest's; get it again"
            )


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
