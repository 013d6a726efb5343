"""Writes the JSON of the Grafana dashboards from `panels`.

    python deploy/grafana/generate.py deploy/grafana/dashboards

The JSON is committed; a test checks that it is up to date. Standard library only.
"""  # noqa: INP001 - a program, not a package

import json
import sys
from pathlib import Path
from typing import Any

from panels import Dashboard, Panel, batching, models, overview, runtime

WIDTH = 24  # of Grafana's grid
DASHBOARDS = (overview.DASHBOARD, batching.DASHBOARD, models.DASHBOARD, runtime.DASHBOARD)


def targets(panel: Panel) -> list[dict[str, Any]]:
    """Returns the panel's queries, named A, B, C as Grafana does."""
    form = "heatmap" if panel.kind == "heatmap" else "time_series"
    return [
        {"refId": chr(ord("A") + place), "expr": expr, "legendFormat": legend, "format": form, "instant": False}
        for place, (legend, expr) in enumerate(panel.queries.items())
    ]


def field_config(panel: Panel) -> dict[str, Any]:
    """Returns the unit, the colours and, for curves, the style of the lines."""
    custom = {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 40 if panel.is_stacked else 5,
        "showPoints": "never",
        "spanNulls": 15_000,  # ms: three missing scrapes make a gap
        "stacking": {"mode": "normal" if panel.is_stacked else "none", "group": "A"},
    }
    defaults: dict[str, Any] = {"unit": panel.unit, "noValue": "nothing arrived"}
    if not panel.is_signed:
        defaults["min"] = 0
    if panel.kind == "timeseries":
        defaults["custom"] = custom
    if panel.steps:
        steps = [
            {"value": value if place else None, "color": colour} for place, (value, colour) in enumerate(panel.steps)
        ]
        defaults |= {"thresholds": {"mode": "absolute", "steps": steps}, "color": {"mode": "thresholds"}}
    overrides = [
        {
            "matcher": {"id": "byName", "options": name},
            "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}],
        }
        for name, colour in panel.colours.items()
    ]
    return {"defaults": defaults, "overrides": overrides}


def options(panel: Panel) -> dict[str, Any]:
    """Returns the options that a kind of panel needs besides its data."""
    if panel.kind == "stat":
        return {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "background" if panel.steps else "value",
            "graphMode": "area",
            "textMode": "value",
        }
    if panel.kind == "bargauge":
        return {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "orientation": "horizontal",
            "displayMode": "basic",
            "showUnfilled": False,
        }
    if panel.kind == "heatmap":
        return {
            "calculate": False,
            "color": {"mode": "scheme", "scheme": "Blues", "steps": 64},
            "yAxis": {"unit": "short", "decimals": 0},
            "cellGap": 1,
            "tooltip": {"mode": "single", "yHistogram": True},
            "legend": {"show": False},
        }
    return {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }


def place(panels: tuple[Panel, ...], top: int, first_id: int) -> tuple[list[dict[str, Any]], int]:
    """Returns the panels of a row, placed left to right and line by line, and the y below them."""
    drawn, x, line_height = [], 0, 0
    for number, panel in enumerate(panels):
        if x + panel.width > WIDTH:
            x, top, line_height = 0, top + line_height, 0
        drawn.append(
            {
                "id": first_id + number,
                "type": panel.kind,
                "title": panel.title,
                "description": panel.about,
                "datasource": {"type": "prometheus", "uid": "${datasource}"},
                "gridPos": {"x": x, "y": top, "w": panel.width, "h": panel.height},
                "targets": targets(panel),
                "fieldConfig": field_config(panel),
                "options": options(panel),
            }
        )
        x, line_height = x + panel.width, max(line_height, panel.height)
    return drawn, top + line_height


def variable(name: str, query: str) -> dict[str, Any]:
    """Returns a variable to select values of a label by; all values are selected at first."""
    return {
        "name": name,
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,  # reload when the time range changes: models come and go
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "sort": 1,
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def dashboard(of: Dashboard) -> dict[str, Any]:
    """Returns a whole dashboard, with links to the others."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, content in of.rows.items():
        grid = {"x": 0, "y": top, "w": WIDTH, "h": 1}
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": title, "collapsed": False, "gridPos": grid, "panels": []}
        )
        drawn, top = place(content, top + 1, len(panels) + 1)
        panels += drawn
    source = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
    return {
        "uid": of.name,
        "title": of.title,
        "description": f"{of.about} Written by deploy/grafana/generate.py: change it there.",
        "tags": ["darkroom"],
        "schemaVersion": 39,
        "editable": False,
        "graphTooltip": 1,  # one cursor over all panels
        "refresh": "5s",
        "time": {"from": "now-15m", "to": "now"},
        "timezone": "browser",
        "templating": {
            "list": [
                source | {"current": {"text": "Prometheus", "value": "prometheus"}},
                variable("instance", "label_values(darkroom_build_info, instance)"),
                variable("model", "label_values(darkroom_model_info, model)"),
            ]
        },
        "annotations": {"list": []},
        "links": [{"type": "dashboards", "tags": ["darkroom"], "title": "", "includeVars": True, "keepTime": True}],
        "panels": panels,
    }


def render(of: Dashboard) -> str:
    """Returns the text of the JSON file."""
    return json.dumps(dashboard(of), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for each in DASHBOARDS:
        (Path(sys.argv[1]) / f"{each.name}.json").write_text(render(each), encoding="utf-8")
