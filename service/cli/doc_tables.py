"""The tables of docs/settings.md and docs/metrics.md: `make docs` writes them from the code, a test compares them."""

from __future__ import annotations

import sys
from pathlib import Path

from pydantic import SecretStr

from darkroom.service.cli.model_server import FLAGS
from darkroom.service.config.settings import PREFIX, Settings
from darkroom.service.telemetry.metrics import Metrics
from darkroom.service.workers.supervisor import worker_families

DOCS = Path(__file__).resolve().parents[2] / "docs"

SETTINGS_HEAD = f"""# Settings

Each setting is a flag of `darkroom serve` (`--name=value`; a switch needs no value) and an environment variable
(`{PREFIX}NAME`); the flag wins. Unknown `{PREFIX}*` names and wrong values stop the start, and all problems are listed
at once. The origin of each default is in brackets: STS (the default of Simple TensorFlow Serving), precedent (what
similar servers do), measured, or guess. Traces are set up by OpenTelemetry's variables, `OTEL_*`:
[operations.md](operations.md#traces).

`make docs` writes this page from service/config/settings.py.

| flag | default | meaning |
|---|---|---|
"""

METRICS_HEAD = """# Metrics

`GET /metrics` (and TensorFlow Serving's path, `/monitoring/prometheus/metrics`) answers in Prometheus' text format, or in
OpenMetrics if the Accept header asks for it, as Prometheus' own does. Names and labels are an interface: a change is
announced in the changelog. When a version is unloaded, its series disappear; those of a lazy model that may be loaded again
stay. The metrics of the process (`process_*`, `python_gc_*`) come from prometheus_client.

With several workers, every scrape covers all of them. Counters and histograms are summed, including those of workers that
have ended. Gauges for queues, in-flight requests, memory and file descriptors are summed; for every other gauge the
maximum is reported. `darkroom_cgroup_*` is what all processes of the server use together. See
service/workers/merge_metrics.py.

`make docs` writes this page from service/telemetry/metrics.py.

| name | type | labels | meaning |
|---|---|---|---|
"""
FLAGS_HEAD = """| flag of `tensorflow_model_server` | what happens |
|---|---|
"""


def settings_page() -> str:
    """The text of docs/settings.md."""
    page = SETTINGS_HEAD
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        is_empty = default is None or default in ((), {}) or isinstance(default, SecretStr)
        shown = "" if is_empty else f"`{str(default).lower() if isinstance(default, bool) else default}`"
        page += f"| `--{name}` | {shown} | {(field.description or '').replace('|', '&#124;')} |\n"
    return page


def metrics_page() -> str:
    """The text of docs/metrics.md."""
    page = METRICS_HEAD
    for family in (*Metrics(version="", tensorflow="").collect(), *worker_families(ready=0, absent=0, restarts=0)):
        suffix = "_total" if family.type == "counter" else ""
        labels = ", ".join(getattr(family, "_labelnames", ()))
        page += f"| `{family.name}{suffix}` | {family.type} | {labels} | {family.documentation} |\n"
    return page


def flags_table() -> str:
    """The table of docs/from_tensorflow_serving.md: what each flag of TensorFlow Serving becomes."""
    rows = (f"| `--{name}` | {flag.words.replace('|', '&#124;')} |\n" for name, flag in FLAGS.items())
    return f"{FLAGS_HEAD}{''.join(rows)}"


def main() -> int:
    """Writes both pages, and the table of the third."""
    (DOCS / "settings.md").write_text(settings_page(), encoding="utf-8")
    (DOCS / "metrics.md").write_text(metrics_page(), encoding="utf-8")
    page = DOCS / "from_tensorflow_serving.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(FLAGS_HEAD)
    after = rest[rest.index("\n\n") + 1 :]
    page.write_text(before + flags_table() + after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
