"""Parses If-Match (RFC 9110 §13.1.1).

The ETag of a file's attributes is its revision, the ETag of its content is its checksum. Proxies that
compress a response change its tag: nginx makes it weak, Apache appends the name of the coding. Such a tag
still names exactly one revision, so it is accepted although §13.1.1 asks for a strong comparison.
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
    """The entity tags with their quotes; None without a condition, or for `*`, which only requires that the
    file exists.

    `lines` are the values of all If-Match fields. Raises Malformed.
    """
    field = ", ".join(lines).strip(" \t")
    if not lines or field == "*":
        return None
    tags = re.findall(_TAG, field)
    if len(tags) > MAX_TAGS or not _TAGS.fullmatch(field):
        raise Malformed(f'If-Match must be *, or up to {MAX_TAGS} entity tags such as "3"')
    return frozenset(tags)


def revisions_in(tags: Collection[str]) -> list[int]:
    """The revisions that the tags name, weak tags included. Other tags, such as "03" or a checksum, are
    ignored."""
    return [int(found[1]) for tag in tags if (found := _REVISION.fullmatch(tag))]


def checksums_in(tags: Collection[str]) -> list[str]:
    """The checksums (`sha256:<hex>`) that the tags name. Other tags are ignored."""
    return [found[1] for tag in tags if (found := _CHECKSUM.fullmatch(tag))]
