"""As test_kills.py, with the files in a real S3."""

from __future__ import annotations

from app.store.backends.s3_uploads import S3Settings
from artstore.testing.services import S3Server

from ..store.places import s3_settings
from .kills_s3 import AT_START, S3_SCENARIOS, S3Case, run_s3_case, s3_moments_of
from .lengths import LONG, chosen, in_processes
from .test_kills import ONLY_S3, described

SHORT_MOMENTS = 4
"""Per scenario, beside the first hit of each point that no scenario before it had."""
SHORT_RECOVERIES = 2
SHORT_STARTS = 4
"""Failpoints of AT_START for each of those."""


def test_a_kill_at_any_point_leaves_all_or_nothing_in_s3(s3: S3Server) -> None:
    outcomes = in_processes(run_s3_case, cases(s3_settings(s3)))
    hits = set().union(*(outcome.hits for outcome in outcomes))
    print(described(outcomes), f"{len(hits)} points")
    missed = ONLY_S3 - hits
    assert not missed, f"no kill goes through {sorted(missed)}"


def cases(settings: S3Settings) -> list[S3Case]:
    found: list[S3Case] = []
    points: set[str] = set()
    for scenario in S3_SCENARIOS:
        moments = s3_moments_of(settings, scenario)
        new = [moment for moment in moments if moment[1] == 1 and moment[0] not in points]
        points |= {name for name, _ in new}
        others = chosen([moment for moment in moments if moment not in new], SHORT_MOMENTS)
        found += [S3Case(settings, scenario, moment) for moment in sorted({*new, *others})]
        for seed, moment in enumerate(moments if LONG else chosen(moments, SHORT_RECOVERIES)):
            starts = chosen(AT_START, SHORT_STARTS, seed)
            found += [S3Case(settings, scenario, moment, (point, 1)) for point in starts]
    return found
