"""What a queued change has to do, by what the file's attributes say now, and what of an element's answer is final. Pure.

A change may have been made at an earlier try whose answer was lost, so every try begins with a look. It then changes just the
revision it has seen: a request that arrives late, or twice, changes nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

from artstore.contracts.files import Attributes, Changes
from artstore.contracts.holds import holds
from artstore.errors import ArtStoreError


class Step(enum.Enum):
    MADE = "made"
    """All that is wanted holds; if the file had to be at a revision, it was at it one revision ago."""
    MAKE = "make"
    """Under If-Match of the revision seen."""
    REFUSE = "refuse"
    """The file is past the revisions that the client meant."""


def next_step(now: Attributes, wanted: Changes, if_revisions: Sequence[int] | None) -> Step:
    held = holds(now, wanted)
    if if_revisions is None:
        return Step.MADE if held else Step.MAKE
    if held and now.revision - 1 in if_revisions:
        return Step.MADE
    return Step.MAKE if now.revision in if_revisions else Step.REFUSE


def is_final(error: ArtStoreError) -> bool:
    """Whether asking again would bring the same: the element has looked at the change and does not make it."""
    return 400 <= error.status < 500 and error.status not in (401, 403, 408, 429)
