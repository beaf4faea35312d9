"""Our own routes as an OpenAPI 3.1 document (https://spec.openapis.org/oas/v3.1.1).

What clients send to the model is upstream's to describe.
"""

from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serving.hook.core import SCHEMA_VERSION
from serving.http.decide_routes import DECIDE, OUTCOME, DecideRequest, OutcomeReport
from serving.settings.control import SETTABLE, Control

OPENAPI = "/openapi.json"
_REFERENCE = "#/components/schemas/{model}"
_MODELS: tuple[type[BaseModel], ...] = (DecideRequest, OutcomeReport, Control)
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "object", "required": ["message"]}},
}
_TOKEN: list[dict[str, list[str]]] = [{"token": []}]
_ID = {"name": "decision_id", "in": "path", "required": True, "schema": {"type": "string"}}
_HOURS = {
    "name": "hours",
    "in": "query",
    "schema": {"type": "number", "exclusiveMinimum": 0, "maximum": 24 * 3660, "default": 24},
}


@cache
def document() -> dict[str, Any]:
    """The document; deciding and reporting is at the gateway's port, the rest at the admin's."""
    _, found = models_json_schema(
        [(model, "validation") for model in _MODELS], ref_template=_REFERENCE
    )
    schemas = found["$defs"] | {"Error": _ERROR}
    own = schemas["Control"]["properties"]
    schemas["Changes"] = {
        "type": "object",
        "properties": {name: own[name] for name in sorted(SETTABLE)},
        "additionalProperties": False,
        "minProperties": 1,
    }
    # The salt is not shown.
    own.pop("salt")
    refused = {"400": "no JSON", "413": "too long", "422": "a field is wrong"}
    away = {"503": "the ledger is away"}
    unknown = {"404": "not in the ledger (yet)"}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Sprout-RL hook", "version": str(SCHEMA_VERSION)},
        "paths": {
            DECIDE: {"post": _operation("Decide a request", refused, "Asked", token=False)},
            OUTCOME: {"post": _operation("Report its outcome", refused, "Reported", token=False)},
            "/healthz": {"get": _operation("Whether it answers", {}, token=False)},
            "/v1/control": {
                "get": _operation("What operators have set", away, answer="Control"),
                "patch": _operation("Change it", refused | away, "Changes", "Control"),
            },
            "/v1/reload": {"post": _operation("Load the bundles anew", away, answer="Control")},
            "/v1/savings": {
                "get": _operation("Carbon saved", {"422": "hours"} | away, parameters=[_HOURS])
            },
            "/v1/requests/{decision_id}": {
                "get": _operation("A request's record", unknown | away, parameters=[_ID]),
                "delete": _operation("Delete it", unknown | away, parameters=[_ID]),
            },
        },
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
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
    if token:
        errors = {"401": "without the admin token", "413": "too long", **errors}
    responses = {"200": _content("as asked", answer)}
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
