"""The parts of the chaos run that decide: what strikes when, and what a file may be."""

from __future__ import annotations

from itertools import pairwise

from faults.chaos.history import History, State, deleted, patched, replaced
from faults.chaos.schedule import POINTS, Kind, schedule
from support.fleet import ROOT
from support.layout import LARGE, MODULES

FIRST = State(1, "a", "one")


def history() -> History:
    return History("id", {FIRST}, 0.0)


def test_a_seed_is_a_schedule() -> None:
    assert schedule(7, 600, LARGE) == schedule(7, 600, LARGE)
    assert schedule(7, 600, LARGE) != schedule(8, 600, LARGE)


def test_every_kind_strikes_and_all_has_ended_when_the_time_is_over() -> None:
    for seed in range(20):
        strikes = schedule(seed, 120, LARGE)
        assert {strike.kind for strike in strikes} == set(Kind)
        assert all(strike.until_s <= 120.01 for strike in strikes)
        assert [strike.at_s for strike in strikes] == sorted(strike.at_s for strike in strikes)


def test_nothing_is_struck_while_it_is_down() -> None:
    for seed in range(20):
        strikes = schedule(seed, 300, LARGE)
        for name in (*LARGE, "redis", "postgres"):
            downs = [strike for strike in strikes if strike.target == name]
            for one, following in pairwise(downs):
                assert one.until_s < following.at_s


def test_an_acknowledged_change_leaves_one_state() -> None:
    file = history()
    file.acknowledge(patched("two")(FIRST), 1.0)
    assert file.possible == {State(2, "a", "two")}
    assert file.seen == {FIRST, State(2, "a", "two")}


def test_an_unanswered_change_may_be_made_late_but_not_on_another_revision() -> None:
    file = history()
    file.doubt(patched("two"), 1)
    assert file.possible == {FIRST, State(2, "a", "two")}
    file.doubt(replaced("b"), 2)
    assert file.possible == {FIRST, State(2, "a", "two"), State(3, "b", "two")}
    file.acknowledge(State(2, "a", "three"), 1.0)  # revision 1 was still there
    assert file.possible == {State(2, "a", "three"), State(3, "b", "three")}


def test_a_delete_without_a_condition_may_come_at_any_time() -> None:
    file = history()
    file.doubt(deleted, None)
    file.acknowledge(State(2, "a", "two"), 1.0)
    assert file.possible == {State(2, "a", "two"), None}
    file.acknowledge(None, 2.0)
    assert file.possible == {None}


def test_a_refused_condition_rules_its_revision_out() -> None:
    file = history()
    file.doubt(patched("two"), 1)
    assert file.may_have_left(1)
    file.exclude(1)
    assert file.possible == {State(2, "a", "two")}
    assert file.pending == []
    assert not file.may_have_left(2)


def test_a_change_that_was_made_after_all_leaves_only_what_it_made() -> None:
    file = history()
    made, never = file.doubt(patched("two"), 1), file.doubt(deleted, None)
    assert file.possible == {FIRST, State(2, "a", "two"), None}
    file.rule_out(never)
    file.confirm(made, 1.0)
    assert file.possible == {State(2, "a", "two")}
    file.confirm(made, 2.0)
    assert file.possible == {State(2, "a", "two")}


def test_what_is_learned_late_does_not_undo_what_was_learned_since() -> None:
    file = history()
    first, second = file.doubt(patched("two"), 1), file.doubt(patched("three"), 2)
    file.confirm(second, 1.0)
    assert file.possible == {State(3, "a", "three")}
    file.confirm(first, 2.0)
    assert file.possible == {State(3, "a", "three")}
    one, other = file.doubt(deleted, None), file.doubt(deleted, None)
    last = file.doubt(patched("four"), 3)
    file.confirm(one, 3.0)
    file.confirm(last, 4.0)
    file.confirm(other, 5.0)
    assert file.possible == {None}


def test_a_revision_that_is_still_to_come_is_not_ruled_out() -> None:
    file = history()
    file.doubt(patched("two"), 1)
    file.doubt(patched("three"), 2)
    file.exclude(2)
    assert file.possible == {FIRST, State(2, "a", "two"), State(3, "a", "three")}


def test_every_point_to_die_at_is_one() -> None:
    for kind, points in POINTS.items():
        sources = [path.read_text() for path in (ROOT / MODULES[kind] / "app").rglob("*.py")]
        for point in points:
            assert any(f'failpoint("{point}")' in source for source in sources), point
