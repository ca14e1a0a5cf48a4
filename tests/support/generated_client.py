"""Uploads, lists and downloads a file with the Python clients that openapi-python-client has generated. The generated
packages are on sys.path; standard input is {"admin": URL, "ingester": URL, "query": URL, "client_id", "client_secret"}."""

from __future__ import annotations

import json
import sys
from io import BytesIO
from typing import Any

from admin_client import Client as AdminClient  # type: ignore[import-not-found]
from admin_client.api.accounts import list_accounts  # type: ignore[import-not-found]
from admin_client.api.tokens import give_token  # type: ignore[import-not-found]
from admin_client.models import ClientCredentials  # type: ignore[import-not-found]
from ingester_client import AuthenticatedClient as IngesterClient  # type: ignore[import-not-found]
from ingester_client.api.files import (  # type: ignore[import-not-found]
    delete_file,
    patch_file,
    replace_content,
    upload_file,
)
from ingester_client.models import FileChanges, Retention, UploadForm  # type: ignore[import-not-found]
from ingester_client.types import File  # type: ignore[import-not-found]
from query_client import AuthenticatedClient as QueryClient  # type: ignore[import-not-found]
from query_client.api.files import (  # type: ignore[import-not-found]
    get_content,
    get_file,
    head_content,
    list_changes,
    list_files,
)
from query_client.models import ListFilesMetadata  # type: ignore[import-not-found]

CONTENT = b"the bytes of a file\n" * 1000


def main(given: dict[str, str]) -> None:
    login = ClientCredentials(client_id=given["client_id"], client_secret=given["client_secret"])
    token = give_token.sync(client=AdminClient(base_url=given["admin"]), body=login).access_token
    ingester = IngesterClient(base_url=given["ingester"], token=token)
    query = QueryClient(base_url=given["query"], token=token)

    form = UploadForm(
        file=File(payload=BytesIO(CONTENT), file_name="Отчёт.txt", mime_type="text/plain"),
        tags=["generated", "two words"],
        retention=Retention.TEMPORARY,
    )
    form.metadata = upload_metadata(number="5")
    made = upload_file.sync(client=ingester, body=form)
    assert (made.size_bytes, made.tags, made.metadata.to_dict()) == (len(CONTENT), form.tags, {"number": "5"}), made

    wanted = ListFilesMetadata()
    wanted["metadata.number"] = "5"
    page = list_files.sync(client=query, tag=["generated", "two words"], metadata=wanted)
    assert [one.file_id for one in page.items][:1] == [made.file_id], page
    assert list_files.sync(client=query, tag=["generated", "absent"]).items == []

    assert get_file.sync(made.file_id, client=query).checksum == made.checksum
    assert get_content.sync(made.file_id, client=query).payload.read() == CONTENT
    part = get_content.sync_detailed(made.file_id, client=query, range_="bytes=4-8")
    assert (part.status_code, part.parsed.payload.read()) == (206, b"bytes")
    assert head_content.sync_detailed(made.file_id, client=query).status_code == 200
    missing = head_content.sync_detailed("0197aaaa-0000-7000-8000-000000000000", client=query)
    assert missing.status_code == 404

    changed = patch_file.sync(made.file_id, client=ingester, body=FileChanges(filename="b.txt"), if_match='"1"')
    assert (changed.filename, changed.revision) == ("b.txt", 2), changed
    stale = patch_file.sync(made.file_id, client=ingester, body=FileChanges(filename="c.txt"), if_match='"1"')
    assert stale.code == "revision_mismatch", stale
    new = replace_content.sync(made.file_id, client=ingester, body=File(payload=BytesIO(b"new")))
    assert new.size_bytes == 3, new
    assert list_changes.sync(client=query).items[-1].file.file_id
    assert delete_file.sync_detailed(made.file_id, client=ingester).status_code == 204

    admin = AdminClient(base_url=given["admin"], headers={"authorization": f"Bearer {token}"})
    assert [one.client_id for one in list_accounts.sync(client=admin).items]


def upload_metadata(**values: Any) -> Any:
    from ingester_client.models import UploadFormMetadata

    made = UploadFormMetadata()
    made.additional_properties = values
    return made


if __name__ == "__main__":
    main(json.load(sys.stdin))
