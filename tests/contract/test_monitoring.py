"""The alerts and dashboards of observability/ ask for metrics that running services have, with labels that they carry;
every alert has its section in the documents and its cases for promtool."""

from __future__ import annotations

import re
import shutil
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from support.fleet import eventually
from support.observability import DASHBOARDS, FOLDER, RULES, Query, alert_queries, dashboard_queries, needs_prometheus
from support.system import OFFSETS, ROOT, System

SERVICES = sorted(set(OFFSETS) - {"gateway"})
OF_THE_SCRAPE = {"job", "instance", "le"}
OPEN_SETS = {"status", "route", "method", "job"}
"""Labels whose values depend on the requests that were made."""
SELECTOR = r'\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\}'
METRIC = re.compile(rf"\b([a-z][a-z0-9]*(?:_[a-z0-9]+)+)\b(?!\s*\()(?:{SELECTOR})?")
"""A metric's name has an underscore, and does not stand before a parenthesis as a function does."""
STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
LABEL, GROUPING = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)"), re.compile(r"\b(?:by|on|group_left) \(([^)]*)\)")
PANELS = {"row", "stat", "table", "timeseries"}
UNITS = {"short", "s", "bytes", "Bps", "ops", "reqps", "percentunit"}
SEVERITIES = {"info", "warning", "critical"}


@pytest.fixture(scope="module")
def samples(system: System) -> dict[str, list[dict[str, str]]]:
    """Labels of all samples by name, over all services."""
    metrics = f"{system.url('admin')}/metrics"
    eventually(lambda: "\nelement_away{" in httpx.get(metrics, timeout=120).text)  # elements have reported
    found: dict[str, list[dict[str, str]]] = {}
    for service in SERVICES:
        for family in text_string_to_metric_families(httpx.get(f"{system.url(service)}/metrics", timeout=120).text):
            for sample in family.samples:
                found.setdefault(sample.name, []).append(dict(sample.labels))
    return found


@pytest.mark.parametrize("query", [*alert_queries(), *dashboard_queries()], ids=lambda query: query.name)
def test_a_query_asks_for_what_there_is(samples: dict[str, list[dict[str, str]]], query: Query) -> None:
    grouped = {label.strip() for found in GROUPING.findall(query.expr) for label in found.split(",")}
    known = set()
    for name, selector in METRIC.findall(GROUPING.sub("", query.expr)):
        assert name in samples, f"no service has {name}"
        labels = {label for sample in samples[name] for label in sample} | OF_THE_SCRAPE
        known |= labels
        assert set(LABEL.findall(STRING.sub('""', selector))) <= labels
        for label, value in re.findall(r'(\w+)="([^"]*)"', selector):
            if label not in OPEN_SETS:
                assert value in {sample[label] for sample in samples[name]}, f"{name} never says {label}={value}"
    assert known or re.search(r"\b(up|ALERTS)\b", query.expr)
    assert not known or grouped <= known


def test_each_alert_says_what_it_is_and_has_its_section() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES) >= 40
    pages: set[Path] = set()
    for rule in RULES:
        assert set(rule["annotations"]) == {"summary", "runbook"}, rule["alert"]
        assert rule["labels"]["severity"] in SEVERITIES
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert anchor == rule["alert"].lower()
        pages.add(ROOT / page)
    sections = [
        section for page in sorted(pages) for section in re.split(r"^## ", page.read_text(), flags=re.MULTILINE)[1:]
    ]
    assert sorted(section.split()[0] for section in sections) == sorted(rule["alert"] for rule in RULES)
    for section in sections:
        assert "**Impact**:" in section.replace("\n", " "), section
        assert "**Do**:" in section.replace("\n", " "), section
        assert "`" in section, section


def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    cases = yaml.safe_load((FOLDER / "alerts_test.yml").read_text())["tests"]
    assert {case["name"] for case in cases} == {rule["alert"] for rule in RULES}
    for case in cases:
        quiet, firing = case["promql_expr_test"]
        assert quiet["expr"] == firing["expr"] == f'count(ALERTS{{alertname="{case["name"]}", alertstate="firing"}})'
        assert "exp_samples" not in quiet
        assert firing["exp_samples"] == [{"labels": "{}", "value": 1}]


def run(*command: str | Path, text: str | None = None) -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_prometheus
def test_the_cases_hold() -> None:
    run("promtool", "test", "rules", FOLDER / "alerts_test.yml")


@needs_prometheus
@pytest.mark.parametrize("name", ["prometheus.yml", "local.yml"])
def test_prometheus_accepts_its_configuration_and_the_rules(name: str) -> None:
    run("promtool", "check", "config", FOLDER / name)


@pytest.mark.skipif(shutil.which("amtool") is None, reason="needs Debian's package prometheus-alertmanager")
def test_alertmanager_accepts_its_configuration() -> None:
    run("amtool", "check-config", FOLDER / "alertmanager.yml")


@needs_prometheus
@pytest.mark.parametrize("service", SERVICES)
def test_the_metrics_of_a_service_follow_the_conventions(system: System, service: str) -> None:
    run("promtool", "check", "metrics", text=httpx.get(f"{system.url(service)}/metrics", timeout=120).text)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_has_what_grafana_asks_for(name: str) -> None:
    dashboard = DASHBOARDS[name]
    assert dashboard["uid"] == f"artstore-{name}"
    assert {"title", "description", "schemaVersion", "time", "refresh"} <= set(dashboard)
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["type"] in PANELS
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        if panel["type"] != "row":
            assert panel["datasource"] == datasources()["prometheus"]
            assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
            letters = [target["refId"] for target in panel["targets"]]
            assert len(set(letters)) == len(letters) > 0
    for one, other in combinations((panel["gridPos"] for panel in panels), 2):
        assert not overlap(one, other)


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return all(one[at] < other[at] + other[size] and other[at] < one[at] + one[size] for at, size in ("xw", "yh"))


def datasources() -> dict[str, Any]:
    """The references to the provisioned data sources, by uid."""
    found = yaml.safe_load((FOLDER / "grafana" / "datasource.yml").read_text())["datasources"]
    return {one["uid"]: {"type": one["type"], "uid": one["uid"]} for one in found}
