"""`audit list | verify | archive | prune`. `verify` needs no service, database or network; the others talk to admin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ..command import AsJson
from ..errors import CommandError, ExitCode
from ..output import Output, printable, to_json
from ..repository import IN_REPOSITORY
from .local import refuse

CREDENTIALS = Path(".artstore/keys/admin-client.json")

commands = typer.Typer(no_args_is_help=True, help="The audit log.", rich_markup_mode=None)


@commands.callback()
def _audit() -> None:
    """The audit log."""


def verify(
    files: Annotated[
        list[Path],
        typer.Argument(help="An answer of GET /api/audit?format=ndjson, after the archives before it, oldest first."),
    ],
    admin_key: Annotated[
        str | None, typer.Option(help="The required fingerprint of admin's key, as in the checkpoints that admin logs.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Verify exported audit logs offline. Exit code 1 when a change was found."""
    from dataclasses import asdict

    from ..audit import verify_files

    try:
        report = verify_files(files, admin_key)
    except CommandError as error:
        error.exit_code = ExitCode.USAGE
        raise refuse(error, as_json) from None
    if as_json:
        Output(as_json).line(to_json({**asdict(report), "admin_key": report.admin_key}))
        raise typer.Exit(1 if report.findings else 0)
    for one in report.findings:
        print(f"{one.what}: {one.chain} {one.seq}: {one.detail}")
    part = "" if report.whole else " of a part of the log, so that gaps are not checked"
    print(f"{report.events} events{part}, {len(report.chains)} chains, {report.checkpoints} checkpoints")
    if report.sealed:
        print(f"events before checkpoint {report.sealed} are in archives that were not given")
    print(f"admin's key: {report.admin_key}")
    print(f"{len(report.findings)} findings" if report.findings else "no change was found")
    raise typer.Exit(1 if report.findings else 0)


def archive(
    file: Annotated[Path, typer.Argument(help="The archive to write. An existing file is only sealed.")],
    before_days: Annotated[int, typer.Option(help="Archive events older than this many days.")] = 90,
    url: Annotated[str, typer.Option(help="The gateway, or admin.")] = "http://127.0.0.1:8080",
    credentials: Annotated[Path, typer.Option(help="admin-client.json of an ADMIN.")] = CREDENTIALS,
    as_json: AsJson = False,
) -> None:
    """Export the oldest part of the log and have admin verify and seal it. Deletes nothing; run it again after a failure."""
    from ..audit_archive import AdminClient, write_archive

    text = "seal {seal}: {events} events up to checkpoint {checkpoint} are in {file}"
    _run(lambda: write_archive(AdminClient(url, credentials), file, before_days), text, as_json)


def prune(
    file: Annotated[Path, typer.Argument(help="The archive of the newest seal, which contains all that is deleted.")],
    url: Annotated[str, typer.Option(help="The gateway, or admin.")] = "http://127.0.0.1:8080",
    credentials: Annotated[Path, typer.Option(help="admin-client.json of an ADMIN.")] = CREDENTIALS,
    as_json: AsJson = False,
) -> None:
    """Delete from PostgreSQL the events below the newest seal, after checking that FILE is the archive of that seal."""
    from ..audit_archive import AdminClient, prune_sealed

    text = "{deleted} rows below seal {seal} were deleted; keep {file}"
    _run(lambda: prune_sealed(AdminClient(url, credentials), file), text, as_json)


def _run(work: Callable[[], dict[str, Any]], text: str, as_json: bool) -> None:
    """`text` shows the result to people."""
    import http.client
    import json

    try:
        done = work()
    except CommandError as error:
        raise refuse(error, as_json) from None
    except (OSError, http.client.HTTPException, json.JSONDecodeError) as error:
        raise refuse(CommandError(f"{error!r}; run the command again"), as_json) from None
    Output(as_json).item(done, printable(text.format_map(done)))


if IN_REPOSITORY:
    for name, function in (("verify", verify), ("archive", archive), ("prune", prune)):
        commands.command(name)(function)
