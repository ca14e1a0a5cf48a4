"""The software bill of materials of a bundle, as CycloneDX 1.6 JSON (ECMA-424), read from the wheels themselves."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path
from typing import Any
from uuid import uuid4

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
LICENSE_CLASSIFIER = "License :: OSI Approved :: "
MAX_LICENSE_CHARS = 100
"""Some packages put the whole text of their license where its name belongs."""


def bill_of_materials(
    version: str, made_at: datetime, wheels: Mapping[Path, str], images: Mapping[str, str]
) -> dict[str, Any]:
    """`wheels` with the SHA-256 of each; `images` with the id of each. Each wheel is a component of its own, also when
    two of them are builds of one package."""
    read = {wheel: _metadata(wheel) for wheel in wheels}
    components = [_component(wheel, read[wheel], wheels[wheel]) for wheel in wheels]
    components += [_image(name, digest) for name, digest in images.items()]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid4()}",
        "version": 1,
        "metadata": {
            "timestamp": made_at.isoformat(timespec="seconds"),
            "component": {"type": "application", "bom-ref": "artstore", "name": "artstore", "version": version},
        },
        "components": components,
        "dependencies": [
            {"ref": "artstore", "dependsOn": [one["bom-ref"] for one in components]},
            *_dependencies(read),
        ],
    }


def _metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
        return HeaderParser().parsestr(archive.read(name).decode())


def _component(wheel: Path, metadata: Message, digest: str) -> dict[str, Any]:
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": wheel.name,
        "name": metadata["Name"],
        "version": metadata["Version"],
        "purl": f"pkg:pypi/{_normal(metadata['Name'])}@{metadata['Version']}?file_name={wheel.name}",
        "hashes": [{"alg": "SHA-256", "content": digest}],
    }
    return component | ({"licenses": licenses} if (licenses := _licenses(metadata)) else {})


def _licenses(metadata: Message) -> list[dict[str, Any]]:
    if expression := metadata["License-Expression"]:
        return [{"expression": expression}]
    stated = (metadata["License"] or "").strip()
    if stated and "\n" not in stated and len(stated) <= MAX_LICENSE_CHARS and stated != "UNKNOWN":
        return [{"license": {"name": stated}}]
    classifiers: Iterable[str] = metadata.get_all("Classifier") or ()
    names = [name.removeprefix(LICENSE_CLASSIFIER) for name in classifiers if name.startswith(LICENSE_CLASSIFIER)]
    return [{"license": {"name": name}} for name in names]


def _image(name: str, digest: str) -> dict[str, Any]:
    repository, _, tag = name.partition(":")
    component = {"type": "container", "bom-ref": name, "name": repository, "version": tag}
    return {**component, "hashes": [{"alg": "SHA-256", "content": digest.removeprefix("sha256:")}]}


def _dependencies(read: Mapping[Path, Message]) -> list[dict[str, Any]]:
    """The packages of the bundle that each package requires; optional parts (extras) are left out."""
    files: dict[str, list[str]] = {}
    for wheel, metadata in read.items():
        files.setdefault(_normal(metadata["Name"]), []).append(wheel.name)
    found = []
    for wheel, metadata in read.items():
        asked: Sequence[str] = metadata.get_all("Requires-Dist") or ()
        names = {_normal(match[0]) for one in asked if "extra ==" not in one and (match := NAME.match(one))}
        found.append({"ref": wheel.name, "dependsOn": sorted({file for name in names for file in files.get(name, ())})})
    return found


def _normal(name: str) -> str:
    """PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()
