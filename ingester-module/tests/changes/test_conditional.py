from __future__ import annotations

import pytest
from msgspec.structs import replace

from app.changes.conditional import Precondition
from artstore.contracts.files import Attributes
from artstore.errors import Malformed, RevisionMismatch

OLD, NEW = f"sha256:{'0' * 64}", f"sha256:{'1' * 64}"
FILE = Attributes(
    file_id="0197aaaa-0000-7000-8000-000000000001",
    revision=3,
    filename="a",
    content_type="text/plain",
    size_bytes=1,
    checksum=OLD,
    storage_element_id="se-01",
    created_at="2026-01-01T00:00:00.000000Z",
    updated_at="2026-01-01T00:00:00.000000Z",
    owner="somebody",
    tags=[],
    metadata={},
    retention="permanent",
    expires_at=None,
)


@pytest.mark.parametrize(
    ("lines", "of_content", "expected"),
    [
        ([], True, Precondition()),
        (["*"], True, Precondition()),
        (['"3"'], False, Precondition((3,))),
        (['"7"', 'W/"1", "3-gzip"'], False, Precondition((1, 3, 7))),
        ([f'"3", "{OLD}"'], False, Precondition((3,))),
        ([f'"3", "{OLD}"'], True, Precondition((3,), (OLD,))),
        ([f'"{OLD}"'], True, Precondition((), (OLD,))),
    ],
)
def test_if_match_becomes_revisions_and_checksums(lines: list[str], of_content: bool, expected: Precondition) -> None:
    assert Precondition.parse(lines, of_content=of_content) == expected


@pytest.mark.parametrize(
    ("lines", "error"), [(["3"], Malformed), (['"x"'], RevisionMismatch), ([f'"{OLD}"'], RevisionMismatch)]
)
def test_a_condition_that_cannot_match_is_refused(lines: list[str], error: type[Exception]) -> None:
    with pytest.raises(error):
        Precondition.parse(lines)


def test_the_element_gets_revisions_only() -> None:
    assert Precondition().header() == {}
    assert Precondition((1, 3)).header() == {"if-match": '"1", "3"'}


@pytest.mark.parametrize(
    ("revisions", "allowed"), [(None, True), ((3,), True), ((1, 3), True), ((4,), False), ((), False)]
)
def test_a_revision_is_allowed_without_a_condition_or_when_listed(
    revisions: tuple[int, ...] | None, allowed: bool
) -> None:
    assert Precondition(revisions).allows(3) is allowed


@pytest.mark.parametrize(
    ("condition", "resolved"),
    [
        (Precondition((), (OLD,)), Precondition((3,))),
        (Precondition((3,), (NEW,)), Precondition((3,))),
        (Precondition((7,), (NEW, OLD)), Precondition((7, 3))),
    ],
)
def test_a_checksum_resolves_to_the_present_revision(condition: Precondition, resolved: Precondition) -> None:
    assert condition.resolve(FILE) == resolved


def test_different_content_at_a_different_revision_is_refused() -> None:
    with pytest.raises(RevisionMismatch):
        Precondition((7,), (OLD,)).resolve(replace(FILE, checksum=NEW))
