"""The committed dashboards are what their code makes, and hold what Grafana needs to show them anywhere."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from observability.dashboards import ALL
from observability.dashboards.panels import COLUMNS, Dashboard
from support.prometheus import SHIPPED

FOLDER = SHIPPED / "grafana" / "dashboards"
DRAWS = importlib.util.find_spec("grafana_foundation_sdk") is not None


def committed(one: Dashboard) -> Any:
    return json.loads((FOLDER / f"{one.name}.json").read_text(encoding="utf-8"))


def test_there_is_a_file_for_each_dashboard_and_no_other() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == {one.name for one in ALL}
    assert {"fleet", "sync", "till-experience", "sales", "server"} == {one.name for one in ALL}


@pytest.mark.skipif(not DRAWS, reason="`make .venv/grafana` installs grafana-foundation-sdk")
@pytest.mark.filterwarnings("ignore:Prefer using dashboardv2:DeprecationWarning")
@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_the_committed_file_is_what_the_code_makes(one: Dashboard) -> None:
    from observability.dashboards.draw import drawn

    assert (FOLDER / f"{one.name}.json").read_text(encoding="utf-8") == drawn(one), "run `make dashboards`"


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_the_committed_file_has_every_panel_and_query(one: Dashboard) -> None:
    wanted = [(panel.title, query.expr) for row in one.rows for panel in row.panels for query in panel.queries]
    panels = [panel for panel in committed(one)["panels"] if panel["type"] != "row"]
    assert [(panel["title"], target["expr"]) for panel in panels for target in panel["targets"]] == wanted
    assert all(panel["description"] for panel in panels)


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_it_can_be_imported_anywhere(one: Dashboard) -> None:
    page = committed(one)
    assert "id" not in page  # Grafana gives that out; a number of ours could be another dashboard's
    assert page["uid"] == f"tillstream-{one.name}"
    variables = {variable["name"]: variable for variable in page["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    for panel in page["panels"]:
        if panel["type"] != "row":
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_no_panel_lies_on_another(one: Dashboard) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in committed(one)["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < COLUMNS
        taken |= cells


def test_grafana_is_told_where_the_dashboards_lie() -> None:
    provider = (SHIPPED / "grafana" / "provisioning" / "dashboards" / "tillstream.yml").read_text(encoding="utf-8")
    guide = (Path(SHIPPED.parents[1]) / "docs" / "how-to" / "watch-with-prometheus.md").read_text(encoding="utf-8")
    assert "/var/lib/grafana/dashboards/tillstream" in provider
    assert "/var/lib/grafana/dashboards/tillstream" in guide
