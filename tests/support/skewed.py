"""Runs the module in whose folder it is started with a wall clock that is wrong: `python skewed.py SECONDS`.

The module reads `artstore.clock`, and libraries read `time`: both are moved before anything else is loaded.
The monotonic clock stays right, as it does on a machine whose clock was set wrongly.
"""

from __future__ import annotations

import runpy
import sys
import time
from datetime import datetime, timedelta, tzinfo
from typing import Self


def skew(shift_s: float) -> None:
    """Moves the wall clock of this process."""
    true_s, true_ns = time.time, time.time_ns
    time.time = lambda: true_s() + shift_s
    time.time_ns = lambda: true_ns() + int(shift_s * 1_000_000_000)

    class Wrong(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return super().now(tz) + timedelta(seconds=shift_s)

    import artstore.clock

    vars(artstore.clock)["datetime"] = Wrong


if __name__ == "__main__":
    skew(float(sys.argv[1]))
    sys.path[0] = ""
    runpy.run_module("app.main", run_name="__main__", alter_sys=True)
