"""GET|HEAD /api/links/{link}: a download by a signed link, without a token; the same at query and at an element."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from starlette.requests import Request

from artstore.audit.access_denied import record_denied_link
from artstore.auth.links import Link, LinkVerifier
from artstore.auth.tokens import Principal
from artstore.contracts.tokens import Permission, Role
from artstore.errors import LinkRefused
from artstore.http.data_routes import DataRoute, Handler, note_file
from artstore.http.openapi import BYTES_CONTENT, answer, header, operation
from artstore.http.request_headers import CONDITIONS, RANGES

LINKS_PATH = "/api/links"
_LINK = "link"
"""Key in the request's state: the verified link."""

CONDITION_HEADERS = [
    header("If-Match", "412 unless the content has this ETag"),
    header("If-None-Match", "304 when the content has this ETag"),
    header("If-Modified-Since", "304 when not changed since; ignored beside If-None-Match"),
    header("If-Unmodified-Since", "412 when changed since; ignored beside If-Match"),
]
CONTENT_HEADERS = [
    header("Range", "One range of bytes; several, or a malformed one, are ignored"),
    header("If-Range", "The ETag (or date) under which the range is wanted, else the whole file"),
    *CONDITION_HEADERS,
]


def content_answers(headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The OpenAPI responses of a download; `headers` are those that the service adds, with descriptions."""
    return {
        "200": {**answer("The file", headers=headers), "content": BYTES_CONTENT},
        "206": {**answer("The range", headers=headers), "content": BYTES_CONTENT},
        "304": answer("Not changed", headers=headers),
    }


def head_answers(headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    return {
        "200": answer("As GET, without the body", headers=headers),
        "304": answer("Not changed", headers=headers),
    }


def link_route(read: Handler, headers: Mapping[str, str] | None = None) -> DataRoute:
    """`read` answers GET and HEAD of the file that `link_of` the request names. The service's context has a
    `link_verifier`."""
    read_operation = operation(
        "A file's bytes by a signed link, without a token; as a download in all else",
        operation_id="read_link",
        parameters=CONTENT_HEADERS,
        responses=content_answers(headers),
    )
    head_operation = operation(
        "The headers of the file's bytes by a signed link",
        operation_id="head_link",
        parameters=CONDITION_HEADERS,
        responses=head_answers(headers),
    )
    return DataRoute(
        LINKS_PATH + "/{link}",
        ["GET", "HEAD"],
        read,
        {"get": read_operation, "head": head_operation},
        CONDITIONS | RANGES,
        transfer=True,
        admit=admit_link,
    )


def link_of(request: Request) -> Link:
    """The link that admitted the request."""
    return cast(Link, request.scope["state"][_LINK])


async def admit_link(request: Request) -> Principal:
    """The account that made the link: its transfers are limited together with those under its tokens. Raises
    LinkRefused."""
    verifier = cast(LinkVerifier, request.app.state.context.link_verifier)
    try:
        link = await verifier.verify(request.path_params["link"])
    except LinkRefused as error:
        await record_denied_link(request, error)
        raise
    request.scope["state"][_LINK] = link
    note_file(request, link.file_id)
    return Principal(
        client_id=link.account,
        subject=link.account,
        role=Role.READONLY,
        permissions=frozenset({Permission.FILES_READ}),
        issued_at_s=link.issued_at_s,
        expires_at_s=link.expires_at_ms / 1000,
    )
