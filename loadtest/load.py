"""`make load`: starts a server on loopback, runs Locust against it and ends it; the exit code is Locust's.

    LOADTEST_RUN_TIME=30s python -m loadtest.load model/efficientnet_lite0 --users 16 --p99-ms 800

Other flags are passed to Locust; see `locust --help` and loadtest/locustfile.py.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from loadtest.bench.arguments import version_folder
from loadtest.bench.contenders import INTERPRETED, started
from loadtest.measure import processes

if TYPE_CHECKING:
    from collections.abc import Sequence

RUN_TIME = "LOADTEST_RUN_TIME"
LOCUSTFILES = "loadtest/locustfile.py,loadtest/shapes.py"


def command(url: str, html: Path, more: Sequence[str], *, has_shape: bool) -> list[str]:
    """Returns Locust's command line: headless, with an HTML report at the end; flags in `more` override it."""
    files = LOCUSTFILES if has_shape else LOCUSTFILES.partition(",")[0]
    run_time = os.environ.get(RUN_TIME) or "2m"
    flags = [f"--host={url}", "--headless", "--users=16", "--spawn-rate=16", f"--run-time={run_time}", f"--html={html}"]
    return [sys.executable, "-m", "locust", "-f", files, *flags, *more]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs Locust; returns its exit code, or 1 if the server does not start."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.load", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="the folder of the model to serve")
    parser.add_argument("--html", type=Path, default=Path("build/load.html"), help="Locust's page [%(default)s]")
    options, more = parser.parse_known_args(arguments)
    options.html.parent.mkdir(parents=True, exist_ok=True)
    print(f"load: starting a server with {options.model} …", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="load-") as logs:
        try:
            with started(INTERPRETED, options.model, version_folder(options.model), Path(logs)) as server:
                asked = command(
                    server.url.rstrip("/"), options.html, more, has_shape=any("--shape" in flag for flag in more)
                )
                status = subprocess.run(asked, check=False, env=os.environ | {"PYTHONPATH": "."}).returncode  # noqa: S603 - our own words
        except processes.DidNotStart as err:
            print(f"load: {err}", file=sys.stderr)
            return 1
    print(f"load: Locust's page is {options.html}")
    return status


if __name__ == "__main__":
    sys.exit(main())
