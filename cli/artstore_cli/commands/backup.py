"""Commands that back up and restore this machine's own system."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import CommandError
from ..output import Output
from .local import DEFAULT_DATA, Data, refuse

DAMAGED = 2
"""Exit code of `backup` when files could not be copied because their bytes are not what they should be."""
Passphrase = Annotated[
    Path | None,
    typer.Option("--keys-passphrase-file", help="Holds the passphrase (12 characters at least) of the keys."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def back_up(
    target: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of the backups, best on another machine.")],
    data: Data = DEFAULT_DATA,
    passphrase_file: Passphrase = None,
    keep: Annotated[
        int | None, typer.Option(min=1, help="When no file is damaged, remove all backups but the last N.")
    ] = None,
    s3: Annotated[bool, typer.Option(" /--no-s3", help="Do not copy files that are in S3: name their bucket.")] = True,
    list_only: Annotated[
        bool, typer.Option("--list", help="Print only what there is to copy, for another backup program.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Back up PostgreSQL and the elements' files, and the keys if they get a passphrase. The system may run.

    Files that the last backup in DIR has are hard links to it. Exit code 2: files are damaged and were not copied.
    """
    import msgspec

    from ..backup import backup, keys, local
    from ..data_folder import DataFolder

    folder = DataFolder(data.absolute())
    try:
        if list_only:
            _show_list(list(local.what_to_copy(folder)), as_json)
            return
        passphrase = keys.read_passphrase(passphrase_file) if passphrase_file is not None else None
        wanted = backup.Wanted(passphrase, keep, s3)
        made, manifest = backup.back_up(local.LocalSystem(folder), target.absolute(), wanted, say)
    except CommandError as error:
        raise refuse(error, as_json) from None
    if as_json:
        print(msgspec.json.encode({"backup": str(made), **msgspec.to_builtins(manifest)}).decode())
    else:
        print("\n".join(backup.lines_of(made, manifest)))
    raise typer.Exit(DAMAGED if manifest.damaged else 0)


def restore(
    source: Annotated[
        Path, typer.Argument(metavar="DIR", help="A backup, or the folder of backups: then its last one.")
    ],
    data: Data = DEFAULT_DATA,
    only: Annotated[
        list[str] | None, typer.Option(metavar="PART", help="Only this part: postgres, keys, or an element's id.")
    ] = None,
    passphrase_file: Passphrase = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Put a backup back into the data folder of a stopped system. The replaced parts are kept in DATA/replaced-…/."""
    import msgspec

    from ..backup import keys, local
    from ..backup import restore as restoring
    from ..data_folder import DataFolder

    folder = DataFolder(data.absolute())
    try:
        passphrase = keys.read_passphrase(passphrase_file) if passphrase_file is not None else None
        backup, manifest = restoring.find_backup(source.absolute())
        parts = restoring.parts_of(manifest, only or [], with_keys=passphrase is not None)
        say(f"{backup}, made at {manifest.began_at}, is restored to {folder.path}: {', '.join(parts)}")
        Output(as_json).confirm("Go on?", yes)
        work = restoring.Restore(local.LocalSystem(folder), backup, manifest, say)
        work.run(parts, passphrase)
    except CommandError as error:
        raise refuse(error, as_json) from None
    if as_json:
        done = {"backup": str(backup), "restored": parts, "replaced": next(iter(work.replaced), None)}
        print(msgspec.json.encode(done).decode())
        return
    for place in work.replaced:
        print(f"what was there is in {place}")
    if work.replaced and {*parts} - {restoring.POSTGRES, restoring.KEYS_PART}:
        print(f"an element that was restored has no file stored since {manifest.began_at}: those are only there")
    print(
        "next: ./artstore up; an element that is then fenced needs `accept-root` (docs/operations/backup-and-restore.md)"
    )


def _show_list(copied: list[tuple[str, str]], as_json: bool) -> None:
    import msgspec

    if as_json:
        print(msgspec.json.encode({"to_copy": [{"what": what, "note": note} for what, note in copied]}).decode())
        return
    for what, note in copied:
        print(f"{what}   # {note}")


def say(text: str) -> None:
    print(text, file=sys.stderr)


def add_to(app: typer.Typer) -> None:
    app.command("backup")(back_up)
    app.command("restore")(restore)
