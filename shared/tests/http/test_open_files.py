from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("soft", "hard", "count", "allowed"),
    [(256, 4000, 1000, 3000), (256, 2000, 1000, 2000), (4000, 4000, 1000, 4000)],
)
def test_the_soft_limit_is_raised_up_to_the_hard_limit(soft: int, hard: int, count: int, allowed: int) -> None:
    code = f"""import resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
from artstore.http.connections import allow_connections
assert allow_connections({count}) == {allowed}
print(resource.getrlimit(resource.RLIMIT_NOFILE))"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=SHARED, capture_output=True, text=True, timeout=60)
    assert ran.stdout.splitlines()[-1] == f"({allowed}, {hard})", ran.stderr
