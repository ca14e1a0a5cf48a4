"""The chaos run. Short, with a seed of its own each time; long, with a seed that is given, by `./artstore test chaos --long
--seed N --minutes M`.
"""

from __future__ import annotations

import os
import secrets

from faults.chaos.run import run_chaos

SHORT_S = 25.0
LONG_MINUTES = 10.0


def test_nothing_is_half_done_whatever_fails() -> None:
    seed = int(os.environ.get("ARTSTORE_CHAOS_SEED") or secrets.randbelow(1 << 31))
    long = os.environ.get("ARTSTORE_FAULTS") == "long"
    length_s = float(os.environ.get("ARTSTORE_CHAOS_MINUTES", LONG_MINUTES)) * 60 if long else SHORT_S
    print(f"chaos: seed {seed}, {length_s:.0f} s", flush=True)
    report = run_chaos(seed, length_s)
    print(report.summary(), flush=True)
    assert report.findings.found == []
