import pytest

from serving.http.relay import Relay
from serving.processes.gateway import Gateway
from tests.serving.hooks import hook
from tests.serving.upstream import served


@pytest.fixture
def made_hook(tmp_path):
    """A hook whose policy chooses "very_brief"."""
    return hook(tmp_path)


@pytest.fixture
def gateway(upstream, made_hook):
    """URL of a gateway in front of the fake upstream."""
    with served(Gateway(made_hook, Relay(upstream.url))) as url:
        yield url
