"""The project's own routes conform to their OpenAPI document, whatever the request."""

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import CHECKS

from serving.http.admin import Admin
from serving.http.decide_routes import ROUTES
from serving.http.openapi import document
from serving.http.readiness import PATH
from serving.http.relay import Relay
from serving.processes.gateway import Gateway
from tests.serving.hooks import hook, keeper
from tests.serving.upstream import served

TOKEN = "admin-secret"
# The test sends the token with every request; and the schema cannot state that a rule has
# exactly one effect.
EXCLUDED = ["ignored_auth", "positive_data_acceptance"]
MANY = settings(
    max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None
)


@pytest.fixture(scope="module")
def urls(tmp_path_factory):
    """URLs of the gateway and of the admin port."""
    folder = tmp_path_factory.mktemp("own")
    made_hook = hook(folder)
    ledger_keeper = keeper(made_hook)
    ledger_keeper.step()
    (folder / "metrics").mkdir()
    admin = Admin(ledger_keeper, str(folder / "metrics"), TOKEN)
    with (
        served(Gateway(made_hook, Relay("http://127.0.0.1:9"))) as gateway_url,
        served(admin, lifespan="off") as admin_url,
    ):
        yield gateway_url, admin_url
    ledger_keeper.close()


def references(part):
    """Yield every `$ref` in a part of the document."""
    if isinstance(part, dict):
        yield from ([part["$ref"]] if "$ref" in part else [])
        part = list(part.values())
    for inner in part if isinstance(part, list) else []:
        yield from references(inner)


def test_every_reference_of_the_document_resolves():
    schemas = document()["components"]["schemas"]
    used_schemas = {
        reference.removeprefix("#/components/schemas/") for reference in references(document())
    }
    assert used_schemas <= set(schemas)
    assert {"DecideRequest", "OutcomeReport", "Control"} <= used_schemas


schema = schemathesis.openapi.from_dict(document())


@schema.parametrize()
@MANY
def test_own_routes_conform_to_the_openapi_document(case, urls):
    answer = case.call(
        base_url=urls[0 if case.path in (*ROUTES, PATH) else 1],
        headers={"authorization": f"Bearer {TOKEN}"},
    )
    assert answer.status_code < 500
    case.validate_response(answer, excluded_checks=CHECKS.get_by_names(EXCLUDED))
