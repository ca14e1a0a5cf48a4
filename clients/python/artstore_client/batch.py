"""Many small files in one request: each is as durable as a single upload, at about half its cost."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from .errors import ArtStoreError, InvalidAnswer, from_problem
from .records import FileRecord
from .sources import Content, FileSource, StreamSource, open_source
from .transport import Call, Transport, compact_json
from .upload import NewFile, check_stored, digest_header, new_key

MAX_FILES = 200
"""Files in one request. The service takes 1 000; fewer keep what a broken connection repeats small."""
MAX_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class Upload(NewFile):
    """A file of a batch: a path, bytes, or a file that can be read again."""

    content: Content


Stored = FileRecord | ArtStoreError


@dataclass
class _Part:
    number: int
    source: FileSource
    new: NewFile
    hasher: hashlib._Hash


async def upload_batch(
    transport: Transport, uploads: Sequence[Upload], idempotency_key: str | None = None
) -> list[Stored]:
    """The outcomes in the order of `uploads`. Raises ArtStoreError when a request fails as a whole: none of its files is
    stored then, those of the requests before it are."""
    outcomes: dict[int, Stored] = {}
    waiting = list(enumerate(uploads))
    patience = transport.patience()
    while waiting:
        async with AsyncExitStack() as opened:
            group = await _open_group(opened, waiting)
            results = await _send_group(transport, group, idempotency_key or new_key())
        idempotency_key = None
        del waiting[: len(group)]
        outcomes.update(results)
        refused = [one for one in results.values() if isinstance(one, ArtStoreError) and one.status in (429, 502, 503)]
        if refused:
            try:
                await patience.wait(max(refused, key=lambda one: one.retry_after or 0))
            except ArtStoreError:
                continue
            waiting = [(number, uploads[number]) for number, one in results.items() if one in refused] + waiting
        else:
            patience.succeeded()
    return [outcomes[number] for number in range(len(uploads))]


async def _open_group(opened: AsyncExitStack, waiting: Sequence[tuple[int, Upload]]) -> list[_Part]:
    """The next files that fit into one request, hashed."""
    group, size = list[_Part](), 0
    for number, upload in waiting[:MAX_FILES]:
        source = await opened.enter_async_context(open_source(upload.content))
        if isinstance(source, StreamSource):
            raise ValueError("a batch takes paths, bytes and files that can be read again: send a stream with upload()")
        size += source.size
        if group and size > MAX_BYTES:
            break
        hasher = hashlib.sha256()
        await source.hash(0, source.size, hasher)
        group.append(_Part(number, source, upload, hasher))
    return group


async def _send_group(transport: Transport, group: Sequence[_Part], key: str) -> dict[int, Stored]:
    boundary = secrets.token_hex(16)
    heads = [_head(boundary, part) for part in group]
    end = f"--{boundary}--\r\n".encode()
    length = sum(len(head) + part.source.size + 2 for head, part in zip(heads, group, strict=True)) + len(end)

    async def body() -> AsyncIterator[bytes]:
        for head, part in zip(heads, group, strict=True):
            yield head
            async for piece in part.source.pieces(0, part.source.size):
                yield piece
            yield b"\r\n"
        yield end

    headers = {
        "content-type": f"multipart/form-data; boundary={boundary}",
        "content-length": str(length),
        "idempotency-key": key,
    }
    answer = await transport.json(Call("POST", "/api/files/batch", True, headers=headers, content=body))
    return dict(_outcomes(group, answer))


def _head(boundary: str, part: _Part) -> bytes:
    name = part.new.filename or part.source.name
    attributes: dict[str, Any] = {name: json.loads(text) for name, text in part.new.fields().items() if _is_json(name)}
    attributes |= {"filename": name} if name else {}
    attributes |= {"retention": part.new.retention} if part.new.retention != "permanent" else {}
    lines = [
        f"--{boundary}",
        'Content-Disposition: form-data; name="attributes"',
        "",
        compact_json(attributes),
        f"--{boundary}",
        'Content-Disposition: form-data; name="file"',
        f"Content-Type: {part.new.content_type or 'application/octet-stream'}",
        f"Repr-Digest: {digest_header(part.hasher.digest())}",
        "",
        "",
    ]
    return "\r\n".join(lines).encode()


def _is_json(name: str) -> bool:
    return name in ("tags", "metadata", "ttl_days")


def _outcomes(group: Sequence[_Part], answer: Any) -> Iterator[tuple[int, Stored]]:
    try:
        results = answer["results"]
        for part, result in zip(group, results, strict=True):
            if result["status"] == 201:
                record = FileRecord.from_json(result["file"])
                check_stored(record, part.hasher)
                yield part.number, record
            else:
                yield part.number, from_problem(result["problem"], result["status"])
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidAnswer("the answer to a batch cannot be read") from error
