"""Every test of this folder runs in both lanes.

A server that a test starts by `running` or `serving` has `fast_lane` on in one round and off in the other, unless the
test sets it. Fixtures of a module come after this one, so that their servers are started anew for each round.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.serving import DEFAULTS

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True, scope="module", params=[True, False], ids=["fast lane", "sanic"])
def lane(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether the fast lane is on."""
    DEFAULTS["fast_lane"] = request.param
    yield request.param
    del DEFAULTS["fast_lane"]
