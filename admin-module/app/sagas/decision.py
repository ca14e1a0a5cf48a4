"""Decides whether a queued change is applied, already applied or refused, and which errors of an element are
final. Pure.

An earlier attempt whose answer was lost may have applied the change, so every attempt reads the file first.
It then changes exactly the revision it has read: a request that arrives late or twice changes nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

from artstore.contracts.files import Attributes, Changes, is_applied
from artstore.errors import ArtStoreError


class ChangeStep(enum.Enum):
    ALREADY_APPLIED = "already_applied"
    """The file has the wanted attributes. With If-Match, its previous revision was one that the client
    named."""
    APPLY = "apply"
    """Send the change with If-Match of the revision that was read."""
    REFUSE = "refuse"
    """The file has passed the revisions that the client named."""


def next_step(now: Attributes, wanted: Changes, if_revisions: Sequence[int] | None) -> ChangeStep:
    held = is_applied(now, wanted)
    if if_revisions is None:
        return ChangeStep.ALREADY_APPLIED if held else ChangeStep.APPLY
    if held and now.revision - 1 in if_revisions:
        return ChangeStep.ALREADY_APPLIED
    return ChangeStep.APPLY if now.revision in if_revisions else ChangeStep.REFUSE


def is_final(error: ArtStoreError) -> bool:
    """True if a retry would give the same answer: the element has examined the change and rejects it."""
    return 400 <= error.status < 500 and error.status not in (401, 403, 408, 429)
