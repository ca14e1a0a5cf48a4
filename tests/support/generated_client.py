"""Uploads, lists and downloads a file with the Python client that openapi-python-client has generated. The generated
package is on sys.path; standard input is {"url", "client_id", "client_secret"}."""

from __future__ import annotations

import json
import sys
from io import BytesIO
from typing import Any

from artstore_generated import AuthenticatedClient, Client  # type: ignore[import-not-found]
from artstore_generated.api.accounts import list_accounts  # type: ignore[import-not-found]
from artstore_generated.api.files import (  # type: ignore[import-not-found]
    delete_file,
    get_content,
    get_file,
    head_content,
    list_changes,
    list_files,
    patch_file,
    replace_content,
    upload_file,
)
from artstore_generated.api.tokens import give_token  # type: ignore[import-not-found]
from artstore_generated.models import (  # type: ignore[import-not-found]
    ClientCredentials,
    FileChanges,
    ListFilesMetadata,
    Retention,
    UploadForm,
)
from artstore_generated.types import File  # type: ignore[import-not-found]

CONTENT = b"the bytes of a file\n" * 1000


def main(given: dict[str, str]) -> None:
    login = ClientCredentials(client_id=given["client_id"], client_secret=given["client_secret"])
    token = give_token.sync(client=Client(base_url=given["url"]), body=login).access_token
    client = AuthenticatedClient(base_url=given["url"], token=token)

    form = UploadForm(
        file=File(payload=BytesIO(CONTENT), file_name="Отчёт.txt", mime_type="text/plain"),
        tags=["generated", "two words"],
        retention=Retention.TEMPORARY,
    )
    form.metadata = upload_metadata(number="5")
    made = upload_file.sync(client=client, body=form)
    assert (made.size_bytes, made.tags, made.metadata.to_dict()) == (len(CONTENT), form.tags, {"number": "5"}), made

    wanted = ListFilesMetadata()
    wanted["metadata.number"] = "5"
    page = list_files.sync(client=client, tag=["generated", "two words"], metadata=wanted)
    assert [one.file_id for one in page.items][:1] == [made.file_id], page
    assert list_files.sync(client=client, tag=["generated", "absent"]).items == []

    assert get_file.sync(made.file_id, client=client).checksum == made.checksum
    assert get_content.sync(made.file_id, client=client).payload.read() == CONTENT
    part = get_content.sync_detailed(made.file_id, client=client, range_="bytes=4-8")
    assert (part.status_code, part.parsed.payload.read()) == (206, b"bytes")
    assert head_content.sync_detailed(made.file_id, client=client).status_code == 200
    missing = head_content.sync_detailed("0197aaaa-0000-7000-8000-000000000000", client=client)
    assert missing.status_code == 404

    changed = patch_file.sync(made.file_id, client=client, body=FileChanges(filename="b.txt"), if_match='"1"')
    assert (changed.filename, changed.revision) == ("b.txt", 2), changed
    stale = patch_file.sync(made.file_id, client=client, body=FileChanges(filename="c.txt"), if_match='"1"')
    assert stale.code == "revision_mismatch", stale
    new = replace_content.sync(made.file_id, client=client, body=File(payload=BytesIO(b"new")))
    assert new.size_bytes == 3, new
    assert list_changes.sync(client=client).items[-1].file.file_id
    assert delete_file.sync_detailed(made.file_id, client=client).status_code == 204

    assert [one.client_id for one in list_accounts.sync(client=client).items]


def upload_metadata(**values: Any) -> Any:
    from artstore_generated.models import UploadFormMetadata

    made = UploadFormMetadata()
    made.additional_properties = values
    return made


if __name__ == "__main__":
    main(json.load(sys.stdin))
