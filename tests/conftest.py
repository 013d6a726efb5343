"""What all tests share: no root certificates, the server of the model that ships, and how a run is shared out."""

from __future__ import annotations

import gc
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xdist.remote import Producer
    from xdist.scheduler import Scheduling

# No test asks another machine. httpx would read all root certificates again for each client: 20 ms.
os.environ.pop("SSL_CERT_FILE", None)
os.environ["SSL_CERT_DIR"] = os.devnull

# Before xdist starts its processes, which inherit it: what one of them has prepared, the others find.
if "TESTS_CACHE" not in os.environ:
    CACHE = tempfile.TemporaryDirectory(prefix="darkroom-cache-")
    os.environ["TESTS_CACHE"] = CACHE.name

SHARE_A_SERVER = (
    "browser/test_outputs.py",
    "browser/test_page.py",
    "clients/test_documented.py",
    "integration/test_models.py",
)


@pytest.fixture(scope="session")
def efficientnet() -> Iterator[str]:
    """The address of a `darkroom serve` process with the model that ships; tests only ask it for predictions."""
    from tests.serving import serving  # noqa: PLC0415 - the scheduler's tests need no server

    with serving(
        "--workers=auto", f"--model_base_path={Path(__file__).parents[1] / 'model' / 'efficientnet_lite0'}"
    ) as url:
        yield url


def pytest_collection_finish() -> None:
    """Spares every collection of garbage a walk through all modules and tests: a model that is loaded asks for four."""
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    """Which process runs what in a run of several: the tests of a file stay together, as do those that share a server."""
    from xdist.scheduler import LoadFileScheduling  # noqa: PLC0415 - asked for in such a run only

    class Files(LoadFileScheduling):  # type: ignore[misc]  # xdist has no types
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "efficientnet" if file.endswith(SHARE_A_SERVER) else file

    return Files(config, log)
