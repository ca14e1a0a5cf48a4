"""The chain ends that checkpoints name, in a temporary SQLite database: years of checkpoints take disk, not memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from artstore.audit.event import Signed

MAX_SEQ = 2**63 - 1


class Promises:
    """One check's. Used by one thread at a time. The database has no name and is gone when it is closed."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.execute(
            "CREATE TABLE promised (chain TEXT, seq INTEGER, hash TEXT, number INTEGER, PRIMARY KEY (chain, seq)) WITHOUT ROWID"
        )

    def add(self, checkpoint: Signed) -> None:
        """Of several checkpoints that name one end the first counts."""
        rows = [
            (chain, head["seq"], head["hash"], checkpoint["number"])
            for chain, head in checkpoint["heads"].items()
            if 0 <= head["seq"] <= MAX_SEQ
        ]
        self._db.executemany("INSERT OR IGNORE INTO promised VALUES (?, ?, ?, ?)", rows)

    def find(self, chain: str, seq: int) -> tuple[str, int] | None:
        """(hash, number of the checkpoint) of an event that a chain has ended with."""
        if not 0 <= seq <= MAX_SEQ:
            return None
        found = self._db.execute("SELECT hash, number FROM promised WHERE chain = ? AND seq = ?", (chain, seq))
        row: tuple[str, int] | None = found.fetchone()
        return row

    def reach(self, chain: str, seq: int) -> bool:
        """Whether a checkpoint has seen the chain go as far as `seq`."""
        (last,) = self._db.execute("SELECT max(seq) FROM promised WHERE chain = ?", (chain,)).fetchone()
        return last is not None and last >= seq

    def ends(self) -> Iterator[tuple[str, int, int]]:
        """(chain, its last promised seq, number of the checkpoint)."""
        yield from self._db.execute("SELECT chain, max(seq), number FROM promised GROUP BY chain ORDER BY chain")

    def close(self) -> None:
        self._db.close()
