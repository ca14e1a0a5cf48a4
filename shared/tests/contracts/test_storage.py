from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artstore.contracts.files import NewFile
from artstore.contracts.storage import decode_new_file, encode_new_file
from artstore.errors import Malformed

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(TEXT, TEXT, st.lists(TEXT, max_size=3), st.dictionaries(TEXT, TEXT, max_size=3))
def test_any_text_crosses_in_an_ascii_header(
    filename: str, owner: str, tags: list[str], metadata: dict[str, str]
) -> None:
    new = NewFile(
        filename=filename,
        content_type="text/plain",
        owner=owner,
        tags=tags,
        metadata=metadata,
        retention="permanent",
        expires_at=None,
    )
    value = encode_new_file(new)
    assert value.isascii()
    assert value.isprintable()
    assert decode_new_file(value) == new


@pytest.mark.parametrize("value", ["", "{}", "null", "%", "%FF", "{", '{"filename": 1}', '{"unknown": 1}'])
def test_what_is_no_description_of_a_file_is_malformed(value: str) -> None:
    with pytest.raises(Malformed):
        decode_new_file(value)
