"""The client: one object for one address, used from any number of tasks of one event loop."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self, Unpack

import httpx

from .admin import Accounts, Audit, Elements, Sagas, parameters
from .batch import Stored, Upload, upload_batch
from .download import Content, download
from .early_answers import see_early_answers
from .errors import InvalidAnswer
from .filters import Filters, filter_parameters
from .pages import Changes, Listing
from .records import FileRecord, Link, Saga
from .resumable import STREAM_PART_BYTES, ResumableUpload, StateFile, upload_id_of, upload_metadata
from .sources import Content as Source
from .sources import FileSource, StreamSource, in_memory, open_source
from .tokens import FetchedTokens, FixedToken, Issued, TokenProvider
from .transport import Call, Transport, json_of
from .upload import NewFile, Progress, check_stored, content_path, file_path, new_key, upload_whole
from .version import VERSION

RESUMABLE_FROM_BYTES = 64 << 20
RETRY_FOR_S = 30.0
IDLE_TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 10.0
SAGA_WAIT_S = 300.0
MAX_CONNECTIONS = 100
MAX_QUERY_CHARS = 4096
"""Longer attributes travel in the header of a resumable upload: a request line has a limit."""


class Client:
    """A store of files behind one address.

        async with Client("https://files.example.org", client_id="…", client_secret="…") as store:
            record = await store.upload("report.pdf", tags=["report"])
            await store.download(record.file_id, "copy.pdf")

    Every method raises ArtStoreError (one class for each error code) when the service refuses, and ConnectionFailed when
    it cannot be reached. Requests are repeated for `retry_for_s` seconds (0: never) after failures that pass, where a
    repeat is safe: reads, and changes of files, which carry an Idempotency-Key. A rate limit slows down instead.
    `idle_timeout_s` bounds the silence of a connection, not the time of a transfer.
    """

    def __init__(
        self,
        address: str,
        *,
        client_id: str | None = None,
        client_secret: str | None = None,
        token: str | TokenProvider | None = None,
        resumable_from_bytes: int = RESUMABLE_FROM_BYTES,
        retry_for_s: float = RETRY_FOR_S,
        idle_timeout_s: float = IDLE_TIMEOUT_S,
        saga_wait_s: float = SAGA_WAIT_S,
        verify: Any = True,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Either client id and secret, or a token, or an object that gives tokens. `verify` and `transport` are those of
        `httpx.AsyncClient`: an `ssl.SSLContext` for a certificate authority of your own, and how requests are sent."""
        url = httpx.URL(address)
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError(f"the address must begin with http:// or https://, as in http://localhost:8080: {address}")
        if (token is None) == (client_id is None or client_secret is None):
            raise ValueError("give client_id and client_secret, or token")
        self.address = str(url).rstrip("/")
        self._resumable_from_bytes = resumable_from_bytes
        self._idle_timeout_s = idle_timeout_s
        http = httpx.AsyncClient(
            base_url=self.address,
            timeout=httpx.Timeout(idle_timeout_s, connect=CONNECT_TIMEOUT_S, pool=None),
            limits=httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS),
            headers={"user-agent": f"artstore-client/{VERSION}"},
            verify=verify,
            transport=transport,
        )
        see_early_answers(http)
        self._transport = Transport(http, retry_for_s)
        self._credentials = {"client_id": client_id, "client_secret": client_secret}
        if isinstance(token, str):
            self._transport.tokens = FixedToken(token)
        else:
            self._transport.tokens = token or FetchedTokens(self._fetch_token)
        self.sagas = Sagas(self._transport, saga_wait_s)
        self.accounts = Accounts(self._transport)
        self.elements = Elements(self._transport, self.sagas)
        self.audit = Audit(self._transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes all connections."""
        if isinstance(self._transport.tokens, FetchedTokens):
            await self._transport.tokens.aclose()
        await self._transport.http.aclose()

    async def token(self) -> str:
        """A valid access token, to check a login, or for requests of your own. Raises Unauthenticated."""
        return await self._transport.tokens.token()

    # Uploads

    async def upload(
        self,
        content: Source,
        *,
        filename: str | None = None,
        tags: Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
        retention: str = "permanent",
        ttl_days: int | None = None,
        content_type: str | None = None,
        file_id: str | None = None,
        progress: Progress | None = None,
        idempotency_key: str | None = None,
        state_file: str | os.PathLike[str] | None = None,
        upload_url: str | None = None,
    ) -> FileRecord:
        """Stores a file; when this returns, it is on disk, and its digest is that of the bytes read here.

        `content` is a path, bytes, a file opened in binary mode (from its position), or an async iterator of bytes. The
        name is that of the path unless `filename` states one; the service guesses the type from it.
        `retention="temporary"` allows changes, and deletes the file after `ttl_days` (1 to 365, default 30).

        More than `resumable_from_bytes`, and streams of more than 32 MiB, are sent as a resumable upload in parts: a
        lost connection costs one part. With `state_file` (of a path) the same call also continues after the end of the
        process; `upload_url` continues the upload of an error's `upload_url`. The whole file goes into one request under
        a `file_id` of your own (a UUID of version 4 or 7) or an `idempotency_key` of your own; then a stream is not
        repeated after a failure.

        Raises InvalidFields, TooLarge, StorageFull, RevisionMismatch (the `file_id` exists), ContentDamaged, OSError.
        """
        new = NewFile(
            filename=filename, tags=tags, metadata=metadata, retention=retention, ttl_days=ttl_days,
            content_type=content_type,
        )  # fmt: skip
        whole = file_id is not None or idempotency_key is not None
        if whole and (state_file is not None or upload_url is not None):
            raise ValueError("a resumable upload has neither file_id nor idempotency_key")
        async with open_source(content) as opened:
            source, first = opened, b""
            if new.filename is None and source.name:
                new = replace(new, filename=source.name)
            if isinstance(source, StreamSource) and not whole:
                first = await source.read(STREAM_PART_BYTES)
                if source.ended:
                    source, first = in_memory(first), b""
            call = _upload_call(new, file_id, idempotency_key)
            fits = isinstance(source, FileSource) and source.size <= self._resumable_from_bytes and _fits(call)
            if whole or (fits and upload_url is None):
                return await upload_whole(self._transport, source, call, progress)
            upload = ResumableUpload(self._transport, source, new, progress, first=first)
            upload.upload_id = upload_id_of(upload_url) if upload_url else ""
            if state_file is not None:
                upload.state = StateFile(Path(state_file), self._identity(source, new))
            stored = await upload.run()
            record = await self.info(stored)
            check_stored(record, upload.hasher)
            return record

    async def upload_batch(self, uploads: Sequence[Upload], *, idempotency_key: str | None = None) -> list[Stored]:
        """Stores many small files in few requests. For each upload, in order: its record, or the error with which it was
        refused. One request takes up to 200 files and 64 MiB, whose files become visible together. An `idempotency_key`
        of your own belongs to the first request: another process can repeat the same call, and nothing is stored twice.
        Raises ArtStoreError when a request fails as a whole: none of its files is stored then, those of the requests
        before it are."""
        return await upload_batch(self._transport, uploads, idempotency_key)

    # Reading

    async def info(self, file_id: str) -> FileRecord:
        """The record of a file. Raises NotFound, Quarantined."""
        return FileRecord.from_json(await self._transport.json(Call("GET", file_path(file_id), True)))

    @asynccontextmanager
    async def open(self, file_id: str, *, range: tuple[int, int | None] | None = None) -> AsyncIterator[Content]:
        """The content of a file as a stream, for `async for chunk in content` and `await content.read()`.

        `range` is (start, stop) in bytes, stop not included, None for the end. Raises NotFound, RangeNotSatisfiable;
        while it is read: ContentDamaged, ContentChanged, ConnectionFailed.
        """
        content = Content(self._transport, content_path(file_id), range)
        try:
            await content.connect()
            yield content
        finally:
            await content.aclose()

    async def download(
        self,
        file_id: str,
        path: str | os.PathLike[str],
        *,
        resume: bool = True,
        progress: Progress | None = None,
    ) -> Path:
        """Writes a file to `path`, or into the folder `path` under its own name; the path that was written.

        The bytes go to a file `….part` beside it, which is renamed when its digest is right, so that `path` is never a
        half file. With `resume` a part that an interrupted download has left is continued. A file at `path` is replaced,
        but not one in a folder: FileExistsError. Raises OSError (a full disk), BlockingIOError (another download writes
        the same part), NotFound, ContentDamaged, ConnectionFailed.
        """
        content = Content(self._transport, content_path(file_id), None)
        try:
            return await download(content, Path(path), resume=resume, progress=progress)
        finally:
            await content.aclose()

    async def link(self, file_id: str, *, ttl_s: int = 3600, disposition: str = "attachment") -> Link:
        """A URL that reads the file without a token for `ttl_s` seconds (at most 7 days). `disposition="inline"` shows
        images, PDF and the like in a browser."""
        asked = {"ttl_s": ttl_s, "disposition": disposition}
        headers = {"idempotency-key": new_key()}
        call = Call("POST", f"{file_path(file_id)}/links", True, headers=headers, json=asked)
        return Link.from_json(await self._transport.json(call))

    def files(self, *, limit: int | None = None, **filters: Unpack[Filters]) -> Listing[FileRecord]:
        """Files that match all filters (see `Filters`), newest first: `async for record in store.files(q="contract")`.

        `limit` ends the list. Raises InvalidFields, and SearchTooSlow while it is read.
        """
        return Listing(self._transport, "/api/files", filter_parameters(filters), FileRecord.from_json, limit)

    async def count(self, **filters: Unpack[Filters]) -> int:
        """The number of files that match all filters."""
        page = await anext(self.files(limit=1, **filters).pages(count=True))
        if page.total is None:
            raise InvalidAnswer("the service did not count")
        return page.total

    def changes(self, since: str | None = None, *, wait_s: int = 30) -> Changes:
        """Every creation, update and deletion, once and in the order of the commits, from `since` (the `cursor` of an
        earlier iterator) or from the oldest that is kept (7 days).

        With `wait_s` (1 to 30) it waits for further changes and never ends; with 0 it ends after the last one. Raises
        CursorExpired: list the files, then follow the changes without `since`.
        """
        return Changes(self._transport, since, min(wait_s, int(self._idle_timeout_s / 2)))

    # Changes

    async def update(
        self,
        file_id: str,
        *,
        revision: int | None = None,
        filename: str | None = None,
        tags: Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        ttl_days: int | None = None,
        retention: Literal["permanent"] | None = None,
        idempotency_key: str | None = None,
    ) -> FileRecord:
        """Changes attributes of a temporary file; those that are None stay. With `revision` only if the file still has
        that revision: RevisionMismatch. `retention="permanent"`, alone, makes the file permanent.

        While the file's element is away the change is queued, and this waits until it is made: StillQueued after
        `saga_wait_s`. Raises ModeForbids for a permanent file.
        """
        asked = {
            "filename": filename,
            "tags": None if tags is None else [*tags],
            "metadata": None if metadata is None else dict(metadata),
            "ttl_days": ttl_days,
            "retention": retention,
        }
        given = {name: value for name, value in asked.items() if value is not None}
        headers = _change_headers(revision, idempotency_key)
        answer = await self._transport.send(Call("PATCH", file_path(file_id), True, headers=headers, json=given))
        if answer.status_code == 202:
            await self._settled(answer)
            return await self.info(file_id)
        return FileRecord.from_json(json_of(answer))

    async def replace(
        self,
        file_id: str,
        content: Source,
        *,
        revision: int | None = None,
        content_type: str | None = None,
        progress: Progress | None = None,
        idempotency_key: str | None = None,
    ) -> FileRecord:
        """Gives a temporary file new content; its attributes stay. Raises as `update`, and Unavailable while its element
        is away. A stream is not repeated after a failure."""
        asked = parameters({"content_type": content_type})
        headers = _change_headers(revision, idempotency_key)
        async with open_source(content) as source:
            call = Call("PUT", content_path(file_id), True, asked, headers)
            return await upload_whole(self._transport, source, call, progress)

    async def delete(
        self, file_id: str, *, revision: int | None = None, wait: bool = True, idempotency_key: str | None = None
    ) -> None:
        """Deletes a temporary file. While its element is away the deletion is queued: with `wait` this waits until it is
        made, as `update` does. Raises NotFound, ModeForbids, RevisionMismatch."""
        headers = _change_headers(revision, idempotency_key)
        answer = await self._transport.send(Call("DELETE", file_path(file_id), True, headers=headers))
        if answer.status_code == 202 and wait:
            await self._settled(answer)

    async def _settled(self, answer: httpx.Response) -> None:
        await self.sagas.wait(Saga.from_json(json_of(answer)).saga_id)

    async def _fetch_token(self) -> Issued:
        call = Call("POST", "/api/auth/token", True, json=self._credentials, authorized=False)
        given = await self._transport.json(call)
        try:
            return Issued(str(given["access_token"]), float(given["expires_in"]))
        except (KeyError, TypeError, ValueError):
            raise InvalidAnswer(f"{self.address} did not answer with a token") from None

    def _identity(self, source: FileSource | StreamSource, new: NewFile) -> dict[str, Any]:
        if not isinstance(source, FileSource) or source.mtime_ns is None:
            raise ValueError("state_file needs a path as content: only a file can be found again by another process")
        return {
            "version": 1, "address": self.address, "size": source.size, "mtime_ns": source.mtime_ns,
            "attributes": upload_metadata(new),
        }  # fmt: skip


def _upload_call(new: NewFile, file_id: str | None, key: str | None) -> Call:
    headers = {"idempotency-key": key or new_key()}
    if new.content_type:
        headers["content-type"] = new.content_type
    asked = [*new.fields().items()]
    if file_id is None:
        return Call("POST", "/api/files/upload", True, asked, headers)
    return Call("PUT", file_path(file_id), True, asked, {**headers, "if-none-match": "*"})


def _fits(call: Call) -> bool:
    """Attributes in a query string, and a type that the service does not take for a form."""
    form = call.headers.get("content-type", "").lower().startswith("multipart/form-data")
    return not form and len(str(httpx.QueryParams([*call.parameters]))) <= MAX_QUERY_CHARS


def _change_headers(revision: int | None, key: str | None) -> dict[str, str]:
    condition = {} if revision is None else {"if-match": f'"{revision}"'}
    return {"idempotency-key": key or new_key(), **condition}
