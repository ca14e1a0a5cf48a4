"""Named places between two durable effects. In production they do nothing; a fault test makes the process
crash or pause there.

`ARTSTORE_POINT=put.renamed:kill` kills the process the first time, `put.renamed:kill:3` the third time,
`put.renamed:pause` stops it there (SIGSTOP). `ARTSTORE_POINTS_LOG=FILE` appends the name of every failpoint
that is reached.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Mapping

_ACTIONS = {"kill": signal.SIGKILL, "pause": signal.SIGSTOP}

_armed = ""
_log_path = ""
_active = False
_hits: Counter[str] = Counter()


def arm(environment: Mapping[str, str]) -> None:
    """Called once by a process that is about to start; without the two variables it changes nothing."""
    global _armed, _log_path, _active
    _armed = environment.get("ARTSTORE_POINT", "")
    _log_path = environment.get("ARTSTORE_POINTS_LOG", "")
    _active = bool(_armed or _log_path)


def failpoint(name: str) -> None:
    """Report that the place `name` was reached. Names are literals at every call, so that a test can list
    them."""
    if _active:
        _act(name)


def _act(name: str) -> None:
    _hits[name] += 1
    if _log_path:
        with open(_log_path, "a") as log:
            log.write(name + "\n")
    wanted, _, rest = _armed.partition(":")
    action, _, nth = rest.partition(":")
    if wanted == name and _hits[name] == int(nth or 1):
        os.kill(os.getpid(), _ACTIONS[action])
