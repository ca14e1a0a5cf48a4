from __future__ import annotations

import pytest

from artstore.errors import Malformed
from artstore.http.conditions import MAX_TAGS, checksums_in, if_match, revisions_in


@pytest.mark.parametrize(
    ("lines", "revisions"),
    [
        ([], None),
        (["*"], None),
        ([" * "], None),
        (['"3"'], [3]),
        (['"3", "5"'], [3, 5]),
        (['"3"', '"5"'], [3, 5]),
        ([' , "3",, "5" '], [3, 5]),
        (['W/"3"'], [3]),
        (['W/"3", "5"'], [3, 5]),
        (['"3-gzip"'], [3]),
        (['W/"3--br"'], [3]),
        (['"3-x"'], []),
        (['"03"'], []),
        (['"0"'], []),
        (['"sha256:ab"'], []),
        (['"x", "4"'], [4]),
        (['""'], []),
    ],
)
def test_the_revisions_that_a_condition_allows(lines: list[str], revisions: list[int] | None) -> None:
    tags = if_match(lines)
    assert (None if tags is None else sorted(revisions_in(tags))) == revisions


@pytest.mark.parametrize(
    "line", ["", "3", '"3', '3"', '"3" "5"', '*, "3"', '"3";', '"a\x01"', ",".join(['"1"'] * (MAX_TAGS + 1))]
)
def test_what_is_no_list_of_tags_is_malformed(line: str) -> None:
    with pytest.raises(Malformed):
        if_match([line])


def test_the_contents_that_a_condition_allows() -> None:
    checksum = "sha256:" + "0a" * 32
    tags = if_match([f'"{checksum}", W/"{checksum}-gzip", "3", "sha256:0a", "sha256:{"0A" * 32}"'])
    assert tags is not None
    assert checksums_in(tags) == [checksum, checksum]
