"""Makes signed links: admin signs them, and the service that answers one verifies it with admin's public key alone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import msgspec

from artstore.audit.event import Event
from artstore.audit.writer import AuditWriter
from artstore.auth.links import Disposition, LinkOrder, LinkOrderKey, SignedLink
from artstore.auth.tokens import Principal
from artstore.clock import Clock, rfc3339
from artstore.contracts.files import Attributes
from artstore.contracts.tokens import MAX_LINK_S
from artstore.discovery import Discovery
from artstore.errors import BadGateway
from artstore.http.idempotency_key import fingerprint_of
from artstore.peers.client import Peer

SIGN_TIMEOUT_S = 5.0


class LinkRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /api/files/{file_id}/links."""

    ttl_s: Annotated[int, msgspec.Meta(ge=1, le=MAX_LINK_S)] = 3600
    disposition: Disposition = "attachment"


@dataclass(frozen=True, slots=True)
class NewLink:
    """`origin` is that of the element that answers the link; None: query does."""

    link: str
    origin: str | None
    expires_at: str
    replayed: bool
    """It was made for an earlier request under the same Idempotency-Key."""


class Links:
    """One per process."""

    def __init__(self, admin: Peer, audit: AuditWriter, discovery: Discovery, clock: Clock) -> None:
        self._admin, self._audit, self._discovery, self._clock = admin, audit, discovery, clock

    async def make(self, file: Attributes, maker: Principal, wanted: LinkRequest, key: str | None) -> NewLink:
        """Given out only after the audit log has it durably, again where it is a replay: a crash may have lost the first
        event. Raises Forbidden, KeyReused, KeyInUse, Unavailable."""
        order = LinkOrder(
            account=maker.subject,
            token_issued_at_s=int(maker.issued_at_s),
            file_id=file.file_id,
            disposition=wanted.disposition,
            expires_at_ms=int(1000 * self._clock.unix_s()) + 1000 * wanted.ttl_s,
            key=_link_key(file, maker, wanted, key) if key is not None else None,
        )
        answer = await self._admin.call(
            "POST", "/api/auth/links", body=msgspec.json.encode(order), timeout_s=SIGN_TIMEOUT_S
        )
        try:
            signed = msgspec.json.decode(answer.body, type=SignedLink)
        except msgspec.MsgspecError as error:
            raise BadGateway("admin answered without a link") from error
        expires_at = rfc3339(datetime.fromtimestamp(signed.expires_at_ms / 1000, UTC))
        metadata = {
            "file_size": file.size_bytes,
            "storage_element": file.storage_element_id,
            "disposition": wanted.disposition,
            "expires_at": expires_at,
        } | ({"replayed": True} if signed.replayed else {})
        await self._audit.record(Event("link:create", maker.subject, file.file_id, metadata=metadata))
        return NewLink(signed.link, self._origin_for(file), expires_at, signed.replayed)

    def _origin_for(self, file: Attributes) -> str | None:
        """The public address of the file's element. A temporary file may become permanent and move to another element, so
        its links name query, which finds it."""
        element = self._discovery.find(file.storage_element_id)
        return element.public_url if element is not None and file.retention == "permanent" else None


def _link_key(file: Attributes, maker: Principal, wanted: LinkRequest, key: str) -> LinkOrderKey:
    fingerprint = fingerprint_of(file.file_id, wanted.ttl_s, wanted.disposition)
    return LinkOrderKey(client_id=maker.client_id, key=key, fingerprint=fingerprint)
