"""GCRA, the generic cell rate algorithm (ITU-T I.371), as a pure function; `REDIS_SCRIPT` is the same
algorithm in Lua.

Each caller has a *level* in seconds that falls with time. A request raises it by the cost of the quota, and
is allowed while the level stays within the tolerance. Redis stores the time at which the level will be zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache

import msgspec

LEASE_SHARE = 16
"""One process leases at most this fraction of the remaining requests in advance, so near the limit every
request is decided alone."""


@dataclass(frozen=True, slots=True, eq=False)
class Quota:
    """`per_minute` requests, `burst` of them at once. `penalty_s` is how long a caller that exceeds it is
    blocked."""

    name: str
    per_minute: float
    burst: int
    penalty_s: float = 0.0

    cost_s: float = field(init=False)
    tolerance_s: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cost_s", 60.0 / self.per_minute)
        object.__setattr__(self, "tolerance_s", self.burst * self.cost_s)


class Decision(msgspec.Struct, frozen=True, gc=False):
    """The decision about one request. A msgspec struct, because creating one costs a tenth of a frozen
    dataclass."""

    allowed: bool
    quota: Quota
    factor: float
    level_s: float

    @property
    def remaining(self) -> int:
        cost_s = self.quota.cost_s / self.factor
        return max(0, _whole((self.quota.tolerance_s - self.level_s) / cost_s))

    @property
    def reset_s(self) -> int:
        """Seconds until the full burst is available again."""
        return max(0, math.ceil(self.level_s))

    @property
    def retry_after_s(self) -> int:
        """Seconds until the next request is allowed; at least 1."""
        wait_s = self.level_s + self.quota.cost_s / self.factor - self.quota.tolerance_s
        return max(1, math.ceil(wait_s - 1e-6))

    def headers(self) -> list[tuple[bytes, bytes]]:
        limit = b'"%b";r=%d;t=%d' % (self.quota.name.encode(), self.remaining, self.reset_s)
        return [(b"ratelimit-policy", _policy(self.quota, self.factor)), (b"ratelimit", limit)]


@lru_cache(maxsize=256)
def _policy(quota: Quota, factor: float) -> bytes:
    """RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers-10) with the current values, also while limits
    are tightened."""
    q, burst = max(1, int(quota.per_minute * factor)), max(1, int(quota.burst * factor))
    return f'"{quota.name}";q={q};w=60;artstore-burst={burst}'.encode()


def grant(quota: Quota, factor: float, level_s: float, need: int, want: int) -> tuple[int, float]:
    """The number of requests that are granted, and the level afterwards. `need` requests are waiting; up to
    `want` are leased if possible. `factor` scales the rate, `level_s` is the current level."""
    cost_s = quota.cost_s / factor
    available = _whole((quota.tolerance_s - level_s) / cost_s)
    if available >= 1:
        granted = min(available, max(need, min(want, available // LEASE_SHARE)))
        return granted, level_s + granted * cost_s
    if quota.penalty_s and level_s <= quota.tolerance_s:
        return 0, quota.tolerance_s + quota.penalty_s - cost_s
    return 0, level_s


def _whole(number: float) -> int:
    return math.floor(number + 1e-6)


REDIS_SCRIPT = f"""
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local answer = {{}}
for i, key in ipairs(KEYS) do
    local at = (i - 1) * 6
    local cost, tolerance, penalty = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
    local need, want, back = tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5]), tonumber(ARGV[at + 6])
    local was = math.max(0, tonumber(redis.call('GET', key) or '0') - now)
    local level = math.max(0, was - back)
    local available = math.floor((tolerance - level) / cost + 0.000001)
    local granted = 0
    if available >= 1 then
        granted = math.min(available, math.max(need, math.min(want, math.floor(available / {LEASE_SHARE}))))
        level = level + granted * cost
    elseif penalty > 0 and level <= tolerance then
        level = tolerance + penalty - cost
    end
    if level ~= was then
        redis.call('SET', key, string.format('%.0f', now + level), 'PX', math.ceil(level / 1000) + 1)
    end
    answer[#answer + 1] = granted
    answer[#answer + 1] = math.ceil(level)
end
return answer
"""
"""Times are in microseconds by the clock of Redis. KEYS: one per caller. ARGV, for each: cost, tolerance,
penalty, need, want, back (the unused lease to give back). Returns granted and level for each."""
