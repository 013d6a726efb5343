"""Writes the PrometheusRule of the component `monitoring` from the rules of deploy/prometheus.

    python deploy/kubernetes/generate.py

The file is committed; a test checks that it is up to date.
"""  # noqa: INP001 - a program, not a package

from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
RULES = HERE.parent / "prometheus/rules"
TARGET = HERE / "components/monitoring/prometheus_rule.yaml"
FIRST_LINE = "# Written by deploy/kubernetes/generate.py from deploy/prometheus/rules: change the rules there.\n"


def prometheus_rule() -> str:
    """Returns the manifest, with the groups of every file of rules in the order of their names."""
    groups: list[Any] = []
    for path in sorted(RULES.glob("*.yml")):
        groups += yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
    manifest = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "darkroom"},
        "spec": {"groups": groups},
    }
    return FIRST_LINE + yaml.safe_dump(manifest, sort_keys=False, width=120)


if __name__ == "__main__":
    TARGET.write_text(prometheus_rule(), encoding="utf-8")
