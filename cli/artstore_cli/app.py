"""The command line: `./artstore`, or `artstore` when it is installed by pip."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from .command import usage_failure
from .commands import audit, backup, bundle, doctor, files, get, local, login, operators, put, without_repository
from .errors import ClosedPipe, ExitCode
from .repository import IN_REPOSITORY

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Store files in ArtStore, find them and get them back. Exit codes and JSON: docs/cli.md.",
)


def _show_version(asked: bool) -> None:
    if asked:
        from artstore_client import VERSION

        sys.stdout.write(f"artstore {VERSION}\n")
        raise typer.Exit


@app.callback()
def _artstore(
    version: Annotated[bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show it.")] = False,
) -> None:
    pass


for topic in (login, put, get, files):
    topic.add_to(app)
operators.add_to(app, audit.commands)
app.add_typer(audit.commands, name="audit")
for topic in (local, backup, bundle, doctor) if IN_REPOSITORY else (without_repository,):
    topic.add_to(app)


def main() -> None:
    """Ends with the exit code of the command."""
    try:
        code = typer.main.get_command(app).main(prog_name="artstore", standalone_mode=False)
    except typer.Abort:
        code = ExitCode.INTERRUPTED
    except ClosedPipe:
        code = ExitCode.CLOSED_PIPE
    except typer.TyperException as error:
        code = usage_failure(error, sys.argv)
    raise SystemExit(int(code or 0))
