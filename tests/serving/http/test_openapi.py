"""Our own routes keep to what they say of themselves, whatever they are asked."""

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import CHECKS

from serving.http.admin import Admin
from serving.http.decide_routes import ROUTES
from serving.http.openapi import document
from serving.http.relay import Relay
from serving.processes.gateway import Gateway
from tests.serving.hooks import hook, keeper
from tests.serving.upstream import served

TOKEN = "admin-secret"
# The token given here goes with every request; and that a rule has one effect, and no more, is
# not for its schema to say.
EXCLUDED = ["ignored_auth", "positive_data_acceptance"]
MANY = settings(
    max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None
)


@pytest.fixture(scope="module")
def urls(tmp_path_factory):
    """The gateway's URL and the admin port's."""
    folder = tmp_path_factory.mktemp("own")
    made = hook(folder)
    kept = keeper(made)
    kept.step()
    (folder / "metrics").mkdir()
    admin = Admin(kept, str(folder / "metrics"), TOKEN)
    with (
        served(Gateway(made, Relay("http://127.0.0.1:9"))) as gateway,
        served(admin, lifespan="off") as beside,
    ):
        yield gateway, beside
    kept.close()


def references(part):
    """All `$ref`s in a part of a document."""
    if isinstance(part, dict):
        yield from ([part["$ref"]] if "$ref" in part else [])
        part = list(part.values())
    for inner in part if isinstance(part, list) else []:
        yield from references(inner)


def test_every_reference_of_the_document_resolves():
    schemas = document()["components"]["schemas"]
    used = {reference.removeprefix("#/components/schemas/") for reference in references(document())}
    assert used <= set(schemas)
    assert {"DecideRequest", "OutcomeReport", "Control"} <= used


schema = schemathesis.openapi.from_dict(document())


@schema.parametrize()
@MANY
def test_own_routes_answer_as_they_say(case, urls):
    answer = case.call(
        base_url=urls[0 if case.path in ROUTES else 1],
        headers={"authorization": f"Bearer {TOKEN}"},
    )
    assert answer.status_code < 500
    case.validate_response(answer, excluded_checks=CHECKS.get_by_names(EXCLUDED))
