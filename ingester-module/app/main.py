"""Starts the ingester: `python -m app.main`."""

from __future__ import annotations

from functools import partial

from fastapi import FastAPI

from artstore.config import load_settings
from artstore.contracts.tokens import Audience
from artstore.service import build_app, serve

from .api.batch import BATCH_ROUTES
from .api.files import FILE_ROUTES
from .api.sagas import SAGA_ROUTES
from .api.uploads import UPLOAD_ROUTES
from .core.config import Settings
from .core.context import open_context


def create_app(settings: Settings) -> FastAPI:
    return build_app(
        audience=Audience.INGESTER,
        title="ArtStore ingester",
        settings=settings,
        open_context=partial(open_context, settings),
        data_routes=[*FILE_ROUTES, *BATCH_ROUTES, *SAGA_ROUTES, *UPLOAD_ROUTES],
    )


def main() -> None:
    settings = load_settings(Settings)
    serve(create_app(settings), settings, "ingester")


if __name__ == "__main__":
    main()
