"""Starts admin: `python -m app.main` in the module's folder."""

from __future__ import annotations

from functools import partial

from fastapi import FastAPI

from artstore.config import load_settings
from artstore.contracts.tokens import Audience
from artstore.service import build_app, serve

from .api import accounts, audit, changes, client_ids, elements, keys, links, sagas, token
from .core.config import Settings
from .jobs import open_with_jobs


def create_app(settings: Settings) -> FastAPI:
    return build_app(
        audience=Audience.ADMIN,
        title="ArtStore admin",
        settings=settings,
        open_context=partial(open_with_jobs, settings),
        routers=[keys.router(), accounts.router(), elements.router(), sagas.router(), audit.router()],
        data_routes=[*token.ROUTES, *links.ROUTES, *sagas.ROUTES, *client_ids.ROUTES, *changes.ROUTES],
    )


def main() -> None:
    settings = load_settings(Settings)
    serve(create_app(settings), settings, "admin")


if __name__ == "__main__":
    main()
