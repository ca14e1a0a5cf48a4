"""Files that a test has stored in a whole system, to look for them again later."""

from __future__ import annotations

import secrets
from typing import Any

import httpx

from .system import System


class Store:
    """The files that clients have stored, by file id: the record and the bytes."""

    def __init__(self, system: System) -> None:
        self.system, self.files = system, dict[str, tuple[dict[str, Any], bytes]]()

    def put(self, retention: str, size: int, tag: str) -> str:
        content = secrets.token_bytes(size)
        path = f"{self.system.url('ingester')}/api/files/upload"
        query = {"filename": f"{tag}.bin", "retention": retention, "tags": tag}
        with self.system.client() as client:
            answer = client.post(path, params=query, content=content, headers={"content-type": "application/x-test"})
        assert answer.status_code == 201, answer.text
        self.files[answer.json()["file_id"]] = answer.json(), content
        return str(answer.json()["file_id"])

    def ask(self, method: str, service: str, path: str, **options: Any) -> httpx.Response:
        with self.system.client() as client:
            return client.request(method, self.system.url(service) + path, **options)

    def on(self, element: str) -> set[str]:
        return {file_id for file_id, (record, _) in self.files.items() if record["storage_element_id"] == element}

    def has(self, file_id: str) -> bool:
        answer = self.ask("GET", "query", f"/api/files/{file_id}/content")
        return answer.status_code == 200 and answer.content == self.files[file_id][1]

    def listed(self, tag: str) -> set[str] | None:
        answer = self.ask("GET", "query", "/api/files", params={"tag": tag})
        if answer.status_code != 200 or "x-artstore-degraded" in answer.headers:
            return None
        return {item["file_id"] for item in answer.json()["items"]}
