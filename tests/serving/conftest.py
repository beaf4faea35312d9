import pytest

from tests import made
from tests.serving.postgres import Postgres, programs
from tests.serving.upstream import Upstream, served


@pytest.fixture
def upstream():
    """A fake upstream that serves."""
    fake = Upstream()
    with served(fake) as url:
        fake.url = url
        yield fake


@pytest.fixture
def folder(tmp_path):
    """A folder with a bundle that chooses "very_brief"."""
    made.bundle(tmp_path / "bundle")
    return tmp_path


@pytest.fixture(scope="session")
def postgres(tmp_path_factory):
    """A running PostgreSQL, for all tests that want one."""
    if programs() is None:
        pytest.skip("PostgreSQL is not installed here")
    server = Postgres(tmp_path_factory.mktemp("postgres"))
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request, tmp_path):
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    server = request.getfixturevalue("postgres")
    return server.database(f"t{abs(hash(request.node.nodeid)):x}")
