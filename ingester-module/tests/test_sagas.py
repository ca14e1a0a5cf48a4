"""Commits and aborts that admin does not answer: repeated, counted, and logged once."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from app import admin
from app.admin import Attempts
from artstore.clock import uuid7
from artstore.contracts.sagas import UploadSaga
from artstore.errors import Unavailable

SAGA = UploadSaga(saga_id=str(uuid7()), file_id=str(uuid7()), storage_element_id="se-01", owner="boss")


async def fail() -> None:
    raise Unavailable("admin is unavailable")


@pytest.mark.parametrize(("call", "attempts"), [("commit", 4), ("abort", 3)])
async def test_an_outage_logs_each_saga_once_and_counts_the_rest(
    monkeypatch: pytest.MonkeyPatch, call: str, attempts: int
) -> None:
    monkeypatch.setattr(admin, "COMMIT_PAUSES_S", (0.0, 0.0, 0.0))
    monkeypatch.setattr(admin, "ABORT_PAUSES_S", (0.0, 0.0))
    registry = CollectorRegistry()
    tried = Attempts(registry)
    with capture_logs() as lines:
        if call == "commit":
            with pytest.raises(Unavailable):
                await tried.commit(SAGA.saga_id, fail)
        else:
            await tried.abort(SAGA, fail)
    assert [line["saga_id"] for line in lines] == [SAGA.saga_id]
    assert registry.get_sample_value("saga_call_failures_total", {"call": call}) == attempts
