"""The files of a policy bundle: which there may be, and that they are undamaged."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from envs.errors import BundleError

MANIFEST = "manifest.json"
TENSORS = "policy.safetensors"
# Folder of a text encoder, where there is one.
ENCODER = "encoder"
PICKLES = (".pkl", ".pickle", ".joblib", ".pt", ".pth", ".zip", ".bin")


def verify(folder: Path, files: Mapping[str, str]) -> None:
    """Check that a bundle's files are those of its manifest, and that none could execute.

    Args:
        files: SHA-256 by name.

    Raises:
        BundleError: naming the file.
    """
    inside = [path for place in (folder, folder / ENCODER) for path in sorted(place.glob("*"))]
    pickles = [path.relative_to(folder) for path in inside if path.suffix in PICKLES]
    if pickles:
        raise BundleError(
            f"{folder / pickles[0]}: a bundle holds no pickles; remove it, or fetch the bundle "
            "from whom you trust"
        )
    unlisted = [
        path.relative_to(folder).as_posix()
        for path in sorted((folder / ENCODER).rglob("*"))
        if path.relative_to(folder).as_posix() not in files
    ]
    if unlisted:
        # An encoder is loaded as a folder: whatever lies there would be read.
        raise BundleError(
            f"{folder / unlisted[0]}: not among the manifest's files; remove it, or fetch the "
            "bundle again"
        )
    if TENSORS not in files:
        raise BundleError(f"{folder / MANIFEST}: files does not list {TENSORS}")
    for name, digest in files.items():
        if Path(name).name != name.removeprefix(f"{ENCODER}/"):
            raise BundleError(f"{folder / MANIFEST}: file name {name!r} leaves the bundle")
        if Path(name).suffix not in (".safetensors", ".json"):
            raise BundleError(
                f"{folder / MANIFEST}: lists {name!r}; a bundle holds .safetensors and .json only, "
                "since loading it must not execute anything"
            )
        if not (folder / name).is_file():
            raise BundleError(f"{folder / name} is missing")
        if sha256_of(folder / name) != digest:
            raise BundleError(
                f"{folder / name} is damaged: its sha256 is not the manifest's; fetch it again"
            )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
