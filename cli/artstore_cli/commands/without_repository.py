"""The refusals of an installed `artstore`: commands that need the source code."""

from __future__ import annotations

from typing import Annotated

import typer

from ..errors import CommandError
from ..output import Output

NAMES = ("up", "down", "status", "test", "bench", "docs", "verify", "backup", "restore", "bundle", "doctor")


def add_to(app: typer.Typer) -> None:
    for name in NAMES:
        app.command(name, hidden=True, context_settings={"ignore_unknown_options": True})(_refusal(name))


def _refusal(name: str):  # type: ignore[no-untyped-def]
    def refuse(arguments: Annotated[list[str] | None, typer.Argument()] = None) -> None:
        error = CommandError(
            f"`{name}` needs the source code of ArtStore", hint=f"clone its repository and run there: ./artstore {name}"
        )
        Output("--json" in (arguments or ())).error({"code": error.code, "message": str(error), "hint": error.hint})
        raise typer.Exit(1)

    return refuse
