"""The OpenAPI document against the code."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from darkroom.models.engines.fakes import fake_model
from darkroom.service.api.openapi import OPERATIONS
from darkroom.service.api.tensorflow_serving import paths as addresses
from darkroom.service.app import create_app
from darkroom.service.config.settings import Settings
from darkroom.service.errors import TABLE
from tests.serving import running

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running(fake_model(name="default"), fake_model(name="other", version=3)) as server:
        yield server.url


@pytest.fixture(scope="module")
def document(url: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(url + "/openapi.json").json()
    return found


def _template(path: str) -> str:
    """A path of the document as the code names it."""
    return re.sub(r"\{(\w+)\}", lambda found: found[1].upper(), path)


def test_its_operations_are_the_routes_of_the_server_and_no_others(document: dict[str, Any]) -> None:
    told = {(method.upper(), _template(path)) for path, methods in document["paths"].items() for method in methods}
    routes = [route for route in create_app(Settings()).router.routes if f"/{route.path}" != addresses.ANY]
    served = {
        (method, "/" + re.sub(r"<(\w+):\w+>", lambda found: found[1].upper(), route.path))
        for route in routes
        for method in route.methods - {"HEAD"}
    }
    assert told == served | set(addresses.ROUTES)


def test_every_status_of_the_table_is_told_wherever_one_can_predict(document: dict[str, Any]) -> None:
    statuses = {str(verdict.status) for verdict in TABLE.values()} | {"200", "401", "403", "408", "431"}
    predicting = [o for o in OPERATIONS if o.body in {"data", "instances", "examples", "tensors"}]
    assert len(predicting) == 12
    for operation in predicting:
        assert statuses <= set(document["paths"][operation.path][operation.method]["responses"])


def test_each_example_is_a_body_that_its_path_answers(url: str, document: dict[str, Any]) -> None:
    asked = 0
    for path, methods in document["paths"].items():
        content = methods.get("post", {}).get("requestBody", {}).get("content", {})
        for name, example in content.get("application/json", {}).get("examples", {}).items():
            model, version = name.split()
            if "{label}" in path:
                continue  # none of these models has a label
            address = url + path.replace("{name}", model).replace("{version}", version)
            answer = httpx.post(address, json=example["value"])
            assert answer.status_code == 200, (address, answer.text)
            asked += 1
    assert asked == 10


def test_it_says_what_openapi_3_1_asks_of_a_document(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    ids = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    assert len(ids) == len(set(ids)) == len(OPERATIONS)
    for path, methods in document["paths"].items():
        for operation in methods.values():
            named = [p["name"] for p in operation["parameters"] if p["in"] == "path"]
            assert named == re.findall(r"\{(\w+)\}", path)


def test_credentials_are_told_where_they_are_asked_for() -> None:
    with running(fake_model(name="default"), enable_auth=True, auth_password="p") as server:
        paths = httpx.get(server.url + "/openapi.json", auth=("admin", "p")).json()["paths"]
        for operation in OPERATIONS:
            described = paths[operation.path][operation.method]
            status = httpx.request(operation.method, server.url + _fill(operation.path)).status_code
            assert (status == 401) is ("security" in described), operation


def _fill(path: str) -> str:
    return re.sub(r"\{\w+\}", "1", path)
