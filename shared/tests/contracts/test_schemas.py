from __future__ import annotations

from artstore.contracts.files import Attributes
from artstore.contracts.schemas import RECORD


def test_the_schema_of_a_record_names_exactly_the_attributes() -> None:
    fields = set(Attributes.__struct_fields__) - {"unknown"}
    assert set(RECORD["properties"]) == set(RECORD["required"]) == fields
