"""Hooks of schemathesis: values that a schema cannot describe, put into requests that are to be accepted.

Requests with wrong data are sent as generated. In the others a value is replaced only where the right one depends on
something outside the schema: an earlier answer (cursors), the body (digests), the state of a file (conditions, ranges,
changes of its retention), other requests (ids and keys that are used once), a second parameter, or a format of the
modules among themselves.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import uuid
from typing import Any

import msgspec
import schemathesis
from schemathesis import Case, HookContext, Response

from artstore.contracts.files import NewFile, check_filename
from artstore.contracts.storage import (
    AT_MOST_HEADER,
    FILES_HEADER,
    MOVED_HEADER,
    NEW_FILE_HEADER,
    SAGA_HEADER,
    GroupedPut,
    encode_group,
    encode_new_file,
)
from artstore.errors import InvalidFields

_cursors: dict[str, str] = {}
"""The newest cursor that a list has returned, by operation; it belongs to the default order."""
_made: set[str] = set()
"""Ids of the accounts and elements of this run."""
MODES = ("edit", "rw", "ro", "ar")
UNKNOWN_HEADER = "x-schemathesis-unknown-property"
_DIGESTS = ("Content-Digest", "Repr-Digest", "Content-MD5")
_CONDITIONS = ("If-Match", "If-Unmodified-Since")


@schemathesis.serializer("application/offset+octet-stream")
def send_bytes(_context: schemathesis.SerializationContext, value: Any) -> Any:
    """Bodies of resumable uploads, whose media type the tool does not know, as they are."""
    return value if isinstance(value, bytes) else str(value).encode()


@schemathesis.hook
def filter_case(_context: HookContext, case: Case[Any]) -> bool:
    """A header that no service knows is no fault of a request: it is ignored (RFC 9110 §5.1)."""
    return UNKNOWN_HEADER not in (case.headers or {})


@schemathesis.hook
def before_call(context: HookContext, case: Case[Any], kwargs: dict[str, Any]) -> None:
    name = str(case.operation.definition.raw.get("operationId"))
    _protect(name, case)
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    _replace_cursor(name, case)
    _replace_headers(name, case)
    if isinstance(case.body, dict):
        _replace_members(name, case.body)
    _replace_parameters(name, case)
    if name == "put_group":
        case.body = encode_group([_grouped_put()])
    case._sync_validated_hashes()  # the request is as right as before: the tool would judge an edited form wrongly


@schemathesis.hook
def after_call(context: HookContext, case: Case[Any], response: Response) -> None:
    name = str(case.operation.definition.raw.get("operationId"))
    if response.status_code == 201 and name in ("create_account", "register_element"):
        _made.add(str(response.json()["id"]))
    if response.status_code == 200 and case.method == "GET" and not set(case.query or {}) - {"limit", "wait_s"}:
        try:
            page = response.json()
        except ValueError:
            return
        if isinstance(page, dict) and isinstance(page.get("next_cursor"), str):
            _cursors[name] = page["next_cursor"]


def _protect(name: str, case: Case[Any]) -> None:
    """Keeps what the run itself depends on: accounts, elements and keys that it has not made are not changed."""
    path = case.path_parameters or {}
    if "account_id" in path and case.method != "GET" and path["account_id"] not in _made:
        path["account_id"] = str(uuid.uuid4())
    if str(path.get("element_id")).startswith("se-") and name in ("change_element", "remove_element"):
        path["element_id"] = f"gone-{secrets.token_hex(4)}"
    if name in ("rebuild_element", "verify_element") and path.get("element_id") in _made:
        path["element_id"] = "se-02"  # one that answers
    if name == "revoke_key":
        path["kid"] = secrets.token_hex(16)
    if (
        name in ("change_mode", "change_element_mode")
        and isinstance(case.body, dict)
        and case.body.get("mode") in MODES
    ):
        case.body["mode"] = "edit"  # the mode of se-01, which nothing but its configuration leaves


def _replace_cursor(name: str, case: Case[Any]) -> None:
    query = case.query or {}
    for parameter in ("cursor", "since"):
        if parameter in query and name.startswith(("list_", "get_files")) and name != "list_events":
            del query[parameter]
            if name in _cursors:
                query[parameter] = _cursors[name]
                query.pop("sort", None)
    if name == "list_events":  # there `since` is a time
        query.pop("cursor", None)
        query |= {"cursor": _cursors[name]} if name in _cursors else {}
    if int(query.get("wait_s") or 0) > 1:
        query["wait_s"] = 1  # the answer comes later than the tool waits


def _replace_headers(name: str, case: Case[Any]) -> None:
    headers = case.headers
    if headers is None:
        return
    for header in _DIGESTS:
        if header in headers:
            del headers[header]
            if isinstance(case.body, bytes):
                md5, sha256 = hashlib.md5(case.body), hashlib.sha256(case.body)
                right = md5 if header == "Content-MD5" else sha256
                encoded = base64.b64encode(right.digest()).decode()
                headers[header] = encoded if right is md5 else f"sha-256=:{encoded}:"
    for header in _CONDITIONS:
        if header in headers:
            del headers[header]
            headers["If-Match"] = "*"
    if "Range" in headers:
        headers["Range"] = "bytes=0-"
    if "Idempotency-Key" in headers:
        headers["Idempotency-Key"] = str(uuid.uuid4())
    if NEW_FILE_HEADER in headers:
        headers[NEW_FILE_HEADER] = encode_new_file(_new_file())
    if SAGA_HEADER in headers:
        headers[SAGA_HEADER] = str(uuid.uuid4())
        headers.pop("If-Match", None)
    if AT_MOST_HEADER in headers:  # more does not fit
        headers[AT_MOST_HEADER] = "65536"
    if FILES_HEADER in headers:
        headers[FILES_HEADER] = str(uuid.uuid4())
    headers.pop(MOVED_HEADER, None)
    if name == "append_upload":  # the upload may have a length already
        for header in [one for one in headers if one.lower() == "upload-length"]:
            del headers[header]
    headers.pop("Upload-Checksum", None)
    if name == "override_method":  # a PATCH needs the headers and the content of one
        headers["X-HTTP-Method-Override"] = "HEAD"
    if "Tus-Resumable" in headers and name == "create_upload":
        headers.pop("Upload-Defer-Length", None)
        headers.update({"Upload-Length": "0", "Upload-Metadata": "filename YS50eHQ="})


def _replace_members(name: str, body: dict[str, Any]) -> None:
    if not _fits(body.get("metadata", {})):
        body["metadata"] = {}
    if not _is_name(body.get("filename")):
        body["filename"] = "a.txt"
    for member, value in body.items():  # to a schema 5.0 is an integer; the services require it written as 5
        if isinstance(value, float) and value.is_integer():
            body[member] = int(value)
    if "saga_id" in body:
        body["saga_id"] = str(uuid.uuid4())
    if isinstance(body.get("new"), dict):
        body["new"] = msgspec.to_builtins(_new_file())
    if name == "upload_batch":  # each `attributes` stands before its file
        body.pop("attributes", None)
    if name == "patch_file":  # only of temporary files, and `retention` alone
        for member in ("ttl_days", "retention", "expires_at", "moving_to"):
            body.pop(member, None)
        if not body:
            body["tags"] = []
    elif name in ("create_account", "change_account") and body.get("role") != "SERVICE":
        body.pop("permissions", None)
    elif name in ("register_element", "change_element") and "url" in body:
        body["url"] = f"http://element-{secrets.token_hex(4)}.example:8010"


def _replace_parameters(name: str, case: Case[Any]) -> None:
    query = case.query or {}
    if name in ("upload_file", "create_file") and not _is_name(query.get("filename")):
        query["filename"] = "a.txt"
    form = case.body if name == "upload_file" and isinstance(case.body, dict) else {}
    for field in set(query) & set(form):  # each field is given once
        del query[field]
    if {**query, **form}.get("retention") != "temporary":
        query.pop("ttl_days", None)
        form.pop("ttl_days", None)
    if "metadata" in query and name in ("upload_file", "create_file"):
        query["metadata"] = '{"number": "5"}'
    if name in ("create_file", "put_file") and case.path_parameters:
        case.path_parameters["file_id"] = str(uuid.uuid4())


def _fits(metadata: Any) -> bool:
    """True if this is within the limits of an attr.json: 4 KiB in all, integers of 64 bits, a few levels."""
    text = json.dumps(metadata)
    integers = [int(one) for one in re.findall(r"(?<![\w.+-])-?\d{19,}(?![\w.])", text)]
    brackets = text.count("{") + text.count("[")
    return len(text) < 1500 and "\\u0000" not in text and not integers and brackets < 8


def _is_name(filename: Any) -> bool:
    """True for a name that a schema cannot tell from others: with a visible character, of few bytes; and for no name."""
    if isinstance(filename, str):
        try:
            check_filename(filename)
        except InvalidFields:
            return False
    return True


def _grouped_put() -> GroupedPut:
    return GroupedPut(str(uuid.uuid4()), str(uuid.uuid4()), _new_file(), b"content", None, None, "", {})


def _new_file() -> NewFile:
    return NewFile(
        filename="a.txt",
        content_type="text/plain",
        owner="tester",
        tags=[],
        metadata={},
        retention="permanent",
        expires_at=None,
    )
