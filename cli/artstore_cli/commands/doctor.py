"""`doctor`: checks a running system against what production needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..command import Data, Profile, plain_command
from ..errors import ExitCode, UsageError
from ..output import Column, Output, plural


def add_to(app: typer.Typer) -> None:
    plain_command(app, "doctor")(examine)


def examine(
    out: Output,
    services: Annotated[
        list[str] | None,
        typer.Option(
            "--service",
            metavar="NAME=URL",
            help="A service's own address, for its metrics and clock. Known for a local system.",
        ),
    ] = None,
    backups: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder of `artstore backup`.")] = None,
    data: Data = None,
    profile: Profile = None,
) -> int:
    """Check a running system against what production needs, as an administrator.

    Each check passes, warns or fails, with the remedy. Exit code 1 when one fails.
    """
    from dataclasses import asdict

    from ..connection import find_connection
    from ..data_folder import DataFolder
    from ..doctor.checks import examine as findings_of
    from ..doctor.finding import Verdict
    from ..doctor.system import Examined, addresses_of

    connection = find_connection(data, profile)
    folder = DataFolder(connection.folder) if connection.folder is not None else None
    given = dict(_parse(text) for text in services or ())
    known = given or (addresses_of(folder) if folder is not None else {})
    found: list[dict[str, Any]] = []
    for finding in findings_of(Examined(connection, known, folder, backups)):
        found.append(asdict(finding))
        if not out.as_json:
            out.line(f"{finding.verdict:<4}  {finding.check:<14}  {finding.detail}")
            if finding.remedy:
                out.line(f"{'':22}{finding.remedy}")
    if out.as_json:
        out.table(found, [Column(name, name) for name in ("check", "verdict", "detail", "remedy")])
    counts = {verdict: sum(one["verdict"] == verdict for one in found) for verdict in Verdict}
    out.note(f"{counts[Verdict.PASS]} passed, {plural(counts[Verdict.WARN], 'warning')}, {counts[Verdict.FAIL]} failed")
    return ExitCode.FAILED if counts[Verdict.FAIL] else ExitCode.DONE


def _parse(text: str) -> tuple[str, str]:
    name, equals, url = text.partition("=")
    if not equals or not url.startswith(("http://", "https://")):
        raise UsageError(f"--service {text} is not NAME=URL", "as in --service admin=http://10.0.0.1:8000")
    return name, url.rstrip("/")
