"""Starts the query module: `python -m app.main`."""

from __future__ import annotations

from functools import partial

from fastapi import FastAPI

from artstore.config import load_settings
from artstore.contracts.tokens import Audience
from artstore.service import build_app, serve

from .api import files, links
from .core.config import Settings
from .core.context import open_context


def create_app(settings: Settings) -> FastAPI:
    return build_app(
        audience=Audience.QUERY,
        title="ArtStore query",
        settings=settings,
        open_context=partial(open_context, settings),
        data_routes=[*files.ROUTES, *links.ROUTES],
    )


def main() -> None:
    settings = load_settings(Settings)
    serve(create_app(settings), settings, "query")


if __name__ == "__main__":
    main()
