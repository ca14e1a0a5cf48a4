"""Calls to admin about uploads under ids that clients made: like those of `Sagas`, but the claim comes before the transfer."""

from __future__ import annotations

import asyncio

import msgspec

from artstore.contracts.sagas import AbortClaim, Claimed, UploadCommit, UploadSaga
from artstore.errors import BadGateway, Conflict
from artstore.peers.client import Peer
from artstore.tasks import Tasks

from .admin import Attempts, given_up

CLAIMS = "/api/sagas/claims"
WAIT_FOR_ANOTHER_S = 10.0
"""How long an upload waits for another one under the same id, before its client is asked to come back."""
ASK_EVERY_S = 0.1
RENEW_AFTER_S = 6.0
"""A claim lasts 30 s."""


class Claims:
    def __init__(self, admin: Peer, tasks: Tasks, attempts: Attempts, *, timeout_s: float) -> None:
        self._admin, self._tasks, self._timeout_s = admin, tasks, timeout_s
        self._attempts = attempts

    async def claim(self, saga: UploadSaga) -> None:
        """From now on the id is this upload's. Waits while another upload has it. Raises RevisionMismatch (the file exists),
        Conflict, Unavailable: then nothing needs to be undone, except after Unavailable."""
        until_s = asyncio.get_running_loop().time() + WAIT_FOR_ANOTHER_S
        while True:
            try:
                await self._claim(saga)
                return
            except Conflict as refusal:
                if refusal.fields.get("reason") != "in_progress" or asyncio.get_running_loop().time() >= until_s:
                    raise
            await asyncio.sleep(ASK_EVERY_S)

    async def begin(self, saga: UploadSaga) -> float:
        """Renews the lease, which is returned in seconds. Raises Unavailable, GivenUp."""
        try:
            return await self._claim(saga)
        except Conflict as refusal:
            raise given_up(saga.saga_id, refusal) from refusal

    async def commit(self, commit: UploadCommit) -> None:
        """Durable on return. Raises Unavailable after a few attempts, GivenUp when the saga was undone."""
        body = msgspec.json.encode(commit)
        await self._attempts.commit(commit.saga_id, lambda: self._call(f"{CLAIMS}/commit", body))

    def abandon(self, saga: UploadSaga, reason: str) -> None:
        """Has admin undo the saga, in the background. A crash before that leaves it to the lease."""
        self._tasks.complete(f"abort:{saga.saga_id}", self._abort(saga, reason))

    async def _abort(self, saga: UploadSaga, reason: str) -> None:
        body = msgspec.json.encode(AbortClaim(saga=saga, reason=reason))
        await self._attempts.abort(saga, lambda: self._call(f"{CLAIMS}/abort", body))

    async def _claim(self, saga: UploadSaga) -> float:
        answer = await self._call(CLAIMS, msgspec.json.encode(saga))
        try:
            return msgspec.json.decode(answer, type=Claimed).lease_s
        except msgspec.MsgspecError as error:
            raise BadGateway(f"admin's answer about a claim cannot be read: {error}") from error

    async def _call(self, path: str, body: bytes) -> bytes:
        return (await self._admin.call("POST", path, body=body, timeout_s=self._timeout_s)).body
