import pytest

from tests.serving.postgres import Postgres, programs


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
