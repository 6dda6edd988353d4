"""Dashboards as Grafana takes them, by its own SDK: the one module that knows it.

They have the older of its two formats, for which the SDK warns: the newer one is read by Grafana from version 12 on.
"""

from __future__ import annotations

from typing import Any, Final

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models

from .panels import COLUMNS, Dashboard, Panel, Variable

PREFIX: Final = "tillstream-"
NUMBER_HEIGHT: Final = 4
PICTURE_HEIGHT: Final = 8

_SOURCE: Final = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
_ALL: Final = models.VariableOption(selected=True, text="All", value="$__all")


def drawn(one: Dashboard) -> str:
    """A dashboard as JSON, ready to be imported or provisioned; it ends with a line feed."""
    page = (
        dashboard.Dashboard(one.title)
        .uid(PREFIX + one.name)
        .description(one.about)
        .tags(["tillstream"])
        .time("now-6h", "now")
        .refresh("30s")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .link(dashboard.DashboardLink("Tillstream").type(models.DashboardLinkType.DASHBOARDS).tags(["tillstream"]))
        .with_variable(dashboard.DatasourceVariable("datasource").type("prometheus").label("Data source"))
    )
    for variable in one.variables:
        page = page.with_variable(_variable(variable))
    for row in one.rows:
        page = page.with_row(dashboard.Row(row.title))
        for panel in row.panels:
            page = page.with_panel(_panel(panel))
    return str(JSONEncoder(sort_keys=True, indent=2).encode(page.build())) + "\n"


def _variable(one: Variable) -> Any:
    return (
        dashboard.QueryVariable(one.name)
        .label(one.title)
        .query(f"label_values({one.metric}, {one.label})")
        .datasource(_SOURCE)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .include_all(True)
        .all_value(".*")
        .multi(True)
        .current(_ALL)
    )


def _panel(one: Panel) -> Any:
    builder = _number(one) if one.look == "number" else _picture(one)
    builder = builder.title(one.title).description(one.why).unit(one.unit).datasource(_SOURCE).span(one.width)
    for letter, query in zip("ABCDEFGH", one.queries, strict=False):
        target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(letter)
        builder = builder.with_target(target.instant() if one.look == "number" else target.range())
    assert one.width <= COLUMNS
    return builder


def _number(one: Panel) -> Any:
    steps = [models.Threshold(color="green", value=None)]
    for value, color in ((one.warn, "yellow"), (one.alarm, "red")):
        if value is not None:
            steps.append(models.Threshold(color=color, value=value))
    return (
        stat.Panel()
        .height(NUMBER_HEIGHT)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .graph_mode(common_models.BigValueGraphMode.NONE)
        .color_mode(common_models.BigValueColorMode.VALUE)
        .thresholds(dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps))
    )


def _picture(one: Panel) -> Any:
    legend = common.VizLegendOptions().show_legend(True).display_mode(common_models.LegendDisplayMode.LIST)
    tooltip = common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.MULTI)
    picture = (
        timeseries.Panel()
        .height(PICTURE_HEIGHT)
        .legend(legend.placement(common_models.LegendPlacement.BOTTOM))
        .tooltip(tooltip.sort(common_models.SortOrder.DESCENDING))
        .span_nulls(False)
    )
    if one.look != "stack":
        return picture
    return picture.fill_opacity(25).stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL))
