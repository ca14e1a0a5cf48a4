"""`get`: downloads files."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..command import TRANSFER_RETRY_FOR_S, Session, client_command
from ..errors import ClosedPipe, CommandError, ExitCode, UsageError
from ..output import printable, size_text

if TYPE_CHECKING:
    from artstore_client import FileRecord

    from ..transfers import Transfers

AT_ONCE = 4
STDOUT = "-"
HASHED_BYTES = 1 << 20
AVOIDED_BEGINNINGS = (".", "-", "~")
"""A name that begins so would be a hidden file, an option or a home folder to the next command."""


def add_to(app: typer.Typer) -> None:
    client_command(app, "get", retry_for_s=TRANSFER_RETRY_FOR_S)(get)


async def get(
    session: Session,
    file_ids: Annotated[list[str], typer.Argument(metavar="ID…", help="file_ids.")],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="PATH|-", help="A file, a folder, or - for standard output.")
    ] = ".",
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace files that exist.")] = False,
    at_once: Annotated[int, typer.Option("--jobs", "-j", min=1, max=16, help="Transfers at once.")] = AT_ONCE,
) -> int:
    """Download files, by default into this folder. An interrupted download continues when the command is repeated."""
    from ..transfers import Bars, Job, Transfers

    wanted = list(dict.fromkeys(file_ids))
    if output == STDOUT:
        return await _to_stdout(session, wanted)
    target = Path(output)
    into_folder = target.is_dir() or output.endswith(os.sep)
    if into_folder and not target.is_dir():
        raise CommandError(f"the folder {output} does not exist", code="file_error", hint=f"make it: mkdir -p {output}")
    if not into_folder and len(wanted) > 1:
        raise UsageError(f"{output} is not a folder, and there are several files", "give a folder as -o")
    if not into_folder and not target.absolute().parent.is_dir():
        raise CommandError(f"the folder of {output} does not exist", code="file_error")
    with Bars(session.out, None, "") as bars:
        transfers = Transfers(session.out, bars)
        names = _Names()
        jobs = [
            Job(one, partial(_get_one, session, one, target, names if into_folder else None, force, transfers), True)
            for one in wanted
        ]
        return await transfers.run(jobs, at_once)


class _Names:
    """The names that this command has given in the target folder. Two files of one name get two names."""

    def __init__(self) -> None:
        self._taken: dict[str, str] = {}

    def choose(self, record: FileRecord) -> str:
        name = local_name(record.filename)
        if self._taken.setdefault(name.casefold(), record.file_id) != record.file_id:
            stem, suffix = os.path.splitext(name)
            name = local_name(f"{stem[:150]}-{record.file_id}{suffix}")
            self._taken[name.casefold()] = record.file_id
        return name


def local_name(name: str) -> str:
    """A name that stays in its folder and means nothing special there."""
    from artstore_client import safe_name

    safe = safe_name(name)
    return safe_name(f"_{safe}") if safe.startswith(AVOIDED_BEGINNINGS) else safe


async def _to_stdout(session: Session, file_ids: Sequence[str]) -> int:
    if len(file_ids) > 1:
        raise UsageError("-o - is for one file")
    if session.out.as_json:
        raise UsageError("--json and -o - both need standard output")
    try:
        async with session.store.open(file_ids[0]) as content:
            async for chunk in content:
                sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
    except BrokenPipeError:
        session.out.silence()
        raise ClosedPipe from None
    return ExitCode.DONE


async def _get_one(
    session: Session, file_id: str, target: Path, names: _Names | None, force: bool, transfers: Transfers
) -> None:
    import asyncio

    record = await session.store.info(file_id)
    path = target / names.choose(record) if names else target
    if os.path.lexists(path):
        if await asyncio.to_thread(_is_same, path, record):
            return _show(session, record, path)
        if not force:
            raise CommandError(
                f"{path} exists with other content",
                code="exists",
                hint="replace it with --force, or choose another place with -o",
                exit_code=ExitCode.CONFLICT,
            )
    with transfers.bars.bar(path.name, record.size_bytes) as bar:
        try:
            await session.store.download(file_id, path, progress=bar.shown)
        except OSError as error:
            error.filename = error.filename or str(path)  # a failed write does not know its file
            raise
    return _show(session, record, path)


def _show(session: Session, record: FileRecord, path: Path) -> None:
    shown = f"{record.file_id}\t{printable(path)}"
    if session.out.on_terminal:
        shown = f"{record.file_id}  {size_text(record.size_bytes):>10}  {printable(path)}"
    session.out.item({"path": str(path), "file": record.to_json()}, shown)


def _is_same(path: Path, record: FileRecord) -> bool:
    """True if the file at `path` has the content of the record. A symlink is not followed."""
    import hashlib

    if path.is_symlink() or not path.is_file() or path.stat().st_size != record.size_bytes:
        return False
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(HASHED_BYTES):
            digest.update(block)
    return digest.hexdigest() == record.sha256
