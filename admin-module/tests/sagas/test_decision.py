from __future__ import annotations

from typing import Any

import msgspec
import pytest

from app.sagas.decision import ChangeStep, is_final, next_step
from artstore import errors
from artstore.contracts.files import Attributes, Changes, decode, is_applied

RECORD = {
    "schema_version": 1, "file_id": "01a20888-5cc8-7542-9f46-c98397aa1732", "revision": 5, "filename": "a",
    "content_type": "text/plain", "size_bytes": 1, "checksum": "sha256:" + "0" * 64, "storage_element_id": "se-01",
    "created_at": "2026-01-01T00:00:00.000000Z", "updated_at": "2026-01-01T00:00:00.000000Z", "owner": "boss",
    "tags": ["a"], "metadata": {"n": 1}, "retention": "temporary", "expires_at": "2027-01-01T00:00:00.000000Z",
}  # fmt: skip
SAME, OTHER = Changes(tags=["a"]), Changes(tags=["b"])


def file(**fields: Any) -> Attributes:
    return decode(msgspec.json.encode({**RECORD, **fields}))


@pytest.mark.parametrize(
    ("wanted", "if_revisions", "step"),
    [
        (OTHER, None, ChangeStep.APPLY),
        (SAME, None, ChangeStep.ALREADY_APPLIED),
        (OTHER, [5], ChangeStep.APPLY),
        (OTHER, [1, 5], ChangeStep.APPLY),
        (OTHER, [4], ChangeStep.REFUSE),  # another caller has changed it since
        (SAME, [4], ChangeStep.ALREADY_APPLIED),  # by an attempt whose answer was lost
        (SAME, [5], ChangeStep.APPLY),  # it held before, but the client gets a revision of its own
        (SAME, [4, 5], ChangeStep.ALREADY_APPLIED),
        (SAME, [3], ChangeStep.REFUSE),
        (OTHER, [6], ChangeStep.REFUSE),
    ],
)
def test_a_change_is_applied_found_applied_or_refused(
    wanted: Changes, if_revisions: list[int] | None, step: ChangeStep
) -> None:
    assert next_step(file(), wanted, if_revisions) is step


@pytest.mark.parametrize(
    ("changes", "held"),
    [
        (Changes(), True),
        (Changes(filename="a"), True),
        (Changes(filename="A"), False),
        (Changes(filename="a", tags=["a"], metadata={"n": 1}), True),
        (Changes(filename="a", tags=["b"]), False),
        (Changes(tags=[]), False),
        (Changes(metadata={}), False),
        (Changes(metadata={"n": True}), False),  # equal to 1 in Python
        (Changes(metadata={"n": 1.0}), False),
    ],
)
def test_attributes_hold_only_when_exactly_equal(changes: Changes, held: bool) -> None:
    assert is_applied(file(), changes) is held


def test_the_order_of_keys_in_metadata_does_not_matter() -> None:
    assert is_applied(file(metadata={"a": 1, "b": {"c": 2, "d": 3}}), Changes(metadata={"b": {"d": 3, "c": 2}, "a": 1}))


FINAL = {errors.Malformed, errors.DigestMismatch, errors.NotFound, errors.MethodNotAllowed, errors.Conflict, errors.ModeForbids,
         errors.Quarantined, errors.RevisionMismatch, errors.TooLarge, errors.UriTooLong, errors.UnsupportedMediaType,
         errors.RangeNotSatisfiable, errors.InvalidFields, errors.TooManyHeaders}  # fmt: skip
PASSING = {errors.Unauthenticated, errors.Forbidden, errors.TooSlow, errors.RateLimited, errors.InternalError,
           errors.FileDamaged, errors.BadGateway, errors.Unavailable, errors.ElementFailed, errors.StorageFull}  # fmt: skip


def test_rejections_are_final_and_temporary_errors_are_retried() -> None:
    for error in FINAL:
        assert is_final(error()), error
    for error in PASSING:
        assert not is_final(error()), error
