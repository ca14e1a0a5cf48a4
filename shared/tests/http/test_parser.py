"""However bytes arrive, no slice of them reaches beyond the end of a message."""

from __future__ import annotations

import pytest

from artstore.http.parser import MessageSlicer


def slices(*pieces: bytes, content_left: int | None = None) -> list[bytes]:
    slicer, found = MessageSlicer(), []
    slicer.content_left = content_left
    for piece in pieces:
        at = 0
        while at < len(piece):
            found.append(slicer.next_slice(piece, at))
            at += len(found[-1])
            if slicer.content_left == 0:
                slicer.end_message()
    return found


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([b"a\r\n\r\nb\r\n\r\nc"], [b"a\r\n\r\n", b"b\r\n\r\n", b"c"]),
        ([b"a\r", b"\n\r\nb"], [b"a\r", b"\n\r\n", b"b"]),
        ([b"a\r\n\r", b"\nb\r\n\r\n"], [b"a\r\n\r", b"\n", b"b\r\n\r\n"]),
        ([b"a\r\n", b"x\r\n\r\nb"], [b"a\r\n", b"x\r\n\r\n", b"b"]),
        ([b"a", b"\r", b"\n", b"\r", b"\n", b"b"], [b"a", b"\r", b"\n", b"\r", b"\n", b"b"]),
    ],
)
def test_a_slice_ends_with_an_empty_line(pieces: list[bytes], expected: list[bytes]) -> None:
    assert slices(*pieces) == expected


def test_content_of_a_stated_length_is_cut_at_its_last_byte() -> None:
    assert slices(b"\r\n\r\n", b"\r\n\r\nGET", content_left=8) == [b"\r\n\r\n", b"\r\n\r\n", b"GET"]
    assert slices(b"abcdeX\r\n\r\nY", content_left=5) == [b"abcde", b"X\r\n\r\n", b"Y"]
