from __future__ import annotations

import pytest

from app.idempotency.keys import KeyDecision, decide
from app.idempotency.store import StoredKey
from artstore.contracts.idempotency import Answer

ANSWER = Answer(status=201, headers={})


@pytest.mark.parametrize(
    ("fingerprint", "answer", "lease_left_s", "decision"),
    [
        ("same", ANSWER, 5.0, KeyDecision.REPLAYED),
        ("same", ANSWER, -5.0, KeyDecision.REPLAYED),
        ("same", None, 5.0, KeyDecision.RUNNING),
        ("same", None, 0.0, KeyDecision.TAKEN_OVER),
        ("same", None, -5.0, KeyDecision.TAKEN_OVER),
        ("other", ANSWER, 5.0, KeyDecision.MISMATCH),
        ("other", None, 5.0, KeyDecision.MISMATCH),
        ("other", None, -5.0, KeyDecision.MISMATCH),
    ],
)
def test_the_stored_key_decides_what_a_repeat_gets(
    fingerprint: str, answer: Answer | None, lease_left_s: float, decision: KeyDecision
) -> None:
    assert decide(StoredKey("same", "saga", "file", None, lease_left_s, answer), fingerprint) is decision
