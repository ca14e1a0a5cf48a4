"""`put`: stores files and folders."""

from __future__ import annotations

import json
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
    from artstore_client import ArtStoreError, FileRecord

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
MAX_ATTRIBUTES_CHARS = 3000
"""In the spelling of JSON that is as long as that of a query string, whose line is limited to 8 KiB."""
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
            journal.begin_anew()
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
            code = await transfers.run(self._jobs(files, transfers), at_once)
        return self._finish(transfers, code, len(files) + len(failures))

    def _jobs(self, files: Sequence[LocalFile], transfers: Transfers) -> Iterator[Job]:
        """Small files in groups, the others one by one, without those that an earlier run has stored. A later run of the
        command makes the same groups."""
        group, size = list[Any](), 0
        for one in files:
            if one.size > SMALL_BYTES:
                yield from self._job([one], transfers)
                continue
            if group and (size + one.size > GROUP_BYTES or len(group) == GROUP_FILES):
                yield from self._job(group, transfers)
                group, size = [], 0
            group.append(one)
            size += one.size
        yield from self._job(group, transfers)

    def _job(self, group: Sequence[LocalFile], transfers: Transfers) -> Iterator[Job]:
        from ..transfers import Job

        left = [one for one in group if not self._was_stored(one, transfers)]
        if len(left) == 1:
            yield Job(left[0].path, partial(self._put_one, left[0], transfers), left[0].size > RESUMABLE_BYTES)
        elif left:
            yield Job(f"{len(left)} files", partial(self._put_group, left, transfers), False, len(left))

    def _was_stored(self, one: LocalFile, transfers: Transfers) -> bool:
        record = self.journal.find(os.path.abspath(one.path), one.size, one.mtime_ns)
        if record is None:
            return False
        self.before += 1
        transfers.bars.skip(one.size)
        self._show(one, record)
        return True

    async def _put_one(self, one: LocalFile, transfers: Transfers) -> None:
        resumed: dict[str, Any] = {"idempotency_key": self._key([one])}
        if one.size > RESUMABLE_BYTES or not self._fits(one):
            resumed = {"state_file": self.journal.state_file(os.path.abspath(one.path))}
        with transfers.bars.bar(one.path, one.size) as bar:
            record = await self.session.store.upload(
                one.path, filename=self.name, progress=bar.shown, **resumed, **self._attributes_of(one)
            )
        self._add([(one, record)])

    def _key(self, files: Sequence[LocalFile]) -> str:
        return self.journal.key([(os.path.abspath(one.path), one.size, one.mtime_ns) for one in files])

    def _fits(self, one: LocalFile) -> bool:
        """True if one request can carry the attributes, in its query string."""
        form = (self.attributes["content_type"] or "").lower().startswith("multipart/")
        return not form and len(json.dumps([self.name, self._attributes_of(one)])) <= MAX_ATTRIBUTES_CHARS

    async def _put_group(self, group: list[LocalFile], transfers: Transfers) -> None:
        """A group that cannot be sent as a whole (one of its files vanished, say) is sent file by file."""
        from artstore_client import ArtStoreError, FileRecord, Upload

        from ..failures import describe

        size = sum(one.size for one in group)
        with transfers.bars.bar(f"{len(group)} files", size) as bar:
            uploads = [Upload(content=one.path, filename=self.name, **self._attributes_of(one)) for one in group]
            outcomes: Sequence[FileRecord | ArtStoreError]
            try:
                outcomes = await self.session.store.upload_batch(uploads, idempotency_key=self._key(group))
            except (OSError, ValueError):
                outcomes = []
            except ArtStoreError as error:
                outcomes = [error] * len(group)
            bar.shown(size if outcomes else 0, size)
        if not outcomes:
            return await self._put_each(group, transfers)
        first = outcomes[0]
        if isinstance(first, ArtStoreError) and all(outcome is first for outcome in outcomes):
            transfers.untried += len(group) - 1
            return transfers.failed(describe(first).about(f"{group[0].path} and {len(group) - 1} more"))
        done = [(one, record) for one, record in zip(group, outcomes, strict=True) if isinstance(record, FileRecord)]
        self._add(done)
        for one, outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, ArtStoreError):
                transfers.failed(describe(outcome).about(one.path))
        return None

    async def _put_each(self, group: Sequence[LocalFile], transfers: Transfers) -> None:
        from ..failures import describe

        for one in group:
            try:
                await self._put_one(one, transfers)
            except Exception as error:
                transfers.failed(describe(error).about(one.path))

    def _attributes_of(self, one: LocalFile) -> dict[str, Any]:
        if not one.below:
            return self.attributes
        return {**self.attributes, "metadata": {PATH_KEY: one.below, **self.attributes["metadata"]}}

    def _add(self, stored: Sequence[tuple[LocalFile, FileRecord]]) -> None:
        records = [record.to_json() for _, record in stored]
        self.journal.add(
            [
                (os.path.abspath(one.path), one.size, one.mtime_ns, record)
                for (one, _), record in zip(stored, records, strict=True)
            ]
        )
        for (one, _), record in zip(stored, records, strict=True):
            self.stored += 1
            self.stored_bytes += one.size
            self._show(one, record)

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
            self.journal.remove()
        elif total > 1 and not transfers.interrupted:
            out.note("the same command again stores only what is missing")
        return code
