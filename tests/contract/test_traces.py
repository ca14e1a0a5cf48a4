"""The trace of a request through the running services, as a collector of traces receives it from their exporters."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from support.system import System, own_system

from artstore.testing.traces import ReceivedSpan, TraceReceiver, trace_receiver

pytestmark = pytest.mark.filterwarnings("error")
CLIENT_SPAN = "00f067aa0ba902b7"
TOGETHER = 16


@pytest.fixture(scope="module")
def traces() -> Iterator[TraceReceiver]:
    with trace_receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def traced(traces: TraceReceiver) -> Iterator[System]:
    """Every trace that begins in it is sampled, so also background work."""
    settings = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": traces.url,
        "OTEL_TRACES_SAMPLER_ARG": "1",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    with own_system(**settings) as started:
        yield started


@pytest.fixture
def client(traced: System) -> Iterator[httpx.Client]:
    with traced.client() as opened:
        opened.base_url = httpx.URL(traced.address)  # the gateway's
        yield opened


def traceparent(sampled: bool = True) -> tuple[str, dict[str, str]]:
    """A new trace id, and the header with which a client begins the trace."""
    trace_id = secrets.token_hex(16)
    return trace_id, {"traceparent": f"00-{trace_id}-{CLIENT_SPAN}-{'01' if sampled else '00'}"}


def upload(client: httpx.Client, headers: dict[str, str], size_bytes: int = 5) -> str:
    form = {"retention": "temporary", "ttl_days": "1"}
    answer = client.post("/api/files/upload", params=form, content=secrets.token_bytes(size_bytes), headers=headers)
    answer.raise_for_status()
    return str(answer.json()["file_id"])


def arrived(traces: TraceReceiver, trace_id: str) -> list[ReceivedSpan]:
    """The spans of a trace whose request is answered: the one of its first service is the last to end."""
    traces.wait_for(lambda: any(span.parent_id == CLIENT_SPAN for span in traces.of(trace_id)))
    traces.wait_for(lambda: _is_connected(traces.of(trace_id)))
    return traces.of(trace_id)


def _is_connected(spans: list[ReceivedSpan]) -> bool:
    """No span is an orphan, and each call to a service has that service's span."""
    ids = {span.span_id for span in spans} | {CLIENT_SPAN}
    parents = {span.parent_id for span in spans}
    called = {span.span_id for span in spans if span.kind == "client" and "server.address" in span.attributes}
    return parents <= ids and called <= parents


def servers(spans: list[ReceivedSpan]) -> dict[str, list[str]]:
    """The names of the server spans of each service."""
    return {
        service: sorted(span.name for span in spans if span.service == service and span.kind == "server")
        for service in {span.service for span in spans}
    }


def one(spans: list[ReceivedSpan], **wanted: str) -> ReceivedSpan:
    """The first span with these fields."""
    return next(span for span in spans if all(getattr(span, name) == value for name, value in wanted.items()))


def test_an_upload_is_one_trace_from_the_gateway_to_the_sync_of_the_log(
    client: httpx.Client, traces: TraceReceiver
) -> None:
    upload(client, {})  # the registry, the token and the statements are known then
    trace_id, headers = traceparent()
    file_id = upload(client, {**headers, "x-request-id": f"of-{trace_id}"})
    spans = arrived(traces, trace_id)
    (element,) = {span.service for span in spans if span.service.startswith("artstore-se-")}
    assert servers(spans) == {
        "artstore-ingester": ["POST /api/files/upload"],
        element: ["POST /api/files/put-group"],
        "artstore-admin": ["POST /api/sagas/commit"],
    }
    root = one(spans, parent_id=CLIENT_SPAN)
    assert not root.failed
    assert root.attributes | {"client.address": ""} == {
        "http.route": "/api/files/upload",
        "http.request.method": "POST",
        "http.response.status_code": 201,
        "http.request.body.size": 5,
        "http.response.body.size": root.attributes["http.response.body.size"],
        "client.address": "",
        "artstore.client_id": "admin",
        "artstore.file_id": file_id,
        "artstore.request_id": f"of-{trace_id}",
    }
    names = {(span.service, span.name) for span in spans}
    assert {("artstore-ingester", "upload.transfer"), ("artstore-ingester", "upload.commit")} <= names
    assert {(element, name) for name in ("store.put", "wal.commit", "wal.write", "wal.fsync", "wal.apply")} <= names
    assert ("artstore-admin", "postgresql") in names
    fsync = one(spans, name="wal.fsync")
    assert root.began_ns <= fsync.began_ns <= fsync.ended_ns <= root.ended_ns
    assert all(span.attributes["artstore.file_id"] == file_id for span in spans if span.name == "store.put")


def test_a_large_upload_has_a_span_for_each_step_of_its_protocol(client: httpx.Client, traces: TraceReceiver) -> None:
    trace_id, headers = traceparent()
    upload(client, headers, size_bytes=300_000)
    spans = arrived(traces, trace_id)
    steps = [(span.began_ns, span.name) for span in spans if span.name.startswith(("wal.commit", "put.", "catalog."))]
    assert [name for _, name in sorted(steps)] == ["wal.commit", "put.receive", "put.publish", "catalog.write"]
    assert all(len(names) == 1 for service, names in servers(spans).items() if service != "artstore-admin")


def test_a_cold_read_is_one_trace_from_query_to_the_element(client: httpx.Client, traces: TraceReceiver) -> None:
    file_id = upload(client, {})
    trace_id, headers = traceparent()
    assert client.get(f"/api/files/{file_id}/content", headers=headers).status_code == 200
    spans = arrived(traces, trace_id)
    (element,) = {span.service for span in spans if span.service.startswith("artstore-se-")}
    assert servers(spans) == {
        "artstore-query": ["GET /api/files/{file_id}/content"],
        element: ["GET /api/files/contents"],
    }
    names = {span.name for span in spans if span.service == "artstore-query"}
    assert {"lookup.redis", "lookup.catalog", "redis", "postgresql", "GET"} <= names
    server = one(spans, service=element, kind="server")
    assert server.attributes["artstore.file_id"] == file_id
    assert one(spans, span_id=server.parent_id).attributes["server.address"] == element.removeprefix("artstore-")


def test_a_refusal_is_no_failure_of_the_service(client: httpx.Client, traces: TraceReceiver) -> None:
    trace_id, headers = traceparent()
    assert client.delete(f"/api/files/{secrets.token_hex(4)}", headers=headers).status_code == 404
    span = one(arrived(traces, trace_id), parent_id=CLIENT_SPAN)
    assert (span.name, span.failed) == ("DELETE /api/files/{file_id}", False)
    assert span.attributes["error.type"] == "not_found"
    assert span.attributes["http.response.status_code"] == 404


def test_the_caller_decides_whether_a_trace_is_sampled(client: httpx.Client, traces: TraceReceiver) -> None:
    unwanted, headers = traceparent(sampled=False)
    file_id = upload(client, headers)
    assert client.get(f"/api/files/{file_id}/content", headers=headers).status_code == 200
    wanted, headers = traceparent()
    file_id = upload(client, headers)
    assert client.get(f"/api/files/{file_id}/content", headers=headers).status_code == 200
    arrived(traces, wanted)
    traces.wait_for(lambda: len({span.service for span in traces.of(wanted)}) == 4)
    assert traces.of(unwanted) == []


def test_uploads_that_share_calls_keep_their_own_traces(client: httpx.Client, traces: TraceReceiver) -> None:
    """Each has its put on the element; the call that carried it is in one of the traces, and linked to the others."""
    begun = [traceparent() for _ in range(TOGETHER)]
    with ThreadPoolExecutor(TOGETHER) as threads:
        file_ids = list(threads.map(lambda pair: upload(client, pair[1]), begun))
    for (trace_id, _), file_id in zip(begun, file_ids, strict=True):
        traces.wait_for(lambda trace_id=trace_id: any(span.name == "store.put" for span in traces.of(trace_id)))  # type: ignore[misc]
        puts = [span for span in traces.of(trace_id) if span.name == "store.put"]
        assert [span.attributes["artstore.file_id"] for span in puts] == [file_id]
        commit = one(arrived(traces, trace_id), name="upload.commit")
        calls = {span.parent_id: span for span in traces.spans if span.kind == "client"}
        shared = {span.span_id for span in traces.spans if span.name == "shared call"}
        assert commit.span_id in calls or shared & {*commit.links, *_children(traces, commit)}


def _children(traces: TraceReceiver, parent: ReceivedSpan) -> set[str]:
    return {span.span_id for span in traces.of(parent.trace_id) if span.parent_id == parent.span_id}


def test_background_work_has_traces_of_its_own_with_links_to_their_causes(
    client: httpx.Client, traces: TraceReceiver
) -> None:
    file_id = upload(client, {})
    trace_id, headers = traceparent()
    assert client.delete(f"/api/files/{file_id}", headers=headers).status_code == 204
    spans = arrived(traces, trace_id)
    ids = {span.span_id for span in spans}
    traces.wait_for(lambda: any(ids & {*span.links} for span in traces.spans if span.name == "outbox.publish"))
    published = next(span for span in traces.spans if span.name == "outbox.publish" and ids & {*span.links})
    assert (published.parent_id, published.trace_id != trace_id) == ("", True)
    traces.wait_for(lambda: {"postgresql", "redis"} <= {span.name for span in traces.of(published.trace_id)})
    recovered = {span.service for span in traces.spans if span.name == "recovery" and not span.parent_id}
    assert recovered == {"artstore-se-01", "artstore-se-02", "artstore-se-03"}
    names = {span.name for span in spans}
    assert {"change.locate", "change.make", "wal.commit", "wal.fsync", "audit.record", "catalog.write"} <= names


def test_probes_make_no_spans_and_no_span_holds_a_secret(
    client: httpx.Client, traced: System, traces: TraceReceiver
) -> None:
    file_id = upload(client, {})
    link = client.post(f"/api/files/{file_id}/links", json={"ttl_s": 60}).json()["url"]
    wrong = secrets.token_urlsafe(24)
    trace_id, headers = traceparent()
    httpx.get(link, headers=headers)
    httpx.get(f"{link}x?access_token={wrong}", headers=headers)
    client.get(f"/api/files/{wrong}", params={"secret": wrong}, headers=headers)
    httpx.post(f"{traced.url('admin')}/api/auth/token?client_secret={wrong}", headers=headers)
    httpx.get(f"{traced.url('query')}/api/{wrong}", headers=headers)
    traces.wait_for(lambda: sum(span.parent_id == CLIENT_SPAN for span in traces.of(trace_id)) >= 5)
    secret = traced.credentials()["client_secret"]
    token = client.headers["authorization"].removeprefix("Bearer ")
    for word in (link.rpartition("/")[2], wrong, secret, token):
        assert word.encode() not in traces.raw, f"{word[:6]}… came with a trace"
    assert not [span for span in traces.spans if "/health/" in span.name or span.name == "GET /metrics"]
