"""Finds and names what was done to the audit log. Pure: the same code checks the database and an exported file.

Without the signing keys nobody can make an event that fits: what is changed or put in shows by its signature, what is taken out
by the gap, what is cut off by the checkpoints, which name the end of every chain and are chained and signed themselves.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from artstore.audit.event import GENESIS, Signed, fingerprint, hash_of, is_signed_by
from artstore.audit.promises import Promises

ADMIN_CHAIN = "admin"
CHECKPOINTS = "checkpoints"
"""Stands for the chain's name in findings about the checkpoints themselves."""
MAX_FINDINGS = 1000
MAX_TRIES = 200
"""Places at which a displaced event is tried."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`what`: changed, inserted, deleted, reordered, replayed, cut_off, forked, unknown_key or wrong_key."""

    what: str
    chain: str
    seq: int
    detail: str


@dataclass(slots=True)
class _Place:
    """Where the walk along one chain is. `hash` None: the event there is not to be trusted."""

    seq: int = 0
    hash: str | None = GENESIS


@dataclass(slots=True)
class _Signatures:
    """Of one chain, in 16 bytes an event: only what was copied is ever looked for."""

    seqs: array[int] = field(default_factory=lambda: array("q"))
    marks: array[int] = field(default_factory=lambda: array("q"))

    def add(self, seq: int, signature: str) -> None:
        self.seqs.append(seq)
        self.marks.append(hash(signature))


@dataclass(slots=True)
class Checker:
    """Give it every checkpoint in the order of their numbers, then every event, each chain in the order of `seq`, then
    `finish()`. `whole=False`: a part, so gaps say nothing.

    `began`: the checkpoint that an earlier check or the newest seal ended with. Then only what came after it is given.
    """

    keys: Mapping[str, bytes]
    whole: bool = True
    began: Signed | None = None
    events: int = 0
    checkpoints: int = 0
    last: Signed | None = None
    """The newest checkpoint given, else `began`."""
    findings: list[Finding] = field(default_factory=list)
    _places: dict[str, _Place] = field(default_factory=dict)
    _public: dict[str, Ed25519PublicKey | None] = field(default_factory=dict)
    _bad: list[Signed] = field(default_factory=list)
    _vouched: set[tuple[str, int]] = field(default_factory=set)
    _signatures: dict[str, _Signatures] = field(default_factory=dict)
    _missing: list[tuple[str, int]] = field(default_factory=list)
    _promises: Promises = field(default_factory=Promises)
    _of_checkpoints: list[Finding] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.last = self.began
        if self.began is not None:
            for chain, head in self.began["heads"].items():
                self._places[chain] = _Place(head["seq"], head["hash"])

    def add_checkpoint(self, checkpoint: Signed) -> None:
        number, prev = (0, GENESIS) if self.last is None else (self.last["number"], hash_of(self.last))
        seq, key = checkpoint["number"], self._key_of(ADMIN_CHAIN)
        if seq > number + 1:
            self._doubt("deleted", number + 1, f"checkpoints {number + 1} to {seq - 1} are missing")
        elif key is not None and not is_signed_by(checkpoint, key):
            self._doubt("changed", seq, "its signature does not fit what it says")
        elif checkpoint["prev"] != prev:
            self._doubt("forked", seq, "it follows another checkpoint than the one before it")
        self.checkpoints += 1
        self.last = checkpoint
        self._promises.add(checkpoint)

    def add(self, event: Signed) -> None:
        self.events += 1
        chain, seq = event["chain"], event["seq"]
        place = self._places.setdefault(chain, _Place())
        if seq <= place.seq and self.whole:
            self._find("inserted", chain, seq, "a second event stands in this place")
        elif seq > place.seq + 1 and self.whole:
            last = seq - 1
            self._find("deleted", chain, place.seq + 1, f"events {place.seq + 1} to {last} are missing")
            self._missing += [(chain, gone) for gone in range(place.seq + 1, min(last, place.seq + MAX_TRIES) + 1)]
            place.hash = None
        key = self._key_of(chain)
        if key is None or not is_signed_by(event, key):
            if key is not None and len(self._bad) < MAX_FINDINGS:
                self._bad.append(event)
            self._places[chain] = _Place(max(seq, place.seq), None)
            return
        if self.whole and place.hash is not None and event["prev"] != place.hash:
            self._find("forked", chain, seq, "it is signed, but follows another event than the one before it")
        digest = hash_of(event)
        promised = self._promises.find(chain, seq)
        if promised is not None and promised[0] != digest:
            self._find("forked", chain, seq, f"checkpoint {promised[1]} saw another event here")
        if place.hash is None:
            self._vouched.add((chain, seq - 1))
        self._signatures.setdefault(chain, _Signatures()).add(seq, event["signature"])
        self._places[chain] = _Place(seq, digest)

    def finish(self, *, known_number: int = 0, known_ends: Mapping[str, int] | None = None) -> list[Finding]:
        """Everything found. What somebody remembers from elsewhere: the newest checkpoint's number, and how far chains went."""
        copies = _find_copies(self._signatures, {event["signature"] for event in self._bad})
        for event in self._bad:
            self.findings.append(self._name(event, copies))
        if self.whole:
            self._check_ends(known_ends or {})
        number = 0 if self.last is None else self.last["number"]
        if number < known_number:
            self._doubt("cut_off", number + 1, f"they end at {number}, number {known_number} was signed")
        self.findings += self._of_checkpoints
        self._promises.close()
        return self.findings

    def _key_of(self, chain: str) -> Ed25519PublicKey | None:
        if chain not in self._public:
            raw = self.keys.get(chain)
            self._public[chain] = None if raw is None else _find_key(raw)
            if raw is None:
                self._find("unknown_key", chain, 0, "nobody has left a public key for this chain")
            elif chain != ADMIN_CHAIN and chain.rpartition(":")[2] != fingerprint(raw):
                self._find("wrong_key", chain, 0, "the chain is named after another key")
        return self._public[chain]

    def _name(self, event: Signed, copies: Mapping[str, tuple[str, int]]) -> Finding:
        """What became of an event whose signature does not fit."""
        chain, seq = event["chain"], event["seq"]
        copied = copies.get(event["signature"])
        if copied is not None:
            return Finding("replayed", chain, seq, f"a copy of event {copied[1]} of {copied[0]}")
        places = [*self._missing, *((other["chain"], other["seq"]) for other in self._bad)]
        for origin, number in places[:MAX_TRIES]:
            key = self._key_of(origin)
            if key is not None and is_signed_by({**event, "chain": origin, "seq": number}, key):
                return Finding("reordered", chain, seq, f"this is event {number} of {origin}")
        if (chain, seq) in self._vouched or self._promises.reach(chain, seq):
            return Finding("changed", chain, seq, "its signature does not fit what it says")
        return Finding("inserted", chain, seq, "nobody who may write this chain has signed it")

    def _check_ends(self, known_ends: Mapping[str, int]) -> None:
        ends = {chain: (seq, f"event {seq} was seen") for chain, seq in known_ends.items()}
        for chain, seq, number in self._promises.ends():
            if seq >= ends.get(chain, (0, ""))[0]:
                ends[chain] = (seq, f"checkpoint {number} saw event {seq}")
        for chain, (seq, saw) in sorted(ends.items()):
            place = self._places.get(chain, _Place())
            if place.seq < seq:
                self._find("cut_off", chain, place.seq + 1, f"the chain ends at {place.seq}, {saw}")

    def _doubt(self, what: str, number: int, detail: str) -> None:
        if len(self._of_checkpoints) < MAX_FINDINGS:
            self._of_checkpoints.append(Finding(what, CHECKPOINTS, number, detail))

    def _find(self, what: str, chain: str, seq: int, detail: str) -> None:
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(Finding(what, chain, seq, detail))


def _find_copies(known: Mapping[str, _Signatures], wanted: Collection[str]) -> dict[str, tuple[str, int]]:
    """Where each of the wanted signatures stands rightly, if it does."""
    marks = {hash(signature): signature for signature in wanted}
    if not marks:
        return {}
    return {
        marks[mark]: (chain, seq)
        for chain, kept in known.items()
        for seq, mark in zip(kept.seqs, kept.marks, strict=True)
        if mark in marks
    }


def _find_key(raw: bytes) -> Ed25519PublicKey | None:
    try:
        return Ed25519PublicKey.from_public_bytes(raw)
    except ValueError:
        return None


def check(keys: Mapping[str, bytes], events: Iterable[Signed], checkpoints: Iterable[Signed] = ()) -> list[Finding]:
    """All at once, for what fits into memory."""
    checker = Checker(keys)
    for checkpoint in checkpoints:
        checker.add_checkpoint(checkpoint)
    for event in events:
        checker.add(event)
    return checker.finish()
