"""docs/alerts.yml speaks of metrics that running services have, with labels that they carry."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from support.system import OFFSETS, ROOT, System

RULES = [
    rule for group in yaml.safe_load((ROOT / "docs" / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
OF_THE_SCRAPE = {"job", "instance"}
METRIC = re.compile(r"\b([a-z][a-z0-9]*(?:_[a-z0-9]+)+)\b(?:\{([^}]*)\})?")
"""A metric's name has an underscore here, PromQL's functions in use have none."""
LABEL, GROUPING = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)"), re.compile(r"\bby \(([^)]*)\)")


@pytest.fixture(scope="module")
def samples(system: System) -> dict[str, list[dict[str, str]]]:
    """Labels of all samples by name, over all services."""
    found: dict[str, list[dict[str, str]]] = {}
    for service in set(OFFSETS) - {"gateway"}:
        for family in text_string_to_metric_families(httpx.get(f"{system.url(service)}/metrics", timeout=120).text):
            for sample in family.samples:
                found.setdefault(sample.name, []).append(dict(sample.labels))
    return found


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_an_alert_asks_for_what_there_is(samples: dict[str, list[dict[str, str]]], rule: dict[str, Any]) -> None:
    grouped = {label.strip() for found in GROUPING.findall(rule["expr"]) for label in found.split(",")}
    asked = METRIC.findall(GROUPING.sub("", rule["expr"]))
    assert asked
    for name, labels in asked:
        assert name in samples, f"no service has {name}"
        known = {label for sample in samples[name] for label in sample}
        assert set(LABEL.findall(labels)) | grouped <= known | OF_THE_SCRAPE
        for label, value in re.findall(r'(\w+)="([^"]*)"', labels):
            assert value in {sample[label] for sample in samples[name]}, f"{name} never says {label}={value}"


def test_each_alert_says_what_it_is_and_where_to_look() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES) >= 8
    for rule in RULES:
        assert set(rule["annotations"]) == {"summary", "look"}
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}
