"""The order of a change: find the element, ask it, and have the change remembered when it is away.

The element decides (its mode, the revision, the attributes) and carries its own protocol through; 409, 412 and 422 are its
answers. New content is not remembered: its bytes are kept by nobody but the client.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from artstore.contracts.sagas import SagaKind
from artstore.errors import BadGateway, NotFound, Unavailable
from artstore.failpoints import failpoint
from artstore.logs import get_logger
from artstore.modes import Operation
from artstore.peers.client import PeerAnswer

from ..core.context import Context
from ..placement import AWAY
from ..uploads.body import Body
from .holder import Holder, ask_elements, find_holder
from .pinned import at_one_revision, stated, with_revision_of_content
from .queue import Queued, queue
from .wish import Wish

log = get_logger("ingester.changes")

IS_AWAY = (Unavailable, BadGateway)
T = TypeVar("T")


async def patch(context: Context, wish: Wish, changes: bytes) -> PeerAnswer | Queued:
    """Changes attributes. The answer's body is the new attr.json."""

    async def ask(holder: Holder) -> PeerAnswer:
        def attempt(headers: Mapping[str, str]) -> Awaitable[PeerAnswer]:
            return context.elements.patch(holder.element, wish.file_id, headers, changes)

        return await at_one_revision(context, holder, wish, attempt)

    return await _now_or_later(context, wish, ask, _Later(SagaKind.UPDATE, Operation.UPDATE, changes))


async def delete(context: Context, wish: Wish) -> Queued | None:
    """None: the file is gone."""

    async def ask(holder: Holder) -> None:
        await context.elements.delete(holder.element, wish.file_id, stated(wish))

    return await _now_or_later(context, wish, ask, _Later(SagaKind.DELETE, Operation.DELETE, None))


async def replace(context: Context, wish: Wish, body: Body, headers: Mapping[str, str]) -> PeerAnswer:
    """Replaces the bytes. The element is found before the first of them is read."""
    holder = await find_holder(context, wish.file_id)
    if holder.queued:
        raise Unavailable("changes of this file wait for its element", away=holder.element.id)
    if wish.if_checksums:
        wish = await with_revision_of_content(context, holder, wish)
    await body.hold_head()

    async def attempt(condition: Mapping[str, str]) -> PeerAnswer:
        if not body.replayable:
            raise Unavailable("the file was changed while its new content was sent: it is needed once more")
        return await context.elements.replace(holder.element, wish.file_id, {**headers, **condition}, body)

    # Under a key one revision is pinned, so that who goes on after us can tell; else the last one to come wins.
    answer = await at_one_revision(context, holder, wish, attempt) if wish.keyed else await attempt(stated(wish))
    failpoint("change.made")
    return answer


@dataclass(frozen=True, slots=True)
class _Later:
    """What is remembered of a change."""

    kind: SagaKind
    operation: Operation
    changes: bytes | None


async def _now_or_later(
    context: Context, wish: Wish, ask: Callable[[Holder], Awaitable[T]], later: _Later
) -> T | Queued:
    # 1. The element, and whether something waits for it: then this one waits too, behind the others.
    holder = await find_holder(context, wish.file_id)
    while not holder.queued and holder.element.status != AWAY:
        try:
            # 2. The element's answer is the answer. After a crash before it nobody knows: the client asks again.
            answer = await ask(holder)
            failpoint("change.made")
            return answer
        except NotFound:
            if holder.asked:
                raise
        except IS_AWAY as error:
            wish.in_doubt()
            log.warning("element away, the change is queued", element_id=holder.element.id, error=error.detail)
            break
        # The catalog is a cache: the file may be elsewhere.
        holder = await ask_elements(context, wish.file_id, but=[holder.element.id])
    # 3. Away, or it did not say what became of it: admin remembers the change, and finds out first if it was made.
    return await queue(context, holder.element, wish, later.kind, later.operation, later.changes)
