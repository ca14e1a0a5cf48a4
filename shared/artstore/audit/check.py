"""Verifies the audit log and names each kind of tampering. The same code checks the database and an exported
file.

An event cannot be forged without a signing key. An event that was changed, moved, copied or written by someone
else has a wrong signature; a deleted one leaves a gap in `seq`; a cut-off end contradicts the checkpoints, which
name the head of every chain and are signed and chained themselves.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from artstore.audit.event import GENESIS, Signed, fingerprint, hash_of, is_signed_by

ADMIN_CHAIN = "admin"
CHECKPOINTS = "checkpoints"
"""Used as the chain's name in findings about the checkpoints themselves."""
MAX_FINDINGS = 1000
MAX_SEQ = 2**63 - 1


class CheckpointHeads:
    """The chain heads that checkpoints name, in a temporary SQLite database: years of checkpoints use disk, not
    memory. The database disappears when it is closed. Use it in one thread at a time."""

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


@dataclass(frozen=True, slots=True)
class Finding:
    """`what`: changed, inserted (a second event with its number), deleted, cut_off, forked, unknown_key or wrong_key."""

    what: str
    chain: str
    seq: int
    detail: str


@dataclass(slots=True)
class _Position:
    """How far one chain has been verified. `hash` is None when the event at this position cannot be trusted."""

    seq: int = 0
    hash: str | None = GENESIS


@dataclass(slots=True)
class Checker:
    """Pass every checkpoint in the order of their numbers, then every event, each chain in the order of
    `seq`; then call `finish()`. With `whole=False` the events are a selection, so gaps are not reported.

    `began` is the checkpoint that an earlier check or the newest seal ended with; pass only events and
    checkpoints after it.
    """

    keys: Mapping[str, bytes]
    whole: bool = True
    began: Signed | None = None
    events: int = 0
    checkpoints: int = 0
    last: Signed | None = None
    """The newest checkpoint passed so far, else `began`."""
    findings: list[Finding] = field(default_factory=list)
    _positions: dict[str, _Position] = field(default_factory=dict)
    _public: dict[str, Ed25519PublicKey | None] = field(default_factory=dict)
    _heads: CheckpointHeads = field(default_factory=CheckpointHeads)
    _checkpoint_findings: list[Finding] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.last = self.began
        if self.began is not None:
            for chain, head in self.began["heads"].items():
                self._positions[chain] = _Position(head["seq"], head["hash"])

    def add_checkpoint(self, checkpoint: Signed) -> None:
        number, prev = (0, GENESIS) if self.last is None else (self.last["number"], hash_of(self.last))
        seq, key = checkpoint["number"], self._key_of(ADMIN_CHAIN)
        if seq > number + 1:
            self._find_checkpoint("deleted", number + 1, f"checkpoints {number + 1} to {seq - 1} are missing")
        elif key is not None and not is_signed_by(checkpoint, key):
            self._find_checkpoint("changed", seq, "its signature does not match its content")
        elif checkpoint["prev"] != prev:
            self._find_checkpoint("forked", seq, "it does not follow the checkpoint before it")
        self.checkpoints += 1
        self.last = checkpoint
        self._heads.add(checkpoint)

    def add(self, event: Signed) -> None:
        self.events += 1
        chain, seq = event["chain"], event["seq"]
        position = self._positions.setdefault(chain, _Position())
        if seq <= position.seq and self.whole:
            self._find("inserted", chain, seq, "a second event has this number")
        elif seq > position.seq + 1 and self.whole:
            self._find("deleted", chain, position.seq + 1, f"events {position.seq + 1} to {seq - 1} are missing")
            position.hash = None
        key = self._key_of(chain)
        if key is None or not is_signed_by(event, key):
            if key is not None:
                self._find("changed", chain, seq, "its signature does not match its content")
            self._positions[chain] = _Position(max(seq, position.seq), None)
            return
        if self.whole and position.hash is not None and event["prev"] != position.hash:
            self._find("forked", chain, seq, "it is signed, but does not follow the event before it")
        digest = hash_of(event)
        named = self._heads.find(chain, seq)
        if named is not None and named[0] != digest:
            self._find("forked", chain, seq, f"checkpoint {named[1]} names a different event here")
        self._positions[chain] = _Position(seq, digest)

    def finish(self, *, known_number: int = 0, known_ends: Mapping[str, int] | None = None) -> list[Finding]:
        """Returns all findings. `known_number` and `known_ends` come from an independent record: the newest
        checkpoint's number, and the last `seq` seen of each chain."""
        if self.whole:
            self._check_ends(known_ends or {})
        number = 0 if self.last is None else self.last["number"]
        if number < known_number:
            self._find_checkpoint("cut_off", number + 1, f"they end at {number}, but number {known_number} was signed")
        self.findings += self._checkpoint_findings
        self._heads.close()
        return self.findings

    def _key_of(self, chain: str) -> Ed25519PublicKey | None:
        if chain not in self._public:
            raw = self.keys.get(chain)
            self._public[chain] = None if raw is None else _find_key(raw)
            if raw is None:
                self._find("unknown_key", chain, 0, "no public key is known for this chain")
            elif chain != ADMIN_CHAIN and chain.rpartition(":")[2] != fingerprint(raw):
                self._find("wrong_key", chain, 0, "the chain's name does not match its public key")
        return self._public[chain]

    def _check_ends(self, known_ends: Mapping[str, int]) -> None:
        ends = {chain: (seq, f"but event {seq} was seen") for chain, seq in known_ends.items()}
        for chain, seq, number in self._heads.latest():
            if seq >= ends.get(chain, (0, ""))[0]:
                ends[chain] = (seq, f"but checkpoint {number} names event {seq}")
        for chain, (seq, saw) in sorted(ends.items()):
            position = self._positions.get(chain, _Position())
            if position.seq < seq:
                self._find("cut_off", chain, position.seq + 1, f"the chain ends at {position.seq}, {saw}")

    def _find_checkpoint(self, what: str, number: int, detail: str) -> None:
        if len(self._checkpoint_findings) < MAX_FINDINGS:
            self._checkpoint_findings.append(Finding(what, CHECKPOINTS, number, detail))

    def _find(self, what: str, chain: str, seq: int, detail: str) -> None:
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(Finding(what, chain, seq, detail))


def _find_key(raw: bytes) -> Ed25519PublicKey | None:
    try:
        return Ed25519PublicKey.from_public_bytes(raw)
    except ValueError:
        return None


def check(keys: Mapping[str, bytes], events: Iterable[Signed], checkpoints: Iterable[Signed] = ()) -> list[Finding]:
    """Runs a whole check on a log that fits into memory."""
    checker = Checker(keys)
    for checkpoint in checkpoints:
        checker.add_checkpoint(checkpoint)
    for event in events:
        checker.add(event)
    return checker.finish()
