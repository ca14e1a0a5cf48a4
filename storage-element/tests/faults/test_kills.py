"""kill -9 at every failpoint of every operation, and again at every failpoint of the recovery after it."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

from .kills import Case, Outcome, moments_of, run_case
from .lengths import LONG, chosen, in_processes
from .work import SCENARIOS

STORE = Path(__file__).parents[2] / "app" / "store"
ONLY_S3 = frozenset({"delete.intended", "pending.kept", "pending.settled", "pending.resolved"})
"""Failpoints that only an element with files in S3 reaches: test_kills_s3.py covers them."""
SHORT_MOMENTS = 8
"""Per scenario, beside the first time of each failpoint."""
SHORT_RECOVERIES = 3


def test_a_kill_at_any_point_and_in_the_recovery_after_it_leaves_all_or_nothing() -> None:
    outcomes = in_processes(run_case, cases())
    hits = set().union(*(outcome.hits for outcome in outcomes))
    print(described(outcomes), f"{len(hits)} points")
    missed = points_below(STORE) - hits - ONLY_S3
    assert not missed, f"no case kills at {sorted(missed)}"


def cases() -> list[Case]:
    found: list[Case] = []
    for scenario in SCENARIOS:
        moments = moments_of(scenario)
        first = [moment for moment in moments if moment[1] == 1]
        others = chosen([moment for moment in moments if moment[1] > 1], SHORT_MOMENTS)
        again = set(moments if LONG else chosen(moments, SHORT_RECOVERIES))
        found += [
            Case(scenario, moment, None if moment in again else ()) for moment in sorted({*first, *others, *again})
        ]
    return found


def points_below(folder: Path) -> set[str]:
    """The argument of every call of `failpoint` in the sources. Each must be a literal."""
    names: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "failpoint":
                (argument,) = node.args
                assert isinstance(argument, ast.Constant), f"{path.name}: the name of a failpoint must be a literal"
                assert isinstance(argument.value, str)
                names.add(argument.value)
    return names


def described(outcomes: list[Outcome]) -> str:
    counted = Counter(
        kills=sum(outcome.kills for outcome in outcomes),
        kills_in_recovery=sum(outcome.kills_in_recovery for outcome in outcomes),
    )
    return ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in counted.items())
