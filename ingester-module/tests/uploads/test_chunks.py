from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from hypothesis import given
from hypothesis import strategies as st

from app.uploads.body import merge_chunks


async def chunks(pieces: list[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


@given(st.lists(st.binary(max_size=20)), st.integers(1, 30))
async def test_no_byte_is_lost_and_only_the_last_piece_is_short(pieces: list[bytes], size: int) -> None:
    made = [piece async for piece in merge_chunks(chunks(pieces), size)]
    assert b"".join(made) == b"".join(pieces)
    assert all(len(piece) >= size for piece in made[:-1])
    assert all(made)


async def test_a_piece_that_is_large_enough_is_not_copied() -> None:
    piece = b"x" * 10
    made = [made async for made in merge_chunks(chunks([piece]), 10)]
    assert len(made) == 1
    assert made[0] is piece


async def test_bytes_of_a_slow_sender_are_passed_on_as_they_arrive() -> None:
    seen: list[int] = []

    async def slowly() -> AsyncIterator[bytes]:
        for number in range(5):
            seen.append(number)
            yield b"x"
            await asyncio.sleep(0.02)

    async for _ in merge_chunks(slowly(), 1000, flush_every_s=0.01):
        break
    assert seen == [0]
