"""Limits the concurrent transfers of an account in one process. Rate limits count only the begin of a
request; a slow transfer may hold its connections for hours."""

from __future__ import annotations

from collections import Counter as Tally

import prometheus_client
from prometheus_client import CollectorRegistry, Gauge

from artstore.auth.tokens import Principal
from artstore.contracts.tokens import Role
from artstore.errors import RateLimited

RETRY_AFTER_S = 5


class Transfers:
    """Transfers in progress by account. Module accounts are not limited: they act for accounts that were
    counted."""

    def __init__(self, limit: int, registry: CollectorRegistry) -> None:
        self._limit = limit
        self._by_account: Tally[str] = Tally()
        Gauge("transfers_in_progress", "File transfers in progress, of all accounts", registry=registry).set_function(
            self._by_account.total
        )
        self._refused = prometheus_client.Counter(
            "transfers_refused_total",
            "Transfers refused because the account had too many in progress",
            registry=registry,
        )

    def begin(self, principal: Principal) -> None:
        """Counts one more transfer until `end`. Raises RateLimited."""
        if principal.role is Role.SERVICE:
            return
        account = principal.subject
        if self._by_account[account] >= self._limit:
            self._refused.inc()
            raise RateLimited(
                f"the account has reached its limit of {self._limit} concurrent transfers in this process",
                retry_after_s=RETRY_AFTER_S,
            )
        self._by_account[account] += 1

    def end(self, principal: Principal) -> None:
        if principal.role is Role.SERVICE:
            return
        self._by_account[principal.subject] -= 1
        if not self._by_account[principal.subject]:
            del self._by_account[principal.subject]
