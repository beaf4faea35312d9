"""Fixtures for all tests; the server of the embedded Llama starts once per test run."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("WANDB_MODE", "disabled")
# Hypothesis fails an example that takes more than 200 ms by default: on a busy machine any one can.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """A real server of the embedded Llama on loopback."""
    from experiments.llama.server import llama_server

    with llama_server(log=tmp_path_factory.mktemp("llama") / "llama.log") as server:
        yield server


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Path of the folder with the published data; skip the test if the folder is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SPROUT_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"published data not found at {folder}; set SPROUT_DATA")
    return folder
