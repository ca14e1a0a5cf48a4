"""Each system call of the durable layer fails once: with EIO, with ENOSPC, with a short write; and the disk fills up there."""

from __future__ import annotations

from collections import Counter

from .broken_calls import WRITES, Case, Fault, calls_of, run_case
from .lengths import LONG, chosen, in_processes
from .work import SCENARIOS

SHORT_CASES = 400


def test_any_failing_system_call_ends_in_a_typed_error_and_whole_files() -> None:
    cases = [
        Case(scenario, nth, fault)
        for scenario in SCENARIOS
        for nth, name in worth_failing(calls_of(scenario))
        for fault in Fault
        if name in WRITES or fault not in (Fault.SHORT, Fault.TORN)
    ]
    run = chosen(cases, SHORT_CASES)
    struck = Counter(in_processes(run_case, run))
    print(f"{len(run)} of {len(cases)} failures injected", struck, "long" if LONG else "short")
    assert struck.keys() - {None} >= {
        "open",
        "writev",
        "pwritev",
        "fdatasync",
        "fsync",
        "rename",
        "unlink",
        "syncfs",
        "link",
    }


def worth_failing(names: list[str]) -> list[tuple[int, str]]:
    """All; but of the 256 folders of a new root, which are made in a loop, the first and the last few."""
    fan_out = range(4, 260)
    return [(nth, name) for nth, name in enumerate(names, start=1) if name != "mkdir" or nth not in fan_out]
