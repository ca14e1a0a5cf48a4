"""When signing keys change state: next → active → retiring → gone. A pure decision; signing.py carries it
out."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta


class KeyState(enum.StrEnum):
    """`signing_keys.state` in the database."""

    NEXT = "next"
    """Published, so that verifiers know it before it signs."""
    ACTIVE = "active"
    """Signs. There is exactly one."""
    RETIRING = "retiring"
    """Still verifies the tokens that it has signed."""


@dataclass(frozen=True, slots=True)
class KeyAge:
    """`since`: when the key entered its state, by the database's clock."""

    kid: str
    state: KeyState
    since: datetime


@dataclass(frozen=True, slots=True)
class Schedule:
    rotate_every: timedelta
    publish_lead: timedelta
    grace: timedelta


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps of one transaction, in this order. `create` holds the states of the keys to create."""

    remove: tuple[str, ...] = ()
    retire: str | None = None
    activate: str | None = None
    create: tuple[KeyState, ...] = ()

    @property
    def empty(self) -> bool:
        return self == Plan()


def plan(
    keys: Sequence[KeyAge], now: datetime, schedule: Schedule, *, force: bool = False, revoke: str | None = None
) -> Plan:
    """The steps that are due at `now`. `force` rotates regardless of ages; `revoke` removes that key without
    grace."""
    if revoke is not None:
        rest = plan([key for key in keys if key.kid != revoke], now, schedule)
        return replace(rest, remove=(revoke, *rest.remove))
    active = next((key for key in keys if key.state is KeyState.ACTIVE), None)
    following = next((key for key in keys if key.state is KeyState.NEXT), None)
    gone = tuple(key.kid for key in keys if key.state is KeyState.RETIRING and now - key.since >= schedule.grace)
    if active is None:
        if following is None:
            return Plan(remove=gone, create=(KeyState.ACTIVE, KeyState.NEXT))
        return Plan(remove=gone, activate=following.kid, create=(KeyState.NEXT,))
    if following is None:
        return Plan(remove=gone, create=(KeyState.NEXT,))
    due = now - active.since >= schedule.rotate_every and now - following.since >= schedule.publish_lead
    if due or force:
        return Plan(remove=gone, retire=active.kid, activate=following.kid, create=(KeyState.NEXT,))
    return Plan(remove=gone)


def find_overdue_s(keys: Sequence[KeyAge], now: datetime, schedule: Schedule) -> float:
    """Seconds since the active key should have been replaced; 0 before that, and without an active key."""
    since = [key.since for key in keys if key.state is KeyState.ACTIVE]
    return max((0.0, *((now - one - schedule.rotate_every).total_seconds() for one in since)))
