"""OpenAPI documents: what FastAPI knows, plus the data plane's routes, the security scheme and the problem answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from artstore.auth.access import ENDPOINTS
from artstore.contracts.tokens import Audience
from artstore.errors import BY_CODE, PROBLEM_JSON
from artstore.http.data_routes import DataRoute

PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "code", "request_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string", "enum": sorted(BY_CODE)},
        "request_id": {"type": "string"},
    },
}
PROBLEM_RESPONSE: dict[str, Any] = {
    "description": "RFC 9457 problem document",
    "content": {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}},
}

UUID_SCHEMA: dict[str, Any] = {"type": "string", "format": "uuid"}
NAME_SCHEMA: dict[str, Any] = {"type": "string", "minLength": 1}
PATH_SCHEMAS = dict.fromkeys(("file_id", "account_id", "saga_id", "upload_id"), UUID_SCHEMA)


def describe(app: FastAPI, audience: Audience, data_routes: Sequence[DataRoute]) -> Callable[[], dict[str, Any]]:
    """A function for `app.openapi`; the document is made at the first call."""
    made: dict[str, Any] = {}

    def openapi() -> dict[str, Any]:
        if not made:
            made.update(get_openapi(title=app.title, version=app.version, routes=app.routes))
            for route in data_routes:
                made["paths"].setdefault(route.path, {}).update(route.openapi)
            components = made.setdefault("components", {})
            components.setdefault("schemas", {})["Problem"] = PROBLEM_SCHEMA
            components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}}
            _complete(made["paths"], audience)
        return made

    return openapi


def _complete(paths: dict[str, dict[str, Any]], audience: Audience) -> None:
    for path, operations in paths.items():
        for method, operation in operations.items():
            needed = ENDPOINTS[audience].get(f"{method.upper()} {path}")
            if needed is not None:
                operation["security"] = [{"token": []}]
                operation["x-permission"] = needed.value
            responses = operation.setdefault("responses", {})
            responses.pop("422", None)
            responses["default"] = PROBLEM_RESPONSE
            named = {parameter["name"] for parameter in operation.get("parameters", [])}
            for part in (segment[1:-1] for segment in path.split("/") if segment.startswith("{")):
                if part not in named:
                    operation.setdefault("parameters", []).append(
                        {"name": part, "in": "path", "required": True, "schema": PATH_SCHEMAS.get(part, NAME_SCHEMA)}
                    )
