"""Starts a storage element: `python -m app.main`."""

from __future__ import annotations

from functools import partial

from fastapi import FastAPI

from artstore.config import load_settings
from artstore.contracts.tokens import Audience
from artstore.service import build_app, serve

from .api.element import router
from .api.routes import ROUTES
from .core.config import Settings
from .core.context import open_context


def create_app(settings: Settings) -> FastAPI:
    return build_app(
        audience=Audience.STORAGE,
        title="ArtStore storage element",
        settings=settings,
        open_context=partial(open_context, settings),
        routers=[router()],
        data_routes=ROUTES,
        links_port=settings.element_public_port,
    )


def main() -> None:
    settings = load_settings(Settings)
    serve(create_app(settings), settings, settings.storage_element_id, settings.element_public_port)


if __name__ == "__main__":
    main()
