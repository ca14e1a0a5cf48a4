from __future__ import annotations

from artstore.contracts.files import Attributes
from artstore.contracts.schemas import COMPONENTS


def test_the_schema_of_a_record_names_exactly_the_attributes() -> None:
    fields = set(Attributes.__struct_fields__) - {"unknown"}
    record = COMPONENTS["FileRecord"]
    assert set(record["properties"]) == set(record["required"]) == fields
