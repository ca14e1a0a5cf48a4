from __future__ import annotations

from itertools import pairwise, product

import pytest

from artstore.contracts.elements import Mode
from artstore.errors import Conflict, ModeForbids
from artstore.modes import ROW, Operation, check_change, require

ALLOWED = {
    Mode.EDIT: {"create", "read", "update", "delete"}, Mode.RW: {"create", "read"}, Mode.RO: {"read"}, Mode.AR: {"read"},
}  # fmt: skip
WAYS = {(Mode.RW, Mode.RO), (Mode.RO, Mode.AR)}


@pytest.mark.parametrize(("mode", "operation"), list(product(Mode, Operation)))
def test_each_mode_allows_what_the_table_says(mode: Mode, operation: Operation) -> None:
    if operation.value in ALLOWED[mode]:
        require(mode, operation)
    else:
        with pytest.raises(ModeForbids):
            require(mode, operation)


@pytest.mark.parametrize(("mode", "wanted"), list(product(Mode, Mode)))
def test_a_mode_goes_one_step_on_or_stays(mode: Mode, wanted: Mode) -> None:
    if mode is wanted:
        assert not check_change(mode, wanted)
    elif (mode, wanted) in WAYS:
        assert check_change(mode, wanted)
    else:
        with pytest.raises(Conflict):
            check_change(mode, wanted)


def test_no_mode_further_on_allows_more() -> None:
    for earlier, later in pairwise(ROW):
        assert ALLOWED[later] <= ALLOWED[earlier]
