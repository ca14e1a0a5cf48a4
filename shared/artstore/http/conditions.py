"""If-Match (RFC 9110 §13.1.1): the entity tags that a caller has seen.

The ETag of a file's attributes is its revision, the ETag of its content is its checksum. Proxies that compress an answer
change its tag: nginx makes it weak, Apache appends the name of the coding. A revision cannot be mistaken for another one,
so such a tag still names it, although §13.1.1 compares strongly.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from artstore.errors import Malformed

MAX_TAGS = 64
_TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
_TAGS = re.compile(rf"[ \t,]*{_TAG}(?:[ \t]*,[ \t,]*{_TAG})*[ \t,]*")
_CODING = r"(?:--?(?:gzip|br|zstd|deflate))?"
_REVISION = re.compile(rf'(?:W/)?"([1-9][0-9]{{0,17}}){_CODING}"')
_CHECKSUM = re.compile(rf'(?:W/)?"(sha256:[0-9a-f]{{64}}){_CODING}"')


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
    """The revisions that tags name, also weak ones. "03" and the tag of content name none."""
    return [int(found[1]) for tag in tags if (found := _REVISION.fullmatch(tag))]


def checksums_in(tags: Collection[str]) -> list[str]:
    """The checksums that tags of content name, as attr.json has them."""
    return [found[1] for tag in tags if (found := _CHECKSUM.fullmatch(tag))]
