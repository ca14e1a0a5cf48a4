"""The command line: `./artstore`."""

from __future__ import annotations

import typer

from .commands import audit, backup, local

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
local.add_to(app)
backup.add_to(app)
app.add_typer(audit.commands, name="audit")
