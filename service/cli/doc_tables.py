"""The tables in docs/, written from the code so that they stay true: `make docs` writes them, a test compares them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from darkroom.service.config.settings import PREFIX, Settings
from darkroom.service.telemetry.metrics import Metrics
from darkroom.service.workers.supervisor import worker_families

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCS = Path(__file__).resolve().parents[2] / "docs"

SETTINGS_HEAD = f"""# Settings

Each is a flag of `darkroom serve` (`--name=value`; a switch may stand alone) and an environment variable
(`{PREFIX}NAME`); the flag wins. Unknown `{PREFIX}*` names and bad values stop the start, with all problems listed at
once. In brackets where a default comes from: STS (Simple TensorFlow Serving's), precedent, measured, or guess.

Written by `make docs` out of service/config/settings.py.

| flag | default | what it is |
|---|---|---|
"""

METRICS_HEAD = """# Metrics

`GET /metrics` (and TensorFlow Serving's path, `/monitoring/prometheus/metrics`) answers in Prometheus' text format.
Names and labels are an interface: they change with a line in the changelog only. A version that unloads takes its
series along. The process's own (`process_*`, `python_gc_*`) come from prometheus_client.

Under `--workers` each is told of all workers together: counters and histograms are summed, those of workers that are
gone among them; so are queues, requests in flight, memory and files; of other gauges it is the largest. See
service/workers/merge_metrics.py.

Written by `make docs` out of service/telemetry/metrics.py.

| name | type | labels | what it is |
|---|---|---|---|
"""


def settings_page() -> str:
    """docs/settings.md."""
    return SETTINGS_HEAD + "".join(f"{row}\n" for row in _settings_rows())


def metrics_page() -> str:
    """docs/metrics.md."""
    return METRICS_HEAD + "".join(f"{row}\n" for row in _metrics_rows())


def _settings_rows() -> Iterator[str]:
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        is_empty = default is None or default in ((), {}) or isinstance(default, SecretStr)
        shown = "" if is_empty else f"`{str(default).lower() if isinstance(default, bool) else default}`"
        yield f"| `--{name}` | {shown} | {(field.description or '').replace('|', '&#124;')} |"


def _metrics_rows() -> Iterator[str]:
    for family in (*Metrics(version="", tensorflow="").collect(), *worker_families(ready=0, absent=0, restarts=0)):
        suffix = "_total" if family.type == "counter" else ""
        labels = ", ".join(getattr(family, "_labelnames", ()))
        yield f"| `{family.name}{suffix}` | {family.type} | {labels} | {family.documentation} |"


def main() -> int:
    """Writes both pages."""
    (DOCS / "settings.md").write_text(settings_page(), encoding="utf-8")
    (DOCS / "metrics.md").write_text(metrics_page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
