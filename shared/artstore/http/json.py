"""JSON responses and JSON request bodies, without FastAPI's models."""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
import orjson
from starlette.requests import Request
from starlette.responses import Response

from artstore.errors import InvalidFields, Malformed
from artstore.http.body import MAX_JSON_BYTES, read_body

SHALLOW_BRACKETS = 500
"""A body with fewer is nested less deeply than any parser allows."""

T = TypeVar("T")


class JsonResponse(Response):
    """A response whose `content` is encoded JSON (bytes), or plain values and msgspec structs."""

    media_type = "application/json"

    def __init__(self, content: Any, status_code: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """Does what Starlette does, for a body that is always there."""
        self.status_code, self.background = status_code, None
        body = self.body = self.render(content)
        self.raw_headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
        if headers:
            self.raw_headers += [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]

    def render(self, content: Any) -> bytes:
        return content if isinstance(content, bytes) else orjson.dumps(content, default=msgspec.to_builtins)


def page(items: list[Any], next_cursor: str | None) -> JsonResponse:
    """The response of every list: {"items": [...], "next_cursor": text or null}."""
    return JsonResponse({"items": items, "next_cursor": next_cursor}, headers={"cache-control": "no-store"})


async def read_json(request: Request, shape: type[T], max_bytes: int = MAX_JSON_BYTES) -> T:
    """The request's body as a msgspec struct. Raises as `read_body` and `parse_json`."""
    return parse_json(await read_body(request, max_bytes), shape)


def parse_json(body: bytes, shape: type[T]) -> T:
    """The body as a msgspec struct. Raises Malformed (not JSON) or InvalidFields (wrong shape)."""
    body = without_bom(body)
    check_keys(body)
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError as error:
        raise InvalidFields(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Malformed("the body is not JSON") from error


def check_keys(body: bytes | str) -> None:
    """Raises Malformed if an object has a key twice, because parsers disagree about which value counts (RFC
    8259 §4), or if the nesting is too deep to parse. A body that is not JSON at all is left to the caller's
    parser."""
    if _is_rewritten_alike(body):
        return
    try:
        json.loads(body, object_pairs_hook=_unique, parse_int=str, parse_float=str)
    except ValueError:
        return
    except RecursionError as error:
        raise Malformed("the body is nested too deeply") from error


def _is_rewritten_alike(body: bytes | str) -> bool:
    """True for a compact body, as our services send it, without equal keys: orjson would lose one of them. Takes a third of
    the time of the complete check."""
    given = body.encode("utf-8", "replace") if isinstance(body, str) else body
    if given.count(b"{") + given.count(b"[") > SHALLOW_BRACKETS:
        return False
    try:
        return orjson.dumps(orjson.loads(given)) == given
    except ValueError:
        return False


def without_bom(body: bytes) -> bytes:
    """The body without the byte order mark that some editors and shells write; a parser may ignore it (RFC
    8259 §8.1)."""
    return body.removeprefix(codecs.BOM_UTF8)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Malformed(f"the JSON object has the key {twice[:64]!a} twice")
    return found
