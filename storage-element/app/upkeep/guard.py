"""May rebuild take rows out of the catalog? Not when the disk looks as if it were not there. Pure."""

from __future__ import annotations

MOST = 0.9
"""Of the files counted: some may have come and gone since the survey passed them."""
MANY_ROWS = 100
"""Up to here rows may go without a question, as long as some file was found."""


def refusal(found: int, missing: int, *, mounted: bool, forced: bool, counted: int | None = None) -> str | None:
    """Why `missing` rows must stay while `found` files were seen on the disk; None when they may go.

    `counted`: how many files the log says there are. A disk that has them is the right one, and the catalog is behind it.
    """
    if missing == 0 or forced:
        return None
    if not mounted:
        return "the root is another folder than the one that was opened: is its disk mounted?"
    if counted is not None and found >= MOST * counted:
        return None
    if found == 0:
        return f"no file was found, and the catalog has {missing}: is the right disk mounted?"
    if missing > MANY_ROWS and missing > found:
        return f"{missing} of the catalog's rows have no file, more than the {found} files that were found"
    return None
