"""The hook's own routes as an OpenAPI 3.1 document (https://spec.openapis.org/oas/v3.1.1).

The routes of the model are not included: the upstream defines them.
"""

from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serving.apis.feedback import FeedbackBody
from serving.hook.headers import SCHEMA_VERSION
from serving.http.decide_routes import DECIDE, OUTCOME, DecideRequest, OutcomeReport
from serving.http.feedback_route import FEEDBACK
from serving.http.quality_routes import QUALITY, REVIEW, ReviewBody
from serving.http.readiness import PATH as READY
from serving.settings.control import SETTABLE, Control

OPENAPI_PATH = "/openapi.json"
_REFERENCE = "#/components/schemas/{model}"
_MODELS: tuple[type[BaseModel], ...] = (
    DecideRequest,
    OutcomeReport,
    Control,
    FeedbackBody,
    ReviewBody,
)
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "object", "required": ["message"]}},
}
_REFUSED = {"400": "not JSON", "413": "body too long", "422": "a field is wrong"}
_AWAY = {"503": "the ledger's database is unavailable"}
_UNKNOWN = {"404": "not in the ledger (yet)"}
_TOKEN: list[dict[str, list[str]]] = [{"token": []}]
_ID = {"name": "decision_id", "in": "path", "required": True, "schema": {"type": "string"}}
_PERIOD = [
    {"name": "since", "in": "query", "schema": {"type": "string"}},
    {"name": "until", "in": "query", "schema": {"type": "string"}},
    {
        "name": "hours",
        "in": "query",
        "schema": {"type": "number", "exclusiveMinimum": 0, "maximum": 24 * 3660, "default": 24},
    },
]


@cache
def document() -> dict[str, Any]:
    """Return the document.

    /readyz, /v1/decide and /v1/outcome are on the gateway's port; /v1/feedback is on both, on the
    admin port with the admin token; the others are on the admin port.
    """
    return {
        "openapi": "3.1.0",
        "info": {"title": "Sprout-RL hook", "version": str(SCHEMA_VERSION)},
        "paths": {
            DECIDE: {
                "post": _operation(
                    "Decide a request", _REFUSED, DecideRequest.__name__, token=False
                )
            },
            OUTCOME: {
                "post": _operation(
                    "Report an outcome", _REFUSED, OutcomeReport.__name__, token=False
                )
            },
            "/healthz": {"get": _operation("Check that the process lives", {}, token=False)},
            READY: {"get": _operation("Report the state and its problems", {}, token=False)},
            "/v1/control": {
                "get": _operation("Get the operators' settings", _AWAY, answer="Control"),
                "patch": _operation("Change settings", _REFUSED | _AWAY, "Changes", "Control"),
            },
            "/v1/reload": {"post": _operation("Reload the bundles", _AWAY, answer="Control")},
            "/v1/savings": {
                "get": _operation(
                    "Estimate savings", {"422": "the period is wrong"} | _AWAY, parameters=_PERIOD
                )
            },
            **_quality_paths(),
            "/v1/requests/{decision_id}": {
                "get": _operation("Get a record", _UNKNOWN | _AWAY, parameters=[_ID]),
                "delete": _operation("Delete a record", _UNKNOWN | _AWAY, parameters=[_ID]),
            },
        },
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _schemas() -> dict[str, Any]:
    """Return the schemas of bodies and answers, by name."""
    _, definitions = models_json_schema(
        [(model, "validation") for model in _MODELS], ref_template=_REFERENCE
    )
    schemas: dict[str, Any] = definitions["$defs"] | {"Error": _ERROR}
    control_properties = schemas["Control"]["properties"]
    schemas["Changes"] = {
        "type": "object",
        "properties": {name: control_properties[name] for name in sorted(SETTABLE)},
        "additionalProperties": False,
        "minProperties": 1,
    }
    schemas["Changes"]["properties"]["release_off"] = {"type": "boolean"}
    # As the admin application shows them: the kill switch, and not the salt, which is secret.
    control_properties.pop("salt")
    control_properties.pop("kill")
    control_properties.pop("started")
    control_properties["mode_after_release"] = control_properties["mode"]
    control_properties["replica"] = {"type": "string"}
    control_properties["off"] = {"type": "array", "items": {"type": "string"}}
    return schemas


def _quality_paths() -> dict[str, Any]:
    """Return the paths of the watched quality."""
    return {
        FEEDBACK: {
            "post": _operation(
                "Say whether an answer was good",
                _REFUSED | _UNKNOWN | _AWAY | {"403": "no token of this answer"},
                FeedbackBody.__name__,
                token=False,
            )
        },
        REVIEW: {
            "get": _operation(
                "Get a pair of answers to compare",
                {"404": "no answers are judged", "422": "no reviewer"},
                parameters=[
                    {
                        "name": "reviewer",
                        "in": "query",
                        "required": True,
                        "schema": {"type": "string", "minLength": 1},
                    }
                ],
            ),
            "post": _operation(
                "Compare two answers",
                _REFUSED | _AWAY | {"404": "no such pair"},
                ReviewBody.__name__,
            ),
        },
        QUALITY: {
            "get": _operation(
                "Get the quality of each task's answers, and the guard's state",
                {"422": "the period is wrong"} | _AWAY,
                parameters=_PERIOD,
            )
        },
    }


def _operation(
    summary: str,
    errors: dict[str, str],
    body: str | None = None,
    answer: str | None = None,
    *,
    parameters: list[dict[str, Any]] | None = None,
    token: bool = True,
) -> dict[str, Any]:
    """Return one operation of the document.

    Args:
        errors: description for each error status.
        body: schema of the request's body; None if there is no body.
        answer: schema of a successful response; None allows any object.
        token: whether the operation needs the admin token.
    """
    if token:
        errors = {"401": "admin token missing", "413": "body too long", **errors}
    responses = {"200": _content("success", answer)}
    responses |= {status: _content(text, "Error") for status, text in errors.items()}
    operation: dict[str, Any] = {"summary": summary, "responses": responses}
    if body is not None:
        operation["requestBody"] = {"required": True, **_content("", body)}
        operation["requestBody"].pop("description")
    if parameters is not None:
        operation["parameters"] = parameters
    if token:
        operation["security"] = _TOKEN
    return operation


def _content(text: str, schema: str | None) -> dict[str, Any]:
    shape = {"$ref": _REFERENCE.format(model=schema)} if schema else {"type": "object"}
    return {"description": text, "content": {"application/json": {"schema": shape}}}
