#!/usr/bin/env python3
"""Measures what a token costs a verifier: `PYTHONPATH=. python bench/tokens.py [rounds]`, in the folder `shared`.

CPU time, so that it does not matter what else the machine does: of a token seen before, and of one that is new.
"""

from __future__ import annotations

import asyncio
import sys
import time

from artstore.auth.keys import RemoteKeys
from artstore.auth.tokens import TokenVerifier
from artstore.clock import Clock
from artstore.contracts.tokens import Audience
from artstore.testing.tokens import Signer

NEW = 200


async def measure(rounds: int) -> tuple[float, float]:
    """(µs for a cached token, µs for a new one), through the keys as every service but admin holds them."""
    signer, clock = Signer(), Clock()

    async def fetch() -> bytes:
        return signer.jwks()

    verifier = TokenVerifier(RemoteKeys([("bench", fetch)], None, clock), Audience.QUERY, clock)
    tokens = [signer.token() for _ in range(NEW)]
    await verifier.verify(signer.token())
    began_s = time.process_time()
    for token in tokens:
        await verifier.verify(token)
    new_us = (time.process_time() - began_s) / NEW * 1e6
    began_s = time.process_time()
    for _ in range(rounds):
        await verifier.verify(tokens[0])
    return (time.process_time() - began_s) / rounds * 1e6, new_us


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    cached_us, new_us = asyncio.run(measure(rounds))
    sys.stdout.write(f"a cached token {cached_us:.2f} µs, a new one {new_us:.0f} µs of CPU\n")


if __name__ == "__main__":
    main()
