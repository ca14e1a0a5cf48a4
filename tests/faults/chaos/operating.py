"""An operator at work meanwhile: rebuilds, verifications, new signing keys, and an element that is closed for good."""

from __future__ import annotations

import asyncio

from .asking import RETRIED, Caller

CLOSED = "se-04"
"""Goes from rw to ro. New permanent files have another element then."""
ROUNDS = (
    ("POST", "/api/storage-elements/se-01/rebuild", None),
    ("POST", "/api/storage-elements/se-02/verify", None),
    ("POST", f"/api/storage-elements/{CLOSED}/mode", {"mode": "ro"}),
    ("POST", "/api/auth/keys/rotate", None),
    ("POST", "/api/storage-elements/se-03/verify", None),
    ("POST", "/api/storage-elements/se-02/rebuild", None),
)
TRIES = 40
AGAIN_S = 0.5


class Operator:
    """`closed`: CLOSED has said that it is, or admin that it will be."""

    def __init__(self, caller: Caller, length_s: float) -> None:
        self._caller, self._pause_s = caller, length_s / (len(ROUNDS) + 1)
        self.closed = self.asked_to_close = False

    async def run(self) -> None:
        """Each round is repeated until it is answered: it may be done twice, which changes nothing."""
        for method, path, body in ROUNDS:
            await asyncio.sleep(self._pause_s)
            self.asked_to_close = self.asked_to_close or path.endswith("/mode")
            for _ in range(TRIES):
                answer = await self._caller.ask("change", method, "admin", path, json=body)
                if answer.status not in RETRIED:
                    break
                await asyncio.sleep(AGAIN_S)
            self._judge(path, answer.status, answer.body)

    def allowed_modes(self) -> frozenset[str]:
        """The modes that CLOSED may have in the end."""
        return frozenset({"ro"} if self.closed else {"rw", "ro"} if self.asked_to_close else {"rw"})

    def _judge(self, path: str, status: int, body: bytes) -> None:
        if path.endswith("/mode") and status in (200, 202):
            self.closed = True
        elif status not in RETRIED and status not in (200, 202):
            self._caller.findings.add(self._caller.weather.now_s, f"POST {path} was answered {status} {body[:300]!r}")
