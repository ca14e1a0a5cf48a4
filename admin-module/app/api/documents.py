"""OpenAPI schemas of what admin answers."""

from __future__ import annotations

from typing import Any

from artstore.contracts.elements import Element
from artstore.contracts.schemas import SAGA, component, page
from artstore.contracts.tokens import Permission, Role
from artstore.http.openapi import TEXT_SCHEMA, UUID_SCHEMA, answer, object_schema, struct_schema

_TIME: dict[str, Any] = {"type": "string", "format": "date-time"}
_TIME_OR_NULL: dict[str, Any] = {"type": ["string", "null"], "format": "date-time"}
_COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
_SECRET: dict[str, Any] = {"type": "string", "description": "Shown in this answer only"}

_ACCOUNT: dict[str, Any] = {
    "id": UUID_SCHEMA,
    "client_id": TEXT_SCHEMA,
    "role": {"type": "string", "enum": [role.value for role in Role]},
    "permissions": {"type": "array", "items": {"type": "string", "enum": sorted(one.value for one in Permission)}},
    "name": TEXT_SCHEMA,
    "description": TEXT_SCHEMA,
    "suspended": {"type": "boolean"},
    "rate_per_minute": {"type": ["integer", "null"]},
    "expires_at": _TIME_OR_NULL,
    "previous_secret_valid_until": _TIME_OR_NULL,
    "created_at": _TIME,
    "updated_at": _TIME,
}
ACCOUNT = component("Account", object_schema(_ACCOUNT))
NEW_ACCOUNT = component("AccountWithSecret", object_schema({**_ACCOUNT, "client_secret": _SECRET}))
ACCOUNTS = page("AccountPage", ACCOUNT)

ELEMENT = struct_schema(Element)
ELEMENTS = page("ElementPage", ELEMENT, version=_COUNT, generation=_COUNT, published_at=_TIME_OR_NULL)
ELEMENT_ANSWER: dict[str, Any] = {
    "type": "object",
    "description": "The element as registered, and `registry`; or `verdict`",
}
MODE_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {"schema": ELEMENT}}},
    202: answer("The element is away: the change is queued", SAGA, headers={"Location": "The saga of the change"}),
}
UPKEEP: dict[str, Any] = {"type": "object", "description": "The progress of rebuild and verification"}

_KEY = component(
    "SigningKey",
    object_schema(
        {
            "kid": TEXT_SCHEMA,
            "state": {"type": "string", "enum": ["next", "active", "retiring", "revoked"]},
            "since": _TIME,
            "bits": _COUNT,
        }
    ),
)
_LINK_KEY = object_schema({"kid": TEXT_SCHEMA, "since": _TIME})
KEYS = page("SigningKeyPage", _KEY, link_key={"oneOf": [_LINK_KEY, {"type": "null"}]})
JWKS = object_schema({"keys": {"type": "array", "items": {"type": "object"}}})

SAGAS = page("SagaPage", SAGA)

_EVENT = component(
    "AuditEvent",
    object_schema(
        {
            **dict.fromkeys(
                ("service", "action", "user_id", "resource", "result", "chain", "prev", "signature"), TEXT_SCHEMA
            ),
            "timestamp": _TIME,
            "seq": _COUNT,
            "metadata": {"type": "object"},
        }
    ),
)
EVENTS = page("AuditEventPage", _EVENT)
SEAL: dict[str, Any] = {"type": "object", "description": "A signed checkpoint or seal"}
SIGNED = page("SignedPage", SEAL)
REPORT: dict[str, Any] = {"type": "object", "description": "The chains, and each change that was found"}
PRUNED = object_schema({"deleted": _COUNT, "left": {"type": "boolean"}})
