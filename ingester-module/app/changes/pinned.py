"""Changes are asked for under the one revision that they change, so that a request that arrives late changes nothing.

Without it a request that stuck somewhere, and was queued and made since, could overwrite what came after it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Mapping

from artstore.contracts.files import decode
from artstore.errors import Conflict, RevisionMismatch
from artstore.peers.client import PeerAnswer

from ..core.context import Context
from .holder import Holder, load_revision
from .wish import Wish

MAX_PINS = 16
"""Tries of one change of a file that others change at the same time."""


async def at_one_revision(
    context: Context, holder: Holder, wish: Wish, attempt: Callable[[Mapping[str, str]], Awaitable[PeerAnswer]]
) -> PeerAnswer:
    """`attempt` with the If-Match that pins it, again when the file has moved on and the client allows that.

    Raises RevisionMismatch when it does not, and what `attempt` raises.
    """
    revision = holder.revision
    for _ in range(MAX_PINS):
        if revision is not None and allows(wish, revision):
            await wish.pin(revision)
            try:
                return await attempt({"if-match": f'"{revision}"'})
            except RevisionMismatch as mismatch:
                moved = mismatch.fields.get("revision")
        else:
            moved = None
        now = moved if isinstance(moved, int) else await load_revision(context, holder.element, wish.file_id)
        if now == revision or not allows(wish, now):
            raise RevisionMismatch(f"the file is at revision {now}", revision=now)
        revision = now
    raise Conflict("others change the file at the same time")


async def with_revision_of_content(context: Context, holder: Holder, wish: Wish) -> Wish:
    """The condition on a checksum as one on the revision that has it now, which the element then checks under its lock.

    Raises RevisionMismatch when the content is another one and the revision is not allowed either.
    """
    now = decode(await context.elements.load(holder.element, wish.file_id))
    revisions = wish.if_revisions or ()
    if now.checksum in wish.if_checksums:
        revisions = (*revisions, now.revision)
    if now.revision not in revisions:
        raise RevisionMismatch(f"the file is at revision {now.revision}", revision=now.revision)
    return dataclasses.replace(wish, if_revisions=revisions, if_checksums=())


def allows(wish: Wish, revision: int) -> bool:
    return wish.if_revisions is None or revision in wish.if_revisions


def stated(wish: Wish) -> dict[str, str]:
    """If-Match as the client stated it."""
    if wish.if_revisions is None:
        return {}
    return {"if-match": ", ".join(f'"{revision}"' for revision in wish.if_revisions)}
