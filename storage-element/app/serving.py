"""Decides whether this element serves, and if not, why. Every request, health check and report uses this one
object.

An element serves once its store is open and its root is accepted. A root that was accepted before
(`element.json` has this) serves at once, also while admin is unavailable. But it may be a copy, or out of
date: until admin has accepted it in this process, a missing file is answered as unavailable instead of not
found, and nothing outside the root may follow from it.
"""

from __future__ import annotations

from artstore.errors import ADMIN, ArtStoreError, NotFound, Unavailable

from .store.progress import Progress
from .store.root import Presence


class Serving:
    """`element_id` is the field `away` of its errors."""

    def __init__(self, element_id: str) -> None:
        self._element_id = element_id
        self.progress = Progress()
        self.presence: Presence | None = None
        """Set once the root is open."""
        self.open = False
        """The store is open."""
        self.accepted = False
        """The registry has accepted the root, now or before."""
        self.confirmed = False
        """The registry has accepted the root in this process."""
        self.refusal: str | None = None
        """Why admin refuses this root, until it accepts it."""
        self.waiting_for: str | None = None
        """Why the start cannot open a root yet."""

    def close(self) -> None:
        """Called before the store is closed."""
        self.open = False

    def find_fault(self) -> str | None:
        """Why nothing is served; None while the element serves."""
        if self.refusal is not None:
            return f"the root is refused: {self.refusal}"
        if self.waiting_for is not None:
            return self.waiting_for
        if not self.open:
            return f"the element is starting: {self.progress}"
        if not self.accepted:
            return "the root is new, and admin has not accepted it yet"
        return self.presence.find_fault() if self.presence is not None else None

    def require(self) -> None:
        """Raises Unavailable while nothing is served."""
        fault = self.find_fault()
        if fault is not None:
            raise Unavailable(fault, away=self._element_id)

    def require_confirmed(self) -> None:
        """Raises Unavailable also while admin has not accepted the root in this process."""
        self.require()
        if not self.confirmed:
            raise Unavailable("admin has not confirmed this root yet", away=ADMIN)

    def explain(self, error: NotFound) -> ArtStoreError:
        """The error for a missing file: NotFound, or Unavailable while the file may exist."""
        try:
            self.require_confirmed()
        except Unavailable as unavailable:
            return unavailable
        return error

    async def check_root(self) -> str:
        """The health check `root`."""
        fault = self.refusal or self.waiting_for
        if fault is None and self.presence is not None:
            fault = self.presence.find_fault()
        if fault is not None:
            raise Unavailable(fault)
        if not self.accepted:
            # Also while the store is not open: a check that passed until then would still show the element as
            # ready.
            raise Unavailable("new, and admin has not accepted it yet")
        return "accepted" if self.confirmed else "accepted before, admin has not confirmed it yet"

    async def check_recovery(self) -> str:
        """The health check `recovery`."""
        if not self.open:
            raise Unavailable(self.waiting_for or str(self.progress))
        return "done"
