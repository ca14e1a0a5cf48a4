"""`test`: runs the checks, a few at a time, and adds up their results."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checks import FLEET_FAULTS, OLDER, Check, environment, plan
from .errors import CommandError
from .output import Output
from .process_id import POLL_S

MAX_RUNNING = 5
"""For two cores: a check uses about a fifth of one, and waits for disks, leases and starting processes."""
MAX_RUNNING_FLEETS = 2
"""Each fleet has a dozen processes."""
CHECK_TIMEOUT_S = 1800
LONG_TIMEOUT_S = 4 * 3600
LONG = "ARTSTORE_FAULTS"
NOTHING_SELECTED = 5
"""Exit status of pytest when no test matches."""
SHOWN_LINES = 200
"""Lines printed of the output of a failed check."""


@dataclass(frozen=True, slots=True)
class Outcome:
    check: Check
    passed: int
    failed: int
    skipped: int
    took_s: float
    output: str


@dataclass(slots=True)
class _Started:
    check: Check
    process: subprocess.Popen[bytes]
    output: Path
    counts: Path
    since_s: float


@dataclass(frozen=True, slots=True)
class Chaos:
    """Options of the chaos run. None: a random seed, the default length."""

    seed: int | None
    minutes: float | None

    def settings(self) -> dict[str, str]:
        given = {"ARTSTORE_CHAOS_SEED": self.seed, "ARTSTORE_CHAOS_MINUTES": self.minutes}
        return {name: str(value) for name, value in given.items() if value is not None}


def test(root: Path, wanted: Sequence[str], out: Output, *, long: bool, repeat: bool, chaos: Chaos) -> int:
    """Run checks; print each outcome, then all failures, and the totals as the last line. Returns the exit code.
    As JSON, each outcome holds its output if it failed.

    `long`: test every fault, and print the output of all checks. `repeat`: run failed tests' checks a second time,
    which decides; the output of the first time is printed as well.
    """
    if long:
        os.environ[LONG] = "long"
    os.environ.update(chaos.settings())
    checks = plan(root, wanted)
    if not checks:
        known = sorted({check.part for check in plan(root, [])})
        raise CommandError(f"no checks are called {', '.join(wanted)}; there are: {', '.join(known)}")
    with tempfile.TemporaryDirectory(prefix="artstore-test-") as scratch:
        outcomes = _run_all(checks, root, Path(scratch), out)
    failed_once = [outcome for outcome in outcomes if outcome.failed and outcome.check.counted] if repeat else []
    if failed_once:
        out.progress(f"repeating {len(failed_once)} of {len(outcomes)} checks")
        with tempfile.TemporaryDirectory(prefix="artstore-test-") as scratch:
            repeated = _run_all([outcome.check for outcome in failed_once], root, Path(scratch), out)
        outcomes = [outcome for outcome in outcomes if outcome not in failed_once] + repeated
    for outcome in failed_once:
        out.progress(f"\n===== {outcome.check.name}, the first time =====\n{outcome.output}")
    failures = [outcome for outcome in outcomes if outcome.failed]
    for outcome in outcomes if long else failures:
        out.progress(f"\n===== {outcome.check.name} =====\n{outcome.output}")
    passed, failed, skipped = (sum(getattr(one, what) for one in outcomes) for what in ("passed", "failed", "skipped"))
    totals = {"passed": passed, "failed": failed, "skipped": skipped}
    out.item(totals, f"\n{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return 1 if failures else 0


def test_named(root: Path, wanted: Sequence[str], keyword: str) -> int:
    """Run the tests whose names match `keyword` (pytest -k) with pytest's output, while mypy checks the same parts."""
    checks = [check for check in plan(root, wanted) if check.counted and check.part != OLDER]
    if not checks:
        raise CommandError(f"no tests are called {', '.join(wanted)}")
    folders = {str(check.folder.relative_to(root)) for check in checks}
    arguments = [sys.executable, "-m", "artstore_cli.types", *folders]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join((str(root / "cli"), str(root / "shared")))}
    types = subprocess.Popen(arguments, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    statuses = []
    for check in checks:
        done = subprocess.run([*check.arguments, "-k", keyword], cwd=check.folder, env=environment(check, root))
        statuses.append(done.returncode)
    said, _ = types.communicate()
    print(said, end="")
    if set(statuses) == {NOTHING_SELECTED}:
        raise CommandError(f"no test matches {keyword!r}")
    return 1 if types.returncode or set(statuses) - {0, NOTHING_SELECTED} else 0


def _run_all(checks: Sequence[Check], root: Path, scratch: Path, out: Output) -> list[Outcome]:
    waiting, running, outcomes = list(checks), list[_Started](), list[Outcome]()
    try:
        while waiting or running:
            while waiting and _may_start(waiting[0], running):
                running.append(_start(waiting.pop(0), root, scratch))
            for one in [one for one in running if _has_ended(one)]:
                running.remove(one)
                outcomes.append(_outcome(one))
                _show(outcomes[-1], out)
            time.sleep(POLL_S)
    finally:
        for one in running:
            os.killpg(one.process.pid, signal.SIGKILL)
            one.process.wait()
    return outcomes


def _may_start(check: Check, running: Sequence[_Started]) -> bool:
    fleets = sum(one.check.part == FLEET_FAULTS for one in running)
    return len(running) < MAX_RUNNING and (check.part != FLEET_FAULTS or fleets < MAX_RUNNING_FLEETS)


def _start(check: Check, root: Path, scratch: Path) -> _Started:
    name = check.name.replace("/", "-").replace(" ", "-")
    output, counts = scratch / f"{name}.out", scratch / f"{name}.xml"
    arguments = [*check.arguments, f"--junitxml={counts}"] if check.counted else [*check.arguments]
    with output.open("wb") as target:
        process = subprocess.Popen(
            arguments,
            cwd=check.folder,
            env=environment(check, root),
            stdin=subprocess.DEVNULL,
            stdout=target,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return _Started(check, process, output, counts, time.monotonic())


def _has_ended(one: _Started) -> bool:
    timeout_s = LONG_TIMEOUT_S if LONG in os.environ else CHECK_TIMEOUT_S
    if one.process.poll() is None and time.monotonic() - one.since_s > timeout_s:
        with one.output.open("a") as output:
            output.write(f"\nstopped after {timeout_s} s\n")
        os.killpg(one.process.pid, signal.SIGKILL)
        one.process.wait()
    return one.process.poll() is not None


def _outcome(one: _Started) -> Outcome:
    passed, failed, skipped = _counted(one.counts) if one.check.counted else (1, 0, 0)
    if one.process.returncode != 0 and not failed:
        passed, failed = (passed if one.check.counted else 0), 1
    lines = one.output.read_text(errors="replace").splitlines()
    return Outcome(one.check, passed, failed, skipped, time.monotonic() - one.since_s, "\n".join(lines[-SHOWN_LINES:]))


def _counted(report: Path) -> tuple[int, int, int]:
    """Passed, failed and skipped tests of a JUnit report; zeros if there is none."""
    if not report.exists():
        return 0, 0, 0
    suites = list(ElementTree.parse(report).iter("testsuite"))  # noqa: S314  (written by our own pytest)
    total, failures, errors, skipped = (
        sum(int(suite.get(what, "0")) for suite in suites) for what in ("tests", "failures", "errors", "skipped")
    )
    failed = failures + errors
    return max(0, total - failed - skipped), failed, skipped


def _show(outcome: Outcome, out: Output) -> None:
    word = "FAILED" if outcome.failed else "ok"
    counted = f"{outcome.passed} passed" if outcome.check.counted else ""
    failed = f", {outcome.failed} failed" if outcome.check.counted and outcome.failed else ""
    document: dict[str, Any] = {"check": outcome.check.name, "part": outcome.check.part}
    document |= {name: getattr(outcome, name) for name in ("passed", "failed", "skipped")}
    document |= {"took_s": round(outcome.took_s, 1)} | ({"output": outcome.output} if outcome.failed else {})
    out.item(document, f"{word:<7} {outcome.check.name:<28} {outcome.took_s:6.1f} s  {counted}{failed}")
    if outcome.check.hints and outcome.output:
        out.progress(outcome.output)
