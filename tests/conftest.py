"""Shared fixtures: the embedded Llama's server is started once a run."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("WANDB_MODE", "disabled")


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """The embedded Llama behind a real server on loopback."""
    from experiments.llama.server import llama_server

    with llama_server(log=tmp_path_factory.mktemp("llama") / "llama.log") as server:
        yield server


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of published data, or skip."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SPROUT_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"published data not found at {folder}; set SPROUT_DATA")
    return folder
