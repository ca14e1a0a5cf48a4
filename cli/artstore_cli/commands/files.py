"""Find files and change their attributes: `ls`, `search`, `info`, `rm`, `tag`, `link`, `changes`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

import typer

from ..command import Session, client_command
from ..errors import UsageError
from ..lists import DEFAULT_LIMIT, Limit, one_more, show_list
from ..output import Column, printable, size_text, time_text
from ..values import parse_duration, parse_pairs, parse_size, parse_time

MAX_TAG_ATTEMPTS = 4
"""Another client may change the file between reading and writing it."""

FILE_COLUMNS = (
    Column("ID", "file_id"),
    Column("SIZE", "size_bytes", size_text, right=True),
    Column("CREATED", "created_at", time_text),
    Column("NAME", "filename", elastic=True),
    Column("TAGS", "tags", elastic=True),
)
CHANGE_COLUMNS = (
    Column("TIME", "at", time_text),
    Column("CHANGE", "change"),
    Column("ID", "file_id"),
    Column("REVISION", "revision", right=True),
    Column("NAME", "filename", elastic=True),
)
HUMAN_DETAILS = {"size_bytes": lambda size: f"{size_text(size)} ({size} bytes)" if size >= 1024 else size_text(size)}

FileId = Annotated[str, typer.Argument(metavar="ID", help="The file_id.")]
FileIds = Annotated[list[str], typer.Argument(metavar="ID…", help="file_ids.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="Only files with this tag; repeat it for several.")]
Name = Annotated[str | None, typer.Option("--name", help="Only files whose name contains this text.")]
Type = Annotated[str | None, typer.Option("--type", help="Only this content type, as application/pdf.")]
Owner = Annotated[str | None, typer.Option("--owner", help="Only files of this client_id.")]
Metadata = Annotated[
    list[str] | None, typer.Option("--metadata", metavar="K=V", help="Only files with this value under this key.")
]
From = Annotated[str | None, typer.Option("--from", metavar="TIME", help="Created at or after: a date, or RFC 3339.")]
To = Annotated[str | None, typer.Option("--to", metavar="TIME", help="Created before this time.")]
MinSize = Annotated[str | None, typer.Option("--min-size", metavar="SIZE", help="At least as large, as 10MiB.")]
MaxSize = Annotated[str | None, typer.Option("--max-size", metavar="SIZE", help="At most as large.")]
Sort = Annotated[
    str | None,
    typer.Option("--sort", help="created_at, updated_at, filename or size_bytes; -created_at and so on: descending."),
]


def add_to(app: typer.Typer) -> None:
    client_command(app, "ls")(ls)
    client_command(app, "search", context_settings={"ignore_unknown_options": True})(search)
    client_command(app, "info")(info)
    client_command(app, "rm")(rm)
    client_command(app, "tag", context_settings={"ignore_unknown_options": True})(tag)
    client_command(app, "link")(link)
    client_command(app, "changes")(changes)


async def ls(
    session: Session,
    tags: Tags = None,
    name: Name = None,
    content_type: Type = None,
    owner: Owner = None,
    metadata: Metadata = None,
    created_from: From = None,
    created_to: To = None,
    size_min: MinSize = None,
    size_max: MaxSize = None,
    sort: Sort = None,
    limit: Limit = DEFAULT_LIMIT,
) -> None:
    """List files, newest first."""
    filters = _filters(
        tags, name, content_type, owner, metadata, created_from, created_to, size_min, size_max, sort, limit
    )
    await show_list(session.out, session.store.files(**filters), FILE_COLUMNS, limit)


async def search(
    session: Session,
    words: Annotated[list[str], typer.Argument(metavar="WORDS…", help="""Words; '"a phrase"'; -without.""")],
    tags: Tags = None,
    name: Name = None,
    content_type: Type = None,
    owner: Owner = None,
    metadata: Metadata = None,
    created_from: From = None,
    created_to: To = None,
    size_min: MinSize = None,
    size_max: MaxSize = None,
    sort: Sort = None,
    limit: Limit = DEFAULT_LIMIT,
) -> None:
    """Find files by words in their names, tags and metadata, in Russian and English. The last word may be incomplete."""
    filters = _filters(
        tags, name, content_type, owner, metadata, created_from, created_to, size_min, size_max, sort, limit
    )
    await show_list(session.out, session.store.files(q=" ".join(words), **filters), FILE_COLUMNS, limit)


async def info(session: Session, file_id: FileId) -> None:
    """Show all attributes of a file."""
    record = await session.store.info(file_id)
    session.out.details(record.to_json(), HUMAN_DETAILS)


async def rm(session: Session, file_ids: FileIds, yes: Yes = False) -> int:
    """Delete temporary files. Permanent files cannot be deleted."""
    from ..failures import Failure, describe, exit_code_of

    out = session.out
    what = printable(file_ids[0]) if len(file_ids) == 1 else f"{len(file_ids)} files"
    out.confirm(f"Delete {what} for ever?", yes)
    failures = list[Failure]()
    for file_id in file_ids:
        try:
            await session.store.delete(file_id)
        except Exception as error:
            failures.append(describe(error).about(file_id))
            out.error(failures[-1].shown())
            if failures[-1].stops_all:
                break
        else:
            out.item({"file_id": file_id, "deleted": True}, f"deleted {printable(file_id)}")
    return exit_code_of(failures)


async def tag(
    session: Session,
    file_id: FileId,
    changes: Annotated[list[str], typer.Argument(metavar="+TAG|-TAG…", help="+a adds the tag a, -b removes b.")],
) -> None:
    """Add and remove tags of a temporary file."""
    from artstore_client import RevisionMismatch

    wrong = [one for one in changes if one[:1] not in ("+", "-") or len(one) < 2]
    if wrong:
        raise UsageError(f"{wrong[0]!r} neither adds nor removes a tag", "write +TAG or -TAG")
    for attempt in range(1, MAX_TAG_ATTEMPTS + 1):
        record = await session.store.info(file_id)
        wanted = change_tags(record.tags, changes)
        if wanted == [*record.tags]:
            break
        try:
            record = await session.store.update(file_id, revision=record.revision, tags=wanted)
            break
        except RevisionMismatch:
            if attempt == MAX_TAG_ATTEMPTS:
                raise
    session.out.item(record.to_json(), f"{printable(file_id)}  {printable(', '.join(record.tags))}")


def change_tags(tags: tuple[str, ...], changes: list[str]) -> list[str]:
    """The order stays; what is added comes last."""
    wanted = dict.fromkeys(tags)
    for change in changes:
        if change.startswith("+"):
            wanted.setdefault(change[1:])
        else:
            wanted.pop(change[1:], None)
    return [*wanted]


async def link(
    session: Session,
    file_id: FileId,
    ttl: Annotated[str, typer.Option(help="How long it works: 90s, 30m, 12h, 7d (the longest).")] = "1h",
    inline: Annotated[bool, typer.Option("--inline", help="Show the file in a browser instead of saving it.")] = False,
) -> None:
    """Make a URL that reads one file without a login until it expires. Everyone who has it can read the file."""
    disposition = "inline" if inline else "attachment"
    made = await session.store.link(file_id, ttl_s=parse_duration(ttl), disposition=disposition)
    session.out.item(made.to_json(), printable(made.url))
    if session.out.on_terminal:
        session.out.note(f"works until {time_text(made.expires_at.isoformat())}")


async def changes(
    session: Session,
    since: Annotated[str | None, typer.Option(help="Begin after this cursor (`cursor` of --json).")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for further changes, until Ctrl-C.")] = False,
) -> None:
    """List what was created, updated and deleted in the last seven days, oldest first."""
    out = session.out
    feed = session.store.changes(since, wait_s=30 if follow else 0)
    header = True
    async for change in feed:
        item = change.to_json()
        shown = {**item, "filename": change.file.filename if change.file else ""}
        out.table([{**item, "cursor": feed.cursor} if out.as_json else shown], CHANGE_COLUMNS, header)
        header = False


def _filters(
    tags: list[str] | None,
    name: str | None,
    content_type: str | None,
    owner: str | None,
    metadata: list[str] | None,
    created_from: str | None,
    created_to: str | None,
    size_min: str | None,
    size_max: str | None,
    sort: str | None,
    limit: int,
) -> dict[str, Any]:
    """The arguments of Client.files. Raises UsageError."""
    bounds: Mapping[str, datetime | int | None] = {
        "created_from": parse_time("--from", created_from),
        "created_to": parse_time("--to", created_to),
        "size_min": parse_size("--min-size", size_min),
        "size_max": parse_size("--max-size", size_max),
    }
    return {
        "tags": tags or (),
        "filename": name,
        "content_type": content_type,
        "owner": owner,
        "metadata": parse_pairs("--metadata", metadata or ()),
        "sort": sort,
        "limit": one_more(limit),
        **bounds,
    }
