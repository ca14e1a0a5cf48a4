"""The chain heads that checkpoints name, in a temporary SQLite database: years of checkpoints use disk, not
memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from artstore.audit.event import Signed

MAX_SEQ = 2**63 - 1


class CheckpointHeads:
    """The heads of one check. Use it in one thread at a time. The database has no name and disappears when it
    is closed."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.execute(
            "CREATE TABLE heads (chain TEXT, seq INTEGER, hash TEXT, number INTEGER, PRIMARY KEY (chain, seq)) WITHOUT ROWID"
        )

    def add(self, checkpoint: Signed) -> None:
        """Adds the heads that a checkpoint names. When several checkpoints name the same head, the first one
        counts."""
        rows = [
            (chain, head["seq"], head["hash"], checkpoint["number"])
            for chain, head in checkpoint["heads"].items()
            if 0 <= head["seq"] <= MAX_SEQ
        ]
        self._db.executemany("INSERT OR IGNORE INTO heads VALUES (?, ?, ?, ?)", rows)

    def find(self, chain: str, seq: int) -> tuple[str, int] | None:
        """(hash, checkpoint number) if some checkpoint names event `seq` as the head of the chain."""
        if not 0 <= seq <= MAX_SEQ:
            return None
        found = self._db.execute("SELECT hash, number FROM heads WHERE chain = ? AND seq = ?", (chain, seq))
        row: tuple[str, int] | None = found.fetchone()
        return row

    def latest(self) -> Iterator[tuple[str, int, int]]:
        """(chain, seq of its highest head, checkpoint number) for each chain."""
        yield from self._db.execute("SELECT chain, max(seq), number FROM heads GROUP BY chain ORDER BY chain")

    def close(self) -> None:
        self._db.close()
