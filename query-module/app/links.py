"""Signed links: admin signs them, every query process verifies them with admin's public key alone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import msgspec

from artstore.audit.event import Event
from artstore.audit.writer import AuditWriter
from artstore.auth.keys import RemoteKeys
from artstore.auth.links import Disposition, Link, LinkOrder, LinkVerifier, SignedLink
from artstore.auth.tokens import Principal
from artstore.clock import Clock, rfc3339
from artstore.contracts.files import Attributes
from artstore.contracts.tokens import MAX_LINK_S
from artstore.errors import BadGateway
from artstore.peers.client import Peer

SIGN_TIMEOUT_S = 5.0


class LinkRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /api/files/{file_id}/links."""

    ttl_s: Annotated[int, msgspec.Meta(ge=1, le=MAX_LINK_S)] = 3600
    disposition: Disposition = "attachment"


@dataclass(frozen=True, slots=True)
class NewLink:
    path: str
    expires_at: str


class Links:
    """One per process."""

    def __init__(self, keys: RemoteKeys, admin: Peer, audit: AuditWriter, clock: Clock, public_url: str | None) -> None:
        self.public_url = public_url
        self._admin, self._audit, self._clock = admin, audit, clock
        self._verifier = LinkVerifier(keys, clock)

    async def make(self, file: Attributes, maker: Principal, wanted: LinkRequest) -> NewLink:
        """Given out only after the audit log has it durably. Raises Forbidden, Unavailable."""
        order = LinkOrder(
            account=maker.subject,
            token_issued_at_s=int(maker.issued_at_s),
            file_id=file.file_id,
            disposition=wanted.disposition,
            expires_at_ms=int(1000 * self._clock.unix_s()) + 1000 * wanted.ttl_s,
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
        }
        await self._audit.record(Event("link:create", maker.subject, file.file_id, metadata=metadata))
        return NewLink(f"/api/links/{signed.link}", expires_at)

    async def verify(self, link: str) -> Link:
        """Raises LinkRefused."""
        return await self._verifier.verify(link)
