"""JSON answers and bodies without a model in between."""

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

T = TypeVar("T")

MAX_DEPTH = 32
"""Of arrays and objects in each other in a body; ours have three or four."""
_QUOTE = 0x22
_OTHER_BYTES = bytes(set(range(256)) - set(b'[]{}"'))


class JsonResponse(Response):
    """`content` is bytes that are JSON already, or plain values and msgspec structs."""

    media_type = "application/json"

    def __init__(self, content: Any, status_code: int = 200, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(content, status_code, headers)

    def render(self, content: Any) -> bytes:
        return content if isinstance(content, bytes) else orjson.dumps(content, default=msgspec.to_builtins)


def page(items: list[Any], next_cursor: str | None) -> JsonResponse:
    """The shape of every list."""
    return JsonResponse({"items": items, "next_cursor": next_cursor})


async def read_json(request: Request, shape: type[T]) -> T:
    """The request's body as a msgspec struct. Raises Malformed (no JSON) or InvalidFields (wrong shape)."""
    body = without_bom(await request.body())
    check_depth(body)
    check_keys(body)
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError as error:
        raise InvalidFields(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Malformed("the body is not JSON") from error


def check_depth(body: bytes) -> None:
    """Raises Malformed for what is nested deeper than MAX_DEPTH, before a parser goes down there."""
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return
    depth, quoted = 0, False
    for mark in body.replace(rb"\\", b"").replace(rb"\"", b"").translate(None, _OTHER_BYTES):
        if mark == _QUOTE:
            quoted = not quoted
        elif not quoted:
            depth += 1 if mark in b"[{" else -1
            if depth > MAX_DEPTH:
                raise Malformed(f"the body is nested deeper than {MAX_DEPTH}")


def check_keys(body: bytes | str) -> None:
    """Raises Malformed when an object has a key twice: parsers disagree about which value counts (RFC 8259 §4). What is not
    JSON at all is left to the parser behind this."""
    try:
        json.loads(body, object_pairs_hook=_unique, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return


def without_bom(body: bytes) -> bytes:
    """Some editors and shells begin UTF-8 with a byte order mark; a parser may skip it (RFC 8259 §8.1)."""
    return body.removeprefix(codecs.BOM_UTF8)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Malformed(f"the JSON has the key {twice[:64]!a} twice")
    return found
