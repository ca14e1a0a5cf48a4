"""`put`: stores files and folders."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..command import TRANSFER_RETRY_FOR_S, Session, client_command
from ..errors import ExitCode, UsageError
from ..output import plural, printable, size_text
from ..values import parse_pairs

if TYPE_CHECKING:
    from artstore_client import FileRecord

    from ..put_journal import PutJournal
    from ..put_sources import LocalFile
    from ..transfers import Job, Transfers

AT_ONCE = 4
SMALL_BYTES = 1 << 20
"""Files up to this size travel many in one request, which is faster and counts once against the rate limit."""
GROUP_BYTES = 16 << 20
GROUP_FILES = 200
RESUMABLE_BYTES = 64 << 20
READ_BYTES = 256 * 1024
PATH_KEY = "path"
"""The key of the metadata that holds the path below a folder that was put."""


def add_to(app: typer.Typer) -> None:
    client_command(app, "put", retry_for_s=TRANSFER_RETRY_FOR_S)(put)


async def put(
    session: Session,
    sources: Annotated[
        list[str],
        typer.Argument(metavar="FILE|DIR|-…", help="Files; folders with all below them; - is standard input."),
    ],
    name: Annotated[str | None, typer.Option(help="The name to store one file under, instead of its own.")] = None,
    tags: Annotated[list[str] | None, typer.Option("--tag", help="Give the files this tag; repeat it.")] = None,
    metadata: Annotated[
        list[str] | None, typer.Option("--metadata", metavar="K=V", help="Give the files this value; repeat it.")
    ] = None,
    content_type: Annotated[str | None, typer.Option("--type", help="The content type, instead of guessing.")] = None,
    temporary: Annotated[
        bool, typer.Option("--temporary", help="Files that can be changed and deleted, and expire.")
    ] = False,
    ttl_days: Annotated[
        int | None, typer.Option(min=1, max=365, help="With --temporary: days until they expire.  [default: 30]")
    ] = None,
    at_once: Annotated[int, typer.Option("--jobs", "-j", min=1, max=16, help="Transfers at once.")] = AT_ONCE,
    again: Annotated[
        bool, typer.Option("--again", help="Store everything anew, also what an interrupted put has stored.")
    ] = False,
) -> int:
    """Store files. An interrupted put continues when the same command is repeated."""
    from ..put_journal import PutJournal
    from ..put_sources import STDIN, check_sources

    check_sources(sources, name)
    if ttl_days is not None and not temporary:
        raise UsageError("--ttl-days needs --temporary; permanent files never expire")
    attributes: dict[str, Any] = {
        "tags": tags or [],
        "metadata": parse_pairs("--metadata", metadata or ()),
        "retention": "temporary" if temporary else "permanent",
        "ttl_days": ttl_days,
        "content_type": content_type,
    }
    if sources == [STDIN]:
        return await _put_stdin(session, name, attributes)
    places = [os.path.abspath(source) for source in sources]
    command = [session.connection.url, session.connection.client_id, places, name, attributes]
    with PutJournal.of(command) as journal:
        if again:
            journal.forget()
        return await _Put(session, journal, name, attributes).run(sources, at_once)


async def _put_stdin(session: Session, name: str | None, attributes: dict[str, Any]) -> int:
    async def pieces() -> AsyncIterator[bytes]:
        import asyncio

        while piece := await asyncio.to_thread(sys.stdin.buffer.read, READ_BYTES):
            yield piece

    record = await session.store.upload(pieces(), filename=name, **attributes)
    session.out.item({"path": "-", "file": record.to_json()}, _stored_line(session, record.to_json(), "-"))
    return ExitCode.DONE


def _stored_line(session: Session, record: dict[str, Any], path: str) -> str:
    if session.out.on_terminal:
        return f"{record['file_id']}  {size_text(record['size_bytes']):>10}  {printable(path)}"
    return f"{record['file_id']}\t{record['size_bytes']}\t{printable(path)}"


@dataclass
class _Put:
    """One `put` of files and folders."""

    session: Session
    journal: PutJournal
    name: str | None
    attributes: dict[str, Any]
    stored: int = 0
    stored_bytes: int = 0
    before: int = 0
    skipped: int = 0

    async def run(self, sources: Sequence[str], at_once: int) -> int:
        from ..failures import describe
        from ..put_sources import LocalFile, Skipped, find_files
        from ..transfers import Bars, Transfers

        out = self.session.out
        files, failures = list[LocalFile](), list[Any]()
        for found in find_files(sources):
            if isinstance(found, Skipped):
                self.skipped += 1
                out.warning(f"{found.path}: skipped, {found.reason}", code="skipped")
            elif isinstance(found, LocalFile):
                files.append(found)
            else:
                failures.append(describe(found.error).about(found.path))
        with Bars(out, sum(one.size for one in files), f"{len(files)} files") as bars:
            transfers = Transfers(out, bars)
            for failure in failures:
                transfers.failed(failure)
            code = await transfers.run(self._jobs(self._not_stored(files, bars), transfers), at_once)
        return self._finish(transfers, code, len(files) + len(failures))

    def _not_stored(self, files: Sequence[LocalFile], bars: Any) -> Iterator[LocalFile]:
        """Shows what an earlier run of this command has stored, and yields the rest."""
        for one in files:
            record = self.journal.find(os.path.abspath(one.path), one.size, one.mtime_ns)
            if record is None:
                yield one
            else:
                self.before += 1
                bars.skip(one.size)
                self._show(one, record)

    def _jobs(self, files: Iterator[LocalFile], transfers: Transfers) -> Iterator[Job]:
        """Small files in groups, the others one by one, in the order of the files."""
        from ..transfers import Job

        group, size = list[Any](), 0
        for one in files:
            if one.size > SMALL_BYTES:
                resumable = one.size > RESUMABLE_BYTES
                yield Job(one.path, partial(self._put_one, one, transfers), resumable)
                continue
            if group and (size + one.size > GROUP_BYTES or len(group) == GROUP_FILES):
                yield self._group(group, transfers)
                group, size = [], 0
            group.append(one)
            size += one.size
        if group:
            yield self._group(group, transfers)

    def _group(self, group: list[LocalFile], transfers: Transfers) -> Job:
        from ..transfers import Job

        if len(group) == 1:
            return Job(group[0].path, partial(self._put_one, group[0], transfers), resumable=False)
        return Job(f"{len(group)} files", partial(self._put_group, group, transfers), False, len(group))

    async def _put_one(self, one: LocalFile, transfers: Transfers) -> None:
        state = self.journal.state_file(os.path.abspath(one.path)) if one.size > RESUMABLE_BYTES else None
        with transfers.bars.bar(one.path, one.size) as bar:
            record = await self.session.store.upload(
                one.path, filename=self.name, state_file=state, progress=bar.shown, **self._attributes_of(one)
            )
        self._add(one, record)

    async def _put_group(self, group: list[LocalFile], transfers: Transfers) -> None:
        """A group that cannot be sent as a whole (one of its files vanished, say) is sent file by file."""
        from artstore_client import ArtStoreError, Upload

        from ..failures import describe

        size = sum(one.size for one in group)
        with transfers.bars.bar(f"{len(group)} files", size) as bar:
            uploads = [Upload(content=one.path, filename=self.name, **self._attributes_of(one)) for one in group]
            try:
                outcomes = await self.session.store.upload_batch(uploads)
            except (OSError, ValueError):
                outcomes = None
            except ArtStoreError as error:
                failure = describe(error)
                if failure.stops_all or error.status in (429, 502, 503, 507):
                    transfers.failed(failure.about(f"{group[0].path} and {len(group) - 1} more"))
                    return
                outcomes = None
            if outcomes is not None:
                bar.shown(size, size)
        for number, one in enumerate(group):
            try:
                if outcomes is None:
                    await self._put_one(one, transfers)
                    continue
                outcome = outcomes[number]
                if isinstance(outcome, ArtStoreError):
                    raise outcome
                self._add(one, outcome)
            except Exception as error:
                transfers.failed(describe(error).about(one.path))

    def _attributes_of(self, one: LocalFile) -> dict[str, Any]:
        if not one.below:
            return self.attributes
        return {**self.attributes, "metadata": {PATH_KEY: one.below, **self.attributes["metadata"]}}

    def _add(self, one: LocalFile, record: FileRecord) -> None:
        kept = record.to_json()
        self.journal.add(os.path.abspath(one.path), one.size, one.mtime_ns, kept)
        self.stored += 1
        self.stored_bytes += record.size_bytes
        self._show(one, kept)

    def _show(self, one: LocalFile, record: dict[str, Any]) -> None:
        self.session.out.item({"path": one.path, "file": record}, _stored_line(self.session, record, one.path))

    def _finish(self, transfers: Transfers, code: ExitCode, total: int) -> int:
        out = self.session.out
        if total > 1 or self.skipped:
            counts = [f"{plural(self.stored, 'file')} stored ({size_text(self.stored_bytes)})"]
            for number, what in (
                (self.before, "stored before"),
                (self.skipped, "skipped"),
                (len(transfers.failures), "failed"),
                (transfers.untried, "not tried"),
            ):
                counts += [f"{number} {what}"] if number else []
            out.note(", ".join(counts))
        if code == ExitCode.DONE:
            self.journal.forget()
        elif total > 1 and not transfers.interrupted:
            out.note("the same command again stores only what is missing")
        return code
