"""OpenAPI documents: FastAPI's own, plus the data routes, the security scheme and the problem responses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from artstore.auth.access import ENDPOINTS
from artstore.contracts.schemas import COMPONENTS, component
from artstore.contracts.tokens import INTERNAL_WRITES, Audience
from artstore.errors import BY_CODE, PROBLEM_JSON
from artstore.http.data_routes import DataRoute, Handler
from artstore.http.request_headers import CONDITIONS, DIGESTS, NOTHING, RANGES, RESUMABLE
from artstore.limits.gate import TOKEN_PATH

SERVER = {"url": "/", "description": "The address that this document comes from, without a gateway's prefix"}
PROBLEM = component(
    "Problem",
    {
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
    },
)
PROBLEM_RESPONSE: dict[str, Any] = {
    "description": "RFC 9457 problem document",
    "content": {PROBLEM_JSON: {"schema": PROBLEM}},
}
PROBLEM_HEAD = {"description": "The status of a problem; HEAD has no document"}

TEXT_SCHEMA: dict[str, Any] = {"type": "string"}
BYTES_SCHEMA: dict[str, Any] = {"type": "string", "format": "binary"}
BYTES_CONTENT: dict[str, Any] = {name: {"schema": BYTES_SCHEMA} for name in ("application/octet-stream", "*/*")}
"""Bytes of any type. Generators read the first entry; the second is what the response may say."""
UUID_SCHEMA: dict[str, Any] = {"type": "string", "format": "uuid"}
CURSOR: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": 2048, "pattern": "^[A-Za-z0-9_-]+$"}
"""Opaque; only a value that the list has returned is accepted."""
MAX_JSON_INTEGER = 2**53 - 1
"""The largest integer that every JSON parser reads exactly (RFC 8259 §6)."""
NAME_SCHEMA: dict[str, Any] = {"type": "string", "minLength": 1}
PATH_SCHEMAS = dict.fromkeys(("file_id", "account_id", "saga_id"), UUID_SCHEMA)


def object_schema(required: Mapping[str, Any], optional: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The schema of an object, from the schemas of its members."""
    return {"type": "object", "required": list(required), "properties": {**required, **(optional or {})}}


def operation(
    summary: str,
    *,
    responses: Mapping[str, Any],
    operation_id: str = "",
    description: str = "",
    tag: str = "files",
    parameters: Sequence[Mapping[str, Any]] = (),
    body: Mapping[str, Any] | None = None,
    encoding: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """One operation of a data route. `body` has a schema for each media type, `encoding` the parts of a form that are
    not plain text."""
    made: dict[str, Any] = {"tags": [tag], "summary": summary, "responses": dict(responses)}
    if operation_id:
        made["operationId"] = operation_id
    if description:
        made["description"] = description
    if parameters:
        made["parameters"] = list(parameters)
    if body:
        made["requestBody"] = {"required": True, "content": {name: {"schema": body[name]} for name in body}}
        if encoding and "multipart/form-data" in body:
            made["requestBody"]["content"]["multipart/form-data"]["encoding"] = encoding
    return made


def route(
    method: str,
    path: str,
    handler: Handler,
    summary: str,
    responses: Mapping[str, Any],
    *,
    honours: frozenset[str] = NOTHING,
    transfer: bool = False,
    **described: Any,
) -> DataRoute:
    """A data route with its operation; `described` as in `operation`, whose id is by default the handler's name.

    The route honours the conditional, range, digest and tus headers among its parameters, and those in `honours`.
    """
    described.setdefault("operation_id", handler.__name__)
    stated = {one["name"].lower() for one in described.get("parameters", ()) if one["in"] == "header"}
    made = {method.lower(): operation(summary, responses=responses, **described)}
    honoured = honours | stated & (CONDITIONS | RANGES | DIGESTS | RESUMABLE)
    return DataRoute(path, [method], handler, made, honoured, transfer)


def query(name: str, description: str = "", schema: Mapping[str, Any] = TEXT_SCHEMA) -> dict[str, Any]:
    """A parameter of the query; an array is given as one parameter for each item."""
    return {"name": name, "in": "query", "description": description, "schema": schema}


def struct_schema(model: type[msgspec.Struct]) -> dict[str, Any]:
    """The reference to the schema of a struct that is answered as it is, which is defined under its name."""
    _, parts = msgspec.json.schema_components([model], ref_template="#/components/schemas/{name}")
    for name, schema in parts.items():
        component(name, {key: value for key, value in schema.items() if key != "title"})
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def header(
    name: str, description: str = "", schema: Mapping[str, Any] = TEXT_SCHEMA, *, required: bool = False
) -> dict[str, Any]:
    """A request header."""
    made = {"name": name, "in": "header", "description": description, "schema": schema}
    return {**made, "required": True} if required else made


REQUEST_ID = header(
    "X-Request-ID",
    "An id that the answer and the log repeat: up to 128 of A-Z a-z 0-9 . _ : -; else one is made",
)
DIGEST_HEADERS = [
    header(
        name,
        "The digest of the content, sha-256=:BASE64: or sha-512=:BASE64:; 400 `digest_mismatch` when it differs",
        {"type": "string", "pattern": "^sha-(256=:[A-Za-z0-9+/]{43}=|512=:[A-Za-z0-9+/]{86}==):$"},
    )
    for name in ("Content-Digest", "Repr-Digest")
] + [
    header(
        "Content-MD5", "The MD5 of the content, in base64", {"type": "string", "pattern": "^[A-Za-z0-9+/]{21}[AQgw]==$"}
    )
]
_REVISION_TAG = '(W/)?"[1-9][0-9]{0,8}"'
IF_MATCH = header(
    "If-Match",
    'The revision to change, "<revision>"; 412 when the file is at a different one',
    {"type": "string", "examples": ['"1"'], "pattern": f"^([*]|{_REVISION_TAG}(, {_REVISION_TAG})*)$"},
)


def answer(
    description: str,
    schema: Mapping[str, Any] | None = None,
    *,
    media_type: str = "application/json",
    headers: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """A response; `headers` are names with descriptions."""
    made: dict[str, Any] = {"description": description}
    if schema is not None:
        made["content"] = {media_type: {"schema": schema}}
    if headers:
        made["headers"] = {name: {"description": headers[name], "schema": TEXT_SCHEMA} for name in headers}
    return made


def described(
    operation_id: str, schema: Mapping[str, Any] | None = None, status: int = 200, also: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Keyword arguments of a FastAPI route: its operation id, its status, the schema of its answer; `also` are other
    media types of this answer with their schemas."""
    made: dict[str, Any] = {"operation_id": operation_id, "status_code": status}
    if schema is not None:
        content = {name: {"schema": one} for name, one in {"application/json": schema, **(also or {})}.items()}
        made["responses"] = {status: {"content": content}}
    return made


def describe(app: FastAPI, audience: Audience, data_routes: Sequence[DataRoute]) -> Callable[[], dict[str, Any]]:
    """A function for `app.openapi`; it builds the document at the first call."""
    made: dict[str, Any] = {}

    def openapi() -> dict[str, Any]:
        if not made:
            made.update(get_openapi(title=app.title, version=app.version, routes=app.routes))
            for route in data_routes:
                made["paths"].setdefault(route.path, {}).update(route.openapi)
            made["servers"] = [SERVER]
            _complete(made["paths"], audience)
            components = made.setdefault("components", {})
            components["schemas"] = _shared_schemas(made["paths"], components.get("schemas", {}))
            components["securitySchemes"] = _security_schemes(audience)
        return made

    return openapi


def with_login_at(document: dict[str, Any], token_url: str) -> dict[str, Any]:
    """The same document with the address of the login replaced."""
    components = document["components"]
    schemes = {**components["securitySchemes"]}
    flow = {**schemes["login"]["flows"]["clientCredentials"], "tokenUrl": token_url}
    schemes["login"] = {**schemes["login"], "flows": {"clientCredentials": flow}}
    return {**document, "components": {**components, "securitySchemes": schemes}}


def _security_schemes(audience: Audience) -> dict[str, Any]:
    """A token that the caller has, or the login that makes one, whose address `with_login_at` may replace."""
    of_people = {needed for needed in ENDPOINTS[audience].values() if needed is not None} - INTERNAL_WRITES
    needed = sorted(permission.value for permission in of_people)
    scopes = {name: " ".join(reversed(name.split(":"))) for name in needed}
    login = {"clientCredentials": {"tokenUrl": TOKEN_PATH, "scopes": scopes}}
    return {
        "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
        "login": {"type": "oauth2", "flows": login},
    }


def _shared_schemas(paths: Any, own: Mapping[str, Any]) -> dict[str, Any]:
    """The schemas that `paths` refer to, and those that these refer to."""
    found: dict[str, Any] = {}
    waiting = [paths]
    while waiting:
        for name in _names_in(waiting.pop()):
            if name not in found:
                found[name] = own[name] if name in own else COMPONENTS[name]
                waiting.append(found[name])
    return dict(sorted(found.items()))


def _names_in(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(reference := part.get("$ref"), str):
            yield reference.rpartition("/")[2]
        for inner in part.values():
            yield from _names_in(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from _names_in(inner)


def _complete(paths: dict[str, dict[str, Any]], audience: Audience) -> None:
    for path, operations in paths.items():
        for method, operation in operations.items():
            needed = ENDPOINTS[audience].get(f"{method.upper()} {path}")
            if needed is not None:
                login = [] if needed in INTERNAL_WRITES else [{"login": [needed.value]}]
                operation["security"] = [{"token": []}, *login]
                operation["x-permission"] = needed.value
            responses = operation.setdefault("responses", {})
            responses.pop("422", None)
            responses["default"] = PROBLEM_HEAD if method == "head" else PROBLEM_RESPONSE
            named = {parameter["name"] for parameter in operation.get("parameters", [])}
            for part in (segment[1:-1] for segment in path.split("/") if segment.startswith("{")):
                if part not in named:
                    operation.setdefault("parameters", []).append(
                        {"name": part, "in": "path", "required": True, "schema": PATH_SCHEMAS.get(part, NAME_SCHEMA)}
                    )
