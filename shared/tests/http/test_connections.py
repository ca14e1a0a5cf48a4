"""When there are too many connections, the right one is closed."""

from __future__ import annotations

from artstore.http.connections import Connections


class One:
    def __init__(self, address: str = "a", *, authorised: bool = False) -> None:
        self.address, self.authorised, self.evicted = address, authorised, False

    def evict(self) -> None:
        self.evicted = True


def test_the_oldest_that_has_shown_no_credentials_makes_room() -> None:
    table = Connections(limit=3)
    known, first, second, new = One(), One(), One(), One()
    table.add(known)
    known.authorised = True
    table.end(known)
    known.authorised = False  # of its next request
    assert [table.add(one) for one in (first, second, new)] == [True] * 3
    assert [one.evicted for one in (known, first, second, new)] == [False, True, False, False]
    assert len(table) == 3


def test_one_address_crowds_out_only_itself() -> None:
    table = Connections(limit=100, per_address=2)
    other, ours = One("b"), [One() for _ in range(5)]
    assert all(table.add(one) for one in (other, *ours))
    assert [one.evicted for one in ours] == [True, True, True, False, False]
    assert not other.evicted


def test_an_authorised_request_under_way_is_never_closed_for_another() -> None:
    table = Connections(limit=2)
    working = [One(authorised=True), One(authorised=True)]
    for one in working:
        table.add(one)
        table.begin(one)
    assert not table.add(One())
    assert not any(one.evicted for one in working)
    table.end(working[1])
    assert table.add(One())
    assert [one.evicted for one in working] == [False, True]


def test_a_connection_that_is_gone_is_forgotten() -> None:
    table = Connections(limit=1)
    for _ in range(3):
        one = One()
        assert table.add(one)
        table.remove(one)
    assert len(table) == 0
