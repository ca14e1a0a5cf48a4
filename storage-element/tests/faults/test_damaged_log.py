"""The log is cut at every byte, and every byte of it is turned."""

from __future__ import annotations

from .damaged_log import CHUNK, all_cases, run_cases
from .lengths import LONG, chosen, in_processes

SHORT_CASES = 500


def test_a_damaged_log_loses_only_the_damaged_records() -> None:
    cases = all_cases()
    run = chosen(cases, SHORT_CASES)
    chunk = CHUNK if LONG else SHORT_CASES // 2
    unreadable = in_processes(run_cases, [list(run[start : start + chunk]) for start in range(0, len(run), chunk)])
    print(f"{len(run)} of {len(cases)} damages, {sum(unreadable)} unreadable frames reported")
    assert sum(unreadable) > 0
