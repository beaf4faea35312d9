"""The public names of the packages."""

import importlib
import subprocess
import sys

import pytest

PACKAGES = ("envs", "agents", "serving")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_can_be_imported(package):
    module = importlib.import_module(package)
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no public name 'nothing'"):
        _ = module.nothing


def test_importing_the_packages_loads_no_library():
    code = (
        "import sys; import envs, agents, serving; "
        "print([m for m in ('numpy', 'torch', 'gymnasium', 'pydantic') if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert printed.stdout.decode().strip() == "[]"
