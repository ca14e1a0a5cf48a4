"""gateway/openapi.json: what clients find at the one address, put together from the documents of the services behind it."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from artstore import __version__

INTERNAL = frozenset({"sagas:write", "elements:report", "storage:read", "storage:write"})
"""Permissions that only the services' own accounts have."""
ROUTES: tuple[tuple[str, str, str], ...] = (
    (r"GET|HEAD", r"/api/sagas/[^/]+", "ingester-module"),
    (r".*", r"/\.well-known/.*|/api/(auth|service-accounts|storage-elements|sagas|audit)(/.*)?", "admin-module"),
    (r".*", r"/api/uploads(/.*)?", "ingester-module"),
    (r".*", r"/api/(changes|links)(/.*)?", "query-module"),
    (r"GET|HEAD", r"/api/files(/.*)?", "query-module"),
    (r"POST", r"/api/files/[^/]+/links", "query-module"),
    (r".*", r"/api/files(/.*)?", "ingester-module"),
)
"""Method, path and the service that answers: the first that matches. The same rules are in gateway/Caddyfile."""


def service_of(method: str, path: str) -> str | None:
    """The module that the gateway sends a request to; None for a path that it does not lead on."""
    matches = (name for methods, paths, name in ROUTES if re.fullmatch(methods, method) and re.fullmatch(paths, path))
    return next(matches, None)


def document(root: Path) -> str:
    """The OpenAPI document of the one address, as JSON."""
    modules = dict.fromkeys(name for *_, name in ROUTES)
    paths: dict[str, dict[str, Any]] = {}
    schemas: dict[str, Any] = {}
    schemes: dict[str, Any] = {}
    for module in modules:
        found = _document_of(root, module)
        for path, operations in found["paths"].items():
            for method, operation in operations.items():
                if service_of(method.upper(), path) == module and operation.get("x-permission") not in INTERNAL:
                    paths.setdefault(path, {})[method] = operation
        for name, schema in found["components"]["schemas"].items():
            if schemas.setdefault(name, schema) != schema:
                raise ValueError(f"two services give the name {name} to different schemas")
        for name, scheme in found["components"]["securitySchemes"].items():
            _merge(schemes.setdefault(name, {}), scheme)
    return (
        f'{{"components":{{"schemas":{_lines(_used(paths, schemas))},"securitySchemes":{_lines(schemes)}}},\n'
        f'"info":{_json({"title": "ArtStore", "version": __version__})},"openapi":"3.1.0",\n'
        f'"paths":{_lines(paths)},\n"servers":[{{"url":"/"}}]}}\n'
    )


def _json(value: object) -> str:
    """In the order of the code: generators of clients take the first media type of a body."""
    return orjson.dumps(value).decode()


def _lines(members: Mapping[str, object]) -> str:
    """An object with each member on a line, so that a change of one is one line of a diff."""
    return "{\n" + ",\n".join(f"{_json(name)}:{_json(members[name])}" for name in sorted(members)) + "\n}"


@contextmanager
def importable(root: Path, module: str) -> Iterator[None]:
    """`import app` means this module's package. All are called `app`, so it is unloaded afterwards."""
    sys.path.insert(0, str(root / module))
    try:
        yield
    finally:
        sys.path.remove(str(root / module))
        for name in [name for name in sys.modules if name.partition(".")[0] == "app"]:
            del sys.modules[name]


def _document_of(root: Path, module: str) -> Any:
    with importable(root, module):
        settings: Any = importlib.import_module("app.core.config").Settings
        create_app: Callable[[Any], Any] = importlib.import_module("app.main").create_app
        given = {name: field.default for name, field in settings.model_fields.items() if not field.is_required()}
        return create_app(settings.model_construct(**given)).openapi()


def _merge(into: dict[str, Any], other: dict[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, dict):
            _merge(into.setdefault(key, {}), value)
        else:
            into[key] = value


def _used(paths: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    """The schemas that the paths refer to, also through other schemas."""
    found: dict[str, Any] = {}
    waiting = [paths]
    while waiting:
        for name in re.findall(r'"#/components/schemas/([^"]+)"', orjson.dumps(waiting.pop()).decode()):
            if name not in found:
                found[name] = schemas[name]
                waiting.append(found[name])
    return found
