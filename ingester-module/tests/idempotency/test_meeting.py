from __future__ import annotations

import pytest

from app.idempotency.meeting import Kept, Meeting, meet
from artstore.contracts.idempotency import Answer

ANSWER = Answer(status=201, headers={})


@pytest.mark.parametrize(
    ("fingerprint", "answer", "held_s", "met"),
    [
        ("same", ANSWER, 5.0, Meeting.REPLAYED),
        ("same", ANSWER, -5.0, Meeting.REPLAYED),
        ("same", None, 5.0, Meeting.RUNNING),
        ("same", None, 0.0, Meeting.TAKEN_OVER),
        ("same", None, -5.0, Meeting.TAKEN_OVER),
        ("other", ANSWER, 5.0, Meeting.MISMATCH),
        ("other", None, 5.0, Meeting.MISMATCH),
        ("other", None, -5.0, Meeting.MISMATCH),
    ],
)
def test_what_becomes_of_a_request_that_meets_a_used_key(
    fingerprint: str, answer: Answer | None, held_s: float, met: Meeting
) -> None:
    assert meet(Kept("same", "saga", "file", None, held_s, answer), fingerprint) is met
