"""The page /docs and the OpenAPI document: Swagger UI from files of an installed package.

Every link is relative and below /docs, so the page works under a prefix of a gateway. The Content-Security-Policy allows
the service's own files, calls to the same origin, and the login, which may be at another one.
"""

from __future__ import annotations

import re
from html import escape
from importlib.util import find_spec
from pathlib import Path

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response

from artstore.auth.guard import new_router
from artstore.config import AdminClientSettings, ServiceSettings
from artstore.contracts.tokens import Audience
from artstore.errors import NotFound
from artstore.http.json import JsonResponse
from artstore.http.openapi import with_login_at
from artstore.limits.gate import TOKEN_PATH

PACKAGE = "fastapi_swagger"
"""Only its files are used: Swagger UI as released by its authors."""
TYPES = {
    "swagger-ui.css": "text/css; charset=utf-8",
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "favicon-32x32.png": "image/png",
}
MAX_AGE_S = 3600
FORWARDED_HOST = "x-forwarded-host"
"""Added by the gateway, as by most proxies."""
POLICY = [
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' data:",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
]
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.:_\[\]-]+")
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="page"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
START = b"""SwaggerUIBundle({
  url: "docs/openapi.json",
  dom_id: "#page",
  deepLinking: true,
  validatorUrl: null,
  layout: "BaseLayout",
  presets: [SwaggerUIBundle.presets.apis],
});
"""
"""A file of its own, because the policy allows no script in the page. Credentials stay in the page's memory."""


def docs_router(audience: Audience, title: str, settings: ServiceSettings) -> APIRouter:
    router = new_router(audience)
    page = PAGE.format(title=escape(title)).encode()
    folder = _folder()

    @router.get("/openapi.json", include_in_schema=False)
    async def show_document(request: Request) -> Response:
        document = with_login_at(request.app.openapi(), token_url(request, settings))
        return JsonResponse(document, headers={"cache-control": "no-cache"})

    @router.get("/docs", include_in_schema=False)
    async def show(request: Request) -> Response:
        login = _ORIGIN.match(token_url(request, settings))
        policy = "; ".join([*POLICY, f"connect-src 'self'{f' {login[0]}' if login else ''}"])
        return HTMLResponse(page, headers={"content-security-policy": policy, "cache-control": "no-cache"})

    @router.get("/docs/{name}", include_in_schema=False)
    async def show_part(request: Request, name: str) -> Response:
        if name == "openapi.json":
            return await show_document(request)
        if name == "start.js":
            return Response(START, media_type="text/javascript", headers={"cache-control": "no-cache"})
        if name not in TYPES:
            raise NotFound()
        headers = {"cache-control": f"public, max-age={MAX_AGE_S}"}
        return FileResponse(folder / name, media_type=TYPES[name], headers=headers)

    return router


def token_url(request: Request, settings: ServiceSettings) -> str:
    """The login for who reads this service's document: at PUBLIC_URL, at the same address through a gateway and at admin,
    else at ADMIN_URL. The header decides nothing but what its sender is shown."""
    if settings.public_url is not None:
        return settings.public_url + TOKEN_PATH
    if not isinstance(settings, AdminClientSettings) or FORWARDED_HOST in request.headers:
        return TOKEN_PATH
    return settings.admin_url.rstrip("/") + TOKEN_PATH


def _folder() -> Path:
    """The folder of the package's files; its code is not run."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{PACKAGE} is not installed", name=PACKAGE)
    return Path(spec.submodule_search_locations[0]) / "resources"
