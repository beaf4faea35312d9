import pytest

from tests import made
from tests.serving.postgres import Postgres, programs
from tests.serving.upstream import Upstream, served


@pytest.fixture
def upstream():
    """A running fake upstream."""
    fake = Upstream()
    with served(fake) as url:
        fake.url = url
        yield fake


@pytest.fixture
def folder(tmp_path):
    """A folder with a bundle whose policy chooses "very_brief"."""
    made.bundle(tmp_path / "bundle")
    return tmp_path


@pytest.fixture(scope="session")
def postgres(tmp_path_factory):
    """A running PostgreSQL server that all tests share."""
    if programs() is None:
        pytest.skip("PostgreSQL is not installed here")
    server = Postgres(tmp_path_factory.mktemp("postgres"))
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request, tmp_path):
    """URL of an empty database, once of SQLite and once of PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    server = request.getfixturevalue("postgres")
    return server.database(f"t{abs(hash(request.node.nodeid)):x}")
