"""`python -m faults.chaos --seed N --minutes M` in `tests`: one run, and all that it saw."""

from __future__ import annotations

import argparse
import secrets
import sys
from pathlib import Path

from .run import run_chaos

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--seed", type=int, default=None)
parser.add_argument("--minutes", type=float, default=1.0)
parser.add_argument("--logs", type=Path, help="a folder that gets the logs of all processes")
asked = parser.parse_args()
report = run_chaos(secrets.randbelow(1 << 31) if asked.seed is None else asked.seed, asked.minutes * 60, asked.logs)
for strike in report.strikes:
    print(strike)
print(report.summary())
sys.exit(1 if report.findings.found else 0)
