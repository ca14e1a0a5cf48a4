"""Parses token requests in their three forms: JSON, the form of RFC 6749, and that form with HTTP Basic."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote_plus

import msgspec

from artstore.errors import InvalidFields, Malformed, UnsupportedMediaType
from artstore.http.json import parse_json

from .secrets import MAX_SECRET_CHARS

CLIENT_ID = re.compile(r"[A-Za-z0-9._:@-]{1,128}")
FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
GRANT_TYPE = "client_credentials"
MAX_FORM_FIELDS = 20


class OAuthError(Exception):
    """An error in the shape of RFC 6749 §5.2. `basic`: the client used HTTP Basic, so the answer names that
    scheme."""

    def __init__(self, error: str, description: str, *, status: int = 400, basic: bool = False) -> None:
        super().__init__(description)
        self.error, self.description, self.status, self.basic = error, description, status, basic


@dataclass(frozen=True, slots=True)
class Credentials:
    client_id: str
    client_secret: str
    scope: str = ""
    """Permissions to which the token is narrowed, separated by spaces (RFC 6749 §3.3). Empty: all of the account's."""
    basic: bool = False
    """They came with HTTP Basic."""


class _Body(msgspec.Struct):
    client_id: str
    client_secret: str
    scope: str = ""


def parse_credentials(content_type: str, authorization: str | None, body: bytes) -> Credentials:
    """Raises OAuthError for a bad form; Malformed, InvalidFields or UnsupportedMediaType for other bad
    requests."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == FORM:
        return _from_form(authorization, body)
    if media_type != JSON:
        raise UnsupportedMediaType(f"send {JSON} or {FORM}")
    # A Bearer token beside the body is the old token of a client that fetches a new one. It is ignored here.
    if authorization is not None and authorization.partition(" ")[0].lower() == "basic":
        raise Malformed("the client authenticates in two ways at once: in the Authorization header and in the body")
    try:
        given = parse_json(body, _Body)
    except InvalidFields as error:
        raise InvalidFields(error.detail, fields=["client_id", "client_secret", "scope"]) from error
    return Credentials(given.client_id, given.client_secret, given.scope)


def is_well_formed(credentials: Credentials) -> bool:
    """True if an account could have these credentials. Others never reach the database."""
    return CLIENT_ID.fullmatch(credentials.client_id) is not None and len(credentials.client_secret) <= MAX_SECRET_CHARS


def _from_form(authorization: str | None, body: bytes) -> Credentials:
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=MAX_FORM_FIELDS, errors="strict")
    except ValueError as error:
        raise OAuthError("invalid_request", "the form cannot be decoded") from error
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise OAuthError("invalid_request", "a parameter is given twice")
    grant_type = fields.get("grant_type")
    if grant_type is None:
        raise OAuthError("invalid_request", "grant_type is missing")
    if grant_type != GRANT_TYPE:
        raise OAuthError("unsupported_grant_type", f"only {GRANT_TYPE} is supported")
    # as with JSON, the old token of a client that fetches a new one is ignored
    if authorization is not None and authorization.partition(" ")[0].lower() == "bearer" and "client_secret" in fields:
        authorization = None
    if authorization is not None:
        if "client_secret" in fields:
            raise OAuthError("invalid_request", "the client authenticates in two ways at once")
        return _from_basic(authorization, fields)
    if "client_id" not in fields or "client_secret" not in fields:
        raise OAuthError("invalid_client", "client_id and client_secret are required", status=401)
    return Credentials(fields["client_id"], fields["client_secret"], fields.get("scope", ""))


def _from_basic(authorization: str, fields: Mapping[str, str]) -> Credentials:
    """RFC 6749 §2.3.1: both parts are form-encoded before they go into Basic.

    `curl -u` does not encode, so a client_id may contain colons here. Secrets made by admin never do.
    """
    scheme, _, encoded = authorization.partition(" ")
    try:
        if scheme.lower() != "basic":
            raise ValueError("not the Basic scheme")
        decoded = base64.b64decode(encoded.strip(), validate=True).decode("ascii")
    except (ValueError, binascii.Error) as error:
        raise OAuthError("invalid_client", "the Authorization header is not Basic", status=401, basic=True) from error
    client_id, colon, client_secret = decoded.rpartition(":")
    if not colon or fields.get("client_id", unquote_plus(client_id)) != unquote_plus(client_id):
        raise OAuthError("invalid_client", "the Authorization header must name the client", status=401, basic=True)
    return Credentials(unquote_plus(client_id), unquote_plus(client_secret), fields.get("scope", ""), basic=True)
