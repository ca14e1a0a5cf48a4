"""The files of observability/ and the queries in them."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from support.system import ROOT

FOLDER = ROOT / "observability"
DASHBOARDS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("grafana/dashboards/*.json"))
}
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
needs_prometheus = pytest.mark.skipif(
    not all(map(shutil.which, ("prometheus", "promtool"))), reason="needs Debian's package prometheus"
)


@dataclass(frozen=True)
class Query:
    """`name` is the alert's, or the dashboard's and the panel's."""

    name: str
    expr: str


def dashboard_queries() -> list[Query]:
    return [
        Query(f"{name}: {panel['title']}", target["expr"].replace("$__rate_interval", "1m"))
        for name, dashboard in DASHBOARDS.items()
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    ]


def alert_queries() -> list[Query]:
    return [Query(rule["alert"], rule["expr"]) for rule in RULES]
