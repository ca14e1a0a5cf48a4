"""If-Match of a change (RFC 9110 §13.1.1), as the revisions and contents it allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from artstore.contracts.files import Attributes
from artstore.errors import RevisionMismatch
from artstore.http.conditions import checksums_in, if_match, revisions_in


@dataclass(frozen=True, slots=True)
class Precondition:
    """`revisions` is None without a condition. `checksums` are set for new content only, whose old ETag may
    be stated."""

    revisions: tuple[int, ...] | None = None
    checksums: tuple[str, ...] = ()

    @classmethod
    def parse(cls, lines: Sequence[str], *, of_content: bool = False) -> Precondition:
        """The lines of If-Match. Raises Malformed, and RevisionMismatch when no tag can match."""
        tags = if_match(lines)
        if tags is None:
            return cls()
        revisions = tuple(sorted(revisions_in(tags)))
        checksums = tuple(sorted(checksums_in(tags))) if of_content else ()
        if not revisions and not checksums:
            raise RevisionMismatch('If-Match must hold the ETag of the file, such as "3"')
        return cls(revisions, checksums)

    def allows(self, revision: int) -> bool:
        return self.revisions is None or revision in self.revisions

    def header(self) -> dict[str, str]:
        """If-Match for the element, which knows revisions only."""
        if self.revisions is None:
            return {}
        return {"if-match": ", ".join(f'"{revision}"' for revision in self.revisions)}

    def resolve(self, now: Attributes) -> Precondition:
        """The condition in revisions only, which the element then checks under its lock.

        Raises RevisionMismatch when neither the revision nor the content is allowed.
        """
        revisions = self.revisions or ()
        if now.checksum in self.checksums:
            revisions = (*revisions, now.revision)
        if now.revision not in revisions:
            raise RevisionMismatch(f"the file is at revision {now.revision}", revision=now.revision)
        return Precondition(revisions)
