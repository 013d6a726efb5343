"""What all tests share: no root certificates, and the server of the model that ships."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

# No test asks another machine. httpx would read all root certificates again for each client: 20 ms.
os.environ.pop("SSL_CERT_FILE", None)
os.environ["SSL_CERT_DIR"] = os.devnull


@pytest.fixture(scope="session")
def efficientnet() -> Iterator[str]:
    """The address of a `darkroom serve` process with the model that ships; tests only ask it for predictions."""
    from tests.serving import serving  # noqa: PLC0415 - the scheduler's tests need no server

    with serving(f"--model_base_path={Path(__file__).parents[1] / 'model' / 'efficientnet_lite0'}") as url:
        yield url
