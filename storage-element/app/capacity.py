"""How full an element is, as its reports say. Pure: the numbers come from outside."""

from __future__ import annotations

from artstore.contracts.elements import Fill

WARNING_AT = 0.80
CRITICAL_AT = 0.95


def fill_of(total_bytes: int, available_bytes: int) -> Fill:
    if available_bytes <= 0 or total_bytes <= 0:
        return Fill.FULL
    used = 1 - available_bytes / total_bytes
    if used >= CRITICAL_AT:
        return Fill.CRITICAL
    return Fill.WARNING if used >= WARNING_AT else Fill.OK
