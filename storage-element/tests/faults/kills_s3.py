"""kill -9 at a failpoint of an element with files in S3, and at a failpoint of its next start."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from app.store.attributes import find_in
from app.store.backends import s3_claim
from app.store.backends.base import Backend
from app.store.backends.s3_uploads import S3Settings
from app.store.pending import settle_all
from app.store.store import Store

from ..store.places import in_s3, opened_at
from .invariants import check_invariants
from .journal import Journal, KeptCatalog, State, allowed_states
from .kills import KILLED, SEGMENT_BYTES, Moment, Outcome, in_child, moments_in, require, scratch
from .work import SCENARIOS, Work, catalog_of, every_verb, journal_of

MULTIPART_BYTES = (5 << 20) + 1
PATIENCE_S = 120
AT_START = (
    "recover.kept_aside",
    "pending.kept",
    "recover.swept",
    "recover.checkpointed",
    "put.renamed",
    "update.data_renamed",
    "update.swapped",
    "delete.attributes_removed",
    "delete.data_removed",
    "pending.resolved",
    "pending.settled",
    "settle.noted",
)
"""Points of a start that finds something to do. They cannot be tried out first: a bucket is not copied like a folder."""


async def multipart(work: Work) -> None:
    await every_verb(work, MULTIPART_BYTES)


S3_SCENARIOS: dict[str, Callable[[Work], Awaitable[None]]] = {**SCENARIOS, "multipart": multipart}


@dataclass(frozen=True, slots=True)
class S3Case:
    """The moments: one of the work, and one of the start after it, if any."""

    settings: S3Settings
    scenario: str
    moment: Moment
    in_recovery: Moment | None = None


def s3_moments_of(settings: S3Settings, scenario: str) -> list[Moment]:
    with scratch() as folder:
        log = folder / "hits"
        require(in_child(partial(_work, folder / "root", _own(settings), scenario), None, log), 0)
        return moments_in(log)


def run_s3_case(case: S3Case) -> Outcome:
    settings = _own(case.settings)
    with scratch() as folder:
        root, log = folder / "root", folder / "hits"
        kills = int(in_child(partial(_work, root, settings, case.scenario), case.moment, log).status == KILLED)
        in_recovery = 0
        if case.in_recovery is not None:
            in_recovery = int(in_child(partial(_start, root, settings), case.in_recovery, log).status == KILLED)
        require(in_child(partial(_start, root, settings), None, log), 0, case.scenario, case.moment, case.in_recovery)
        return Outcome(kills, in_recovery, set(log.read_text().split()))


def _own(settings: S3Settings) -> S3Settings:
    """A prefix of its own, and patience: a machine under load makes S3 slow, and that it is slow is not what is tried here."""
    s3_claim.ANSWER_TIMEOUT_S = PATIENCE_S
    return replace(settings, prefix=f"killed-{secrets.token_hex(8)}", timeout_s=PATIENCE_S)


def _work(root: Path, settings: S3Settings, scenario: str) -> None:
    async def run() -> None:
        catalog = KeptCatalog(catalog_of(root))
        async with opened_at(root, in_s3(settings), catalog, segment_bytes=SEGMENT_BYTES) as store:
            await S3_SCENARIOS[scenario](Work(store, Journal(journal_of(root)), catalog))

    asyncio.run(run())


def _start(root: Path, settings: S3Settings) -> None:
    async def run() -> None:
        catalog = KeptCatalog(catalog_of(root))
        async with opened_at(root, in_s3(settings), catalog, segment_bytes=SEGMENT_BYTES) as store:
            await settle_all(store)
            check_store(root, store, catalog)

    asyncio.run(run())


def check_store(root: Path, store: Store, catalog: KeptCatalog) -> None:
    check_invariants(
        root,
        allowed=allowed_states(journal_of(root)),
        catalog=catalog.revisions(),
        open_intents=len(store.wal.open) + len(store.unsettled) + len(store.pending),
        found=states_in(store.files),
    )


def states_in(files: Backend) -> dict[str, State]:
    """Every visible file. Its attributes can be decoded and match its bytes, and no bytes exist without them."""
    found: dict[str, State] = {}
    for first in range(256):
        for seen in files.survey(f"{first:02x}"):
            assert seen.has_attributes, f"{seen.file_id} has bytes without attributes"
            attributes = find_in(files.find_attributes(seen.file_id) or b"", seen.file_id)
            data = files.open_data(seen.file_id)
            assert attributes is not None
            assert data is not None
            sha256 = hashlib.sha256(data.read(0, data.size_bytes)).hexdigest()
            assert attributes.checksum == f"sha256:{sha256}", f"{seen.file_id} has other bytes than its attributes say"
            assert attributes.size_bytes == data.size_bytes == seen.data_bytes
            found[seen.file_id] = (sha256, attributes.revision)
    return found
