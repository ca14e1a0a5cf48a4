from __future__ import annotations

from typing import Any

import pytest

from app.placement import candidates
from artstore.contracts.elements import Capacity, Element, Fill, Mode
from artstore.contracts.files import Retention
from artstore.errors import ArtStoreError, StorageFull, Unavailable

GIB, MIB = 2**30, 2**20


def element(name: str, mode: Mode = Mode.RW, *, room: int = 100 * GIB, fill: Fill = Fill.OK, **fields: Any) -> Element:
    capacity = Capacity(total_bytes=200 * GIB, used_bytes=0, available_bytes=room, files=0, fill=fill)
    return Element(
        **{
            "id": name,
            "url": f"http://{name}",
            "mode": mode,
            "backend": "local",
            "version": "0",
            "capacity": capacity,
            "priority": 10,
            "status": "online",
            "last_seen_at": "",
            "registered_at": "",
            **fields,
        }
    )


def chosen(
    elements: list[Element], size: int | None = 1, retention: Retention = "permanent", broken: str = ""
) -> list[str]:
    found = candidates(elements, size_bytes=size, retention=retention, broken=broken.split())
    return [one.id for one in found]


CHOICES: list[tuple[str, list[Element], int | None, Retention, str, list[str]]] = [
    ("one", [element("a")], 1, "permanent", "", ["a"]),
    ("permanent goes to rw", [element("a", Mode.EDIT), element("b")], 1, "permanent", "", ["b"]),
    ("temporary goes to edit", [element("a", Mode.EDIT), element("b")], 1, "temporary", "", ["a"]),
    ("lowest priority first", [element("a", priority=2), element("b", priority=1)], 1, "permanent", "", ["b", "a"]),
    ("ties by id", [element("b"), element("a")], 1, "permanent", "", ["a", "b"]),
    ("a full one is passed over", [element("a", room=100), element("b")], 4096, "permanent", "", ["b"]),
    ("attributes need room too", [element("a", room=4096 + 4095), element("b")], 4096, "permanent", "", ["b"]),
    ("exact room is room", [element("a", room=8192)], 4096, "permanent", "", ["a"]),
    ("unknown size", [element("a", room=4096)], None, "permanent", "", ["a"]),
    ("unknown size: not into the fullest", [element("a", room=MIB), element("b")], None, "permanent", "", ["b", "a"]),
    (
        "unknown size: room enough, so by priority",
        [element("a", priority=2), element("b", priority=1, room=2 * GIB)],
        None,
        "permanent",
        "",
        ["b", "a"],
    ),
    (
        "unknown size: of narrow ones the roomiest",
        [element("a", priority=1, room=MIB), element("b", priority=2, room=2 * MIB), element("c", room=100)],
        None,
        "permanent",
        "",
        ["b", "a"],
    ),
    ("known size: fill up", [element("a", room=MIB), element("b")], 1, "permanent", "", ["a", "b"]),
    ("marked full", [element("a", fill=Fill.FULL), element("b")], 1, "permanent", "", ["b"]),
    ("critical still takes", [element("a", fill=Fill.CRITICAL)], 1, "permanent", "", ["a"]),
    ("away", [element("a", status="away"), element("b")], 1, "permanent", "", ["b"]),
    ("breaker open", [element("a"), element("b")], 1, "permanent", "a", ["b"]),
    ("read-only by itself", [element("a", read_only_reason="EIO"), element("b")], 1, "permanent", "", ["b"]),
    ("ro and ar take nothing", [element("a", Mode.RO), element("b", Mode.AR), element("c")], 1, "permanent", "", ["c"]),
]


@pytest.mark.parametrize(
    ("elements", "size", "retention", "broken", "expected"),
    [row[1:] for row in CHOICES],
    ids=[row[0] for row in CHOICES],
)
def test_candidates_can_take_the_file_and_are_in_order(
    elements: list[Element], size: int | None, retention: Retention, broken: str, expected: list[str]
) -> None:
    assert chosen(elements, size, retention, broken) == expected


def test_the_first_obstacle_of_every_element_is_given() -> None:
    all_wrong: dict[str, Any] = {"read_only_reason": "EIO", "status": "away", "room": 1}
    elements = [
        element("mode", Mode.RO, **all_wrong),
        element("disk", **all_wrong),
        element("silent", status="away", room=1),
        element("failing", room=1),
        element("full", room=1),
    ]
    with pytest.raises(Unavailable) as raised:
        chosen(elements, 1, "permanent", "mode disk silent failing")
    assert raised.value.fields["elements"] == {
        "mode": "mode ro",
        "disk": "read-only",
        "silent": "away",
        "failing": "failing",
        "full": "no room",
    }


REFUSALS: list[tuple[str, list[Element], str, type[ArtStoreError], str]] = [
    ("nothing known", [], "", Unavailable, "no storage element is known"),
    ("none of the mode", [element("a", Mode.RO)], "", Unavailable, "no storage element is in mode rw"),
    ("all full", [element("a", room=1), element("b", fill=Fill.FULL)], "", StorageFull, "has room"),
    ("full and of another mode", [element("a", room=1), element("b", Mode.EDIT)], "", StorageFull, "has room"),
    ("full and away: room may come back", [element("a", room=1), element("b", status="away")], "", Unavailable, "now"),
    ("failing", [element("a")], "a", Unavailable, "now"),
    ("read-only by itself", [element("a", read_only_reason="EIO")], "", Unavailable, "now"),
    ("full and failing", [element("a", room=1), element("b")], "b", Unavailable, "now"),
    ("all away", [element("a", status="away"), element("b", status="away")], "", Unavailable, "now"),
    (
        "full but not of the mode",
        [element("a", Mode.EDIT, room=1)],
        "",
        Unavailable,
        "no storage element is in mode rw",
    ),
]


@pytest.mark.parametrize(
    ("elements", "broken", "error", "words"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS]
)
def test_without_candidates_the_error_has_the_reasons(
    elements: list[Element], broken: str, error: type[ArtStoreError], words: str
) -> None:
    with pytest.raises(error, match=words) as raised:
        chosen(elements, 1, "permanent", broken)
    assert set(raised.value.fields.get("elements", {})) == {one.id for one in elements}
    assert (raised.value.retry_after_s is not None) == (error is Unavailable)
