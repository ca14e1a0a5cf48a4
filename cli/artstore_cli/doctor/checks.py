"""All checks of `doctor`, in their order. Each yields findings; one that raises becomes a finding itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx

from . import data, operation, security
from .finding import Answer, Finding, Verdict
from .system import Examined

CHECKS: dict[str, Callable[[Examined], Iterator[Answer]]] = {
    "health": operation.check_health,
    "breakers": operation.check_breakers,
    "redis": operation.check_redis,
    "tls": security.check_tls,
    "tokens": security.check_tokens,
    "secrets": security.check_secrets,
    "database roles": security.check_roles,
    "limits": security.check_limits,
    "cors": security.check_cors,
    "logs": operation.check_logs,
    "metrics": operation.check_metrics,
    "clocks": operation.check_clocks,
    "elements": data.check_elements,
    "root ids": data.check_roots,
    "disk space": data.check_space,
    "quarantine": data.check_quarantine,
    "pending work": data.check_pending,
    "catalog": data.check_catalog,
    "audit log": data.check_audit,
    "backups": operation.check_backups,
}


def examine(system: Examined) -> Iterator[Finding]:
    """A check that has found something is not also passed: its last answer says what is good without a finding."""
    for name, check in CHECKS.items():
        found = False
        try:
            for answer in check(system):
                if answer.verdict is Verdict.PASS and found:
                    continue
                found = answer.verdict is not Verdict.PASS
                yield Finding(name, answer.verdict, answer.detail, answer.remedy)
        except (httpx.HTTPError, OSError, KeyError, ValueError) as error:
            text = f"cannot be checked: {error or type(error).__name__}"
            yield Finding(name, Verdict.FAIL, text, "see whether the services run: artstore status; and their logs")
