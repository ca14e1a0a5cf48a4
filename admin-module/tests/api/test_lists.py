"""Rules that all lists of admin share."""

from __future__ import annotations

from typing import Any

import pytest

LISTS = ("service-accounts", "storage-elements", "sagas", "audit", "audit/checkpoints")


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("query", ["colour=red", "Limit=1", "limit=1&limit=2", "limit=1&offset=5"])
async def test_an_unknown_parameter_is_refused(admin: Any, name: str, query: str) -> None:
    answer = await admin.call("GET", f"/api/{name}?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_fields")


@pytest.mark.parametrize("name", LISTS)
async def test_an_invalid_cursor_is_refused(admin: Any, name: str) -> None:
    for cursor in ("nonsense", "", "-1", "1_0", "%D9%A3"):
        answer = await admin.call("GET", f"/api/{name}?cursor={cursor}")
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_fields")


@pytest.mark.parametrize("name", LISTS)
async def test_known_parameters_are_accepted(admin: Any, name: str) -> None:
    answer = await admin.call("GET", f"/api/{name}?limit=1")
    assert (answer.status_code, set(answer.json()) >= {"items", "next_cursor"}) == (200, True)


async def test_the_audit_log_is_filtered_by_what_it_knows(admin: Any) -> None:
    known = "action=x&user_id=x&result=ok&service=admin&chain=x&resource=x&since=2026-01-01T00:00:00Z&format=json"
    assert (await admin.call("GET", f"/api/audit?{known}")).json()["items"] == []


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00%2B14:00", "9999-12-31T23:59:59-14:00"])
async def test_a_time_outside_the_range_of_utc_is_refused(admin: Any, moment: str) -> None:
    for name in ("since", "until"):
        assert (await admin.call("GET", f"/api/audit?{name}={moment}")).status_code == 422
    given = {"expires_at": moment.replace("%2B", "+")}
    assert (await admin.call("POST", "/api/service-accounts", json=given)).status_code == 422
