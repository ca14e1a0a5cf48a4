"""PATCH, PUT content and DELETE under an Idempotency-Key: done once, also when a try dies between the element and the answer.

The element knows no keys. What tells whether a dead try has changed the file is the revision it had pinned.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial

from artstore.contracts.files import Attributes, decode
from artstore.contracts.idempotency import GONE, Answer, changed
from artstore.errors import PROBLEM_JSON, BadGateway, Conflict, NotFound, RevisionMismatch
from artstore.logs import request_id

from ..changes.holder import load_record
from ..changes.wish import Wish
from ..core.context import Context
from .keys import Hold
from .rows import Scope

ACCEPTED = 202

Run = Callable[[Wish], Awaitable[Answer]]
"""The change as it is made without a key."""


@dataclass(frozen=True, slots=True)
class Change:
    """`again` goes on after a try that may have made it."""

    fingerprint: str
    run: Run
    again: Callable[[Wish, Hold], Awaitable[Answer]]


async def change_once(context: Context, key: str, wish: Wish, change: Change) -> tuple[Answer, bool]:
    """The answer, and whether it was given before. Raises as the change does, and KeyInUse, KeyReused, DatabaseAway."""
    # 1. The claim. A crash after it: the lease runs out, and a repeat takes over.
    met = await context.keys.enter(Scope(wish.owner, key), change.fingerprint, wish.file_id)
    if isinstance(met, Answer):
        return met, True
    met.asked = True
    mine = replace(wish, saga_id=met.saga_id, keyed=True, pin=partial(context.keys.pin, met), in_doubt=met.doubt)
    async with context.keys.held(met):
        # 2.-3. The pin and the change. A crash after the change: its revision tells the next one.
        answer = await (change.again(mine, met) if met.taken_over else change.run(mine))
        # 4. The answer is kept before it is given; that of a queued change admin has kept with it.
        if answer.status != ACCEPTED:
            await context.keys.answer(met, answer)
    return answer, False


async def update_again(
    context: Context, run: Run, made: Callable[[Attributes], Awaitable[bool]], wish: Wish, hold: Hold
) -> Answer:
    """Only from the revision that was pinned; if the file has left that, it may have been by our own change."""
    pinned = hold.from_revision
    if pinned is None:
        return await run(wish)  # nothing was asked of the element
    try:
        return await run(replace(wish, if_revisions=(pinned,)))
    except RevisionMismatch:
        record = await load_record(context, wish.file_id)
    try:
        now = decode(record)
    except ValueError as error:
        raise BadGateway(f"the file's attributes cannot be read: {error}") from error
    if now.revision == pinned + 1 and await made(now):
        return changed(record, f'"{now.revision}"')
    return _cannot_be_told(pinned, now.revision)


async def delete_again(run: Run, note: Callable[[Wish], Awaitable[None]], wish: Wish, _hold: Hold) -> Answer:
    """What is gone by now was deleted by the try before: an id is never given out twice. `note` writes that down, since the
    try before may have died before it could."""
    try:
        return await run(wish)
    except NotFound:
        await note(wish)
        return GONE


def _cannot_be_told(pinned: int, revision: int) -> Answer:
    """Kept like any answer: to make the change now could undo what somebody has done since."""
    problem = Conflict(
        "the first request under this key broke off, and the file has been changed since: whether the change was made cannot be "
        "told; look at the file, and change it under a new key if need be",
        from_revision=pinned,
        revision=revision,
    )
    return Answer(status=problem.status, headers={"content-type": PROBLEM_JSON}, body=problem.to_wire(request_id.get()))
