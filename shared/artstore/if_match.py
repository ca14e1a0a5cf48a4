"""If-Match (RFC 9110 §13.1.1): what a caller says it has seen. Tags are compared strongly, as they are written."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from artstore.errors import Malformed

MAX_TAGS = 64
_TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
_TAGS = re.compile(rf"[ \t,]*{_TAG}(?:[ \t]*,[ \t,]*{_TAG})*[ \t,]*")
_REVISION = re.compile(r'"([1-9][0-9]{0,17})"')


def if_match(lines: Sequence[str]) -> frozenset[str] | None:
    """The entity tags with their quotes; None for no condition, or `*`, which asks only that there is a file.

    Raises Malformed for what is neither.
    """
    field = ", ".join(lines).strip(" \t")
    if not lines or field == "*":
        return None
    tags = re.findall(_TAG, field)
    if len(tags) > MAX_TAGS or not _TAGS.fullmatch(field):
        raise Malformed(f'If-Match is *, or up to {MAX_TAGS} tags like "3"')
    return frozenset(tags)


def revisions_in(tags: Collection[str]) -> list[int]:
    """The revisions that tags name. A weak tag, "03" and the tag of content name none: nothing has them here."""
    return [int(found[1]) for tag in tags if (found := _REVISION.fullmatch(tag))]
