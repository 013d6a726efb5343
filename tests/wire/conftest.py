"""Every test of this folder runs in both lanes.

A server that a test or a fixture starts by `running` or `serving` has `fast_lane` on in one round and off in the other,
unless it sets it. Between the rounds the fixtures of a module are made anew, as if each of them asked for `lane`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.serving import DEFAULTS

if TYPE_CHECKING:
    from collections.abc import Iterator

_LANE: dict[str, pytest.FixtureDef[Any]] = {}


@pytest.fixture(autouse=True, scope="module", params=[True, False], ids=["fast lane", "sanic"])
def lane(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether the fast lane is on."""
    DEFAULTS["fast_lane"] = request.param
    yield request.param
    del DEFAULTS["fast_lane"]


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any], request: Any) -> None:
    """Ends a module's fixtures with the round that they were made in."""
    if fixturedef.argname == "lane":
        _LANE["lane"] = fixturedef
    elif fixturedef.scope == "module" and "lane" in request.fixturenames:
        _LANE["lane"].addfinalizer(partial(fixturedef.finish, request=request))
