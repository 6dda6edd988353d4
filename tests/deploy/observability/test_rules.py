"""promtool on what ships, and on what both sides tell; every alert has a page that says what to do."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from support.agents import counter
from support.prometheus import SHIPPED, configuration, hurried, needs_prometheus
from support.serving import sale, serving
from tillstream_server.metrics import Metrics

ROOT = SHIPPED.parents[1]
ALERT = re.compile(r"- alert: (\w+)\n(.*?)(?=\n      - alert:|\n  - name:|\Z)", re.DOTALL)
ALERTS = dict(ALERT.findall((SHIPPED / "rules" / "alerts.yml").read_text(encoding="utf-8")))
RULE_TESTS = sorted((SHIPPED / "tests").glob("*.yml"))


def promtool(*arguments: str | Path, given: bytes = b"") -> str:
    """What promtool says of something that it finds nothing wrong with."""
    command = ["promtool", *map(str, arguments)]
    done = subprocess.run(command, input=given, capture_output=True, timeout=60)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    return (done.stdout + done.stderr).decode()


@needs_prometheus
def test_the_shipped_configuration_and_its_rules_are_valid() -> None:
    said = promtool("check", "config", SHIPPED / "prometheus.yml")
    assert "2 rule files found" in said


@needs_prometheus
def test_the_hurried_configuration_of_the_tests_differs_in_pace_alone(tmp_path: Path) -> None:
    shipped = (SHIPPED / "rules" / "alerts.yml").read_text(encoding="utf-8")
    assert len(ALERT.findall(hurried(shipped))) == len(ALERTS)
    (tmp_path / "ca.pem").touch()
    (tmp_path / "prometheus.yml").write_text(configuration("127.0.0.1:1", "127.0.0.1:2", tmp_path / "ca.pem"))
    assert "valid prometheus config" in promtool("check", "config", tmp_path / "prometheus.yml")


@needs_prometheus
@pytest.mark.parametrize("file", RULE_TESTS, ids=lambda file: file.stem)
def test_each_alert_fires_when_it_should_and_not_before(file: Path) -> None:
    assert "SUCCESS" in promtool("test", "rules", file)


def test_each_alert_has_a_test_that_lets_it_fire() -> None:
    texts = [file.read_text(encoding="utf-8") for file in RULE_TESTS]
    fires = {
        name for text in texts for name in re.findall(r"alertname: (\w+)\n +eval_time: \w+\n +exp_alerts:\n", text)
    }
    assert len(ALERTS) > 10
    assert fires == set(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
def test_each_alert_names_a_severity_and_a_page_that_names_it(name: str) -> None:
    body = ALERTS[name]
    assert re.search(r"severity: (critical|warning|info)\b", body)
    page = re.search(r"runbook: (\S+)", body)
    assert page is not None
    text = (ROOT / page[1]).read_text(encoding="utf-8")
    assert f"`{name}`" in text
    for heading in ("## What it means", "## What to look at", "## What to do"):
        assert heading in text


@needs_prometheus
async def test_promtool_finds_nothing_to_say_of_an_agents_metrics(tmp_path: Path) -> None:
    async with counter(tmp_path) as behind:
        text = await behind.telling.metrics.render(behind.reporter.gauges())
    assert b"tillstream_agent_disk_free_bytes" in text
    assert promtool("check", "metrics", given=text) == ""


@needs_prometheus
async def test_promtool_finds_nothing_to_say_of_a_servers_metrics(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as server:
        till = await server.till()
        await till.sends(sale())
        text = (await server.get("/metrics")).body
    assert b"tillstream_server_fleet_sync_lag_seconds_bucket" in text
    assert promtool("check", "metrics", given=text) == ""


def metrics_of_a_fresh_server() -> set[str]:
    """The names of series that are there before anything has happened."""
    registry = CollectorRegistry()
    Metrics(registry).know_currency("USD")
    return set(re.findall(r"^(\w+)", generate_latest(registry).decode(), re.MULTILINE))


def test_each_series_that_rules_look_at_is_there_from_the_start() -> None:
    names = metrics_of_a_fresh_server()
    for file in (SHIPPED / "rules").glob("*.yml"):
        used = set(re.findall(r"\btillstream_server_\w+", file.read_text(encoding="utf-8")))
        assert used
        assert used <= names, used - names
