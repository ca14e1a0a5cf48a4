"""The trace of a request, in the log and in calls to other services, with an exporter and without."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from artstore.logs import trace_id
from artstore.tracing import MAX_TRACESTATE_CHARACTERS, continue_trace, trace_headers

from .test_stop import collector, service, stopped

TRACE, SPAN, NEW = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "01890a5d0000700080001234567890ab"
PARENT = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    ("traceparent", "passed_on"),
    [
        (PARENT, PARENT),
        (f"00-{TRACE}-{SPAN}-00", f"00-{TRACE}-{SPAN}-00"),
        (f"cc-{TRACE}-{SPAN}-01-what-comes-later", PARENT),
    ],
)
def test_the_callers_trace_is_continued(traceparent: str, passed_on: str) -> None:
    continue_trace(traceparent, "vendor=1", NEW)
    assert trace_id.get() == TRACE
    assert trace_headers() == {"traceparent": passed_on, "tracestate": "vendor=1"}


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "nonsense",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"{PARENT}-more",
        f"{PARENT}\n",
    ],
)
def test_without_a_valid_trace_a_new_one_begins(traceparent: str) -> None:
    continue_trace(PARENT, "", TRACE)
    continue_trace(traceparent, "vendor=1", NEW)
    assert trace_id.get() == NEW
    assert trace_headers() == {"traceparent": f"00-{NEW}-{NEW[16:]}-00"}


@pytest.mark.parametrize("tracestate", ["", "ä=1", "a" * (MAX_TRACESTATE_CHARACTERS + 1)])
def test_a_state_that_cannot_be_sent_is_left_out(tracestate: str) -> None:
    continue_trace(PARENT, tracestate, NEW)
    assert trace_headers() == {"traceparent": PARENT}


@pytest.mark.parametrize("endpoint", ["", None])
def test_each_request_is_logged_once_with_its_ids(tmp_path: Path, endpoint: str | None) -> None:
    exporting = {} if endpoint is None else {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
    log = tmp_path / "log"
    with collector() as (port, _), service(log, port, **exporting) as (process, client):
        client.get("/nowhere", headers={"x-request-id": "mine", "traceparent": PARENT})
        client.get("/nowhere")
        assert stopped(process) == 0
    lines = [line for line in map(orjson.loads, log.read_bytes().splitlines()) if line["event"] == "request"]
    assert [line["trace_id"] == TRACE for line in lines] == [True, False]
    assert len(lines[1]["trace_id"]) == len(TRACE)
    assert lines[0].pop("timestamp").endswith("Z")
    assert lines[0].pop("took_ms") >= 0
    assert lines[0] == {
        "source": "artstore.http.edge",
        "method": "GET",
        "route": "unmatched",
        "status": 404,
        "complete": True,
        "client_id": None,
        "address": "127.0.0.1",
        "code": "not_found",
        "file_id": None,
        "received_bytes": 0,
        "sent_bytes": 132,
        "event": "request",
        "level": "info",
        "service": "test",
        "request_id": "mine",
        "trace_id": TRACE,
    }
