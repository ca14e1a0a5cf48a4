"""The page /docs: Swagger UI over the service's own OpenAPI document, from files of an installed package.

Every link is relative and below /docs, so the page works under a prefix of a gateway. Nothing is fetched from another
origin: the Content-Security-Policy allows only the service's own files and calls to the same origin.
"""

from __future__ import annotations

from html import escape
from importlib.util import find_spec
from pathlib import Path

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response

from artstore.auth.guard import new_router
from artstore.contracts.tokens import Audience
from artstore.errors import NotFound
from artstore.http.json import JsonResponse

PACKAGE = "fastapi_swagger"
"""Only its files are used: Swagger UI as released by its authors."""
TYPES = {
    "swagger-ui.css": "text/css; charset=utf-8",
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "favicon-32x32.png": "image/png",
}
MAX_AGE_S = 3600
POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
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


def docs_router(audience: Audience, title: str) -> APIRouter:
    router = new_router(audience)
    page = PAGE.format(title=escape(title)).encode()
    folder = _folder()

    @router.get("/docs", include_in_schema=False)
    async def show() -> Response:
        return HTMLResponse(page, headers={"content-security-policy": POLICY, "cache-control": "no-cache"})

    @router.get("/docs/{name}", include_in_schema=False)
    async def show_part(request: Request, name: str) -> Response:
        if name == "openapi.json":
            return JsonResponse(request.app.openapi())
        if name == "start.js":
            return Response(START, media_type="text/javascript", headers={"cache-control": "no-cache"})
        if name not in TYPES:
            raise NotFound()
        headers = {"cache-control": f"public, max-age={MAX_AGE_S}"}
        return FileResponse(folder / name, media_type=TYPES[name], headers=headers)

    return router


def _folder() -> Path:
    """The folder of the package's files; its code is not run."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{PACKAGE} is not installed", name=PACKAGE)
    return Path(spec.submodule_search_locations[0]) / "resources"
