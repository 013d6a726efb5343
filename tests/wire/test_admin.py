"""The operator's routes: what they do, and who may ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from darkroom.models.engines.fakes import fake_model
from darkroom.service.api.admin import check_operator
from darkroom.service.config.settings import Settings
from darkroom.service.errors import Forbidden
from tests.pictures import picture
from tests.serving import running

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def url() -> Iterator[str]:
    with running(fake_model(name="default"), fake_model(name="default", version=10)) as server:
        yield server.url


def test_a_model_is_unloaded_and_loaded_again(url: str) -> None:
    states = httpx.post(f"{url}/admin/models/default/unload").json()
    assert {state["state"] for state in states} == {"END"}
    refused = httpx.post(url, files={"image": ("a", picture())})
    assert refused.status_code == 503
    assert "unloaded on request" in refused.json()["error"]
    assert httpx.get(f"{url}/v1/models/default").json()["model_version_status"][0] == {
        "version": "10",
        "state": "END",
        "status": {"error_code": "UNKNOWN", "error_message": "it was unloaded on request"},
    }
    states = httpx.post(f"{url}/admin/models/default/load").json()
    assert [(state["version"], state["state"]) for state in states] == [(10, "AVAILABLE"), (1, "AVAILABLE")]
    assert httpx.get(f"{url}/admin/models").json() == states
    assert httpx.post(url, files={"image": ("a", picture())}).status_code == 200


def test_labels_are_set_whole_and_must_name_what_is_served(url: str) -> None:
    labels = f"{url}/admin/models/default/labels"
    assert httpx.put(labels, json={"stable": 1, "canary": 10}).json() == {"stable": 1, "canary": 10}
    assert httpx.put(labels, json={"stable": 7}).status_code == 404
    for wrong in (["stable"], {"stable": "1"}, {"stable": True}, {"stable": 1.5}):
        assert httpx.put(labels, json=wrong).status_code == 400
    assert httpx.put(f"{url}/admin/models/nosuch/labels", json={}).status_code == 404


def test_a_model_that_the_server_does_not_know_is_a_404(url: str) -> None:
    for verb in ("load", "unload"):
        answer = httpx.post(f"{url}/admin/models/no%20such/{verb}")
        assert answer.status_code == 404
        assert "'no such'" in answer.json()["error"]


def test_pages_of_other_origins_are_refused(url: str) -> None:
    for headers in ({"Origin": "http://example.org"}, {"Host": "example.org"}, {"Origin": "null"}):
        answer = httpx.post(f"{url}/admin/models/default/unload", headers=headers)
        assert answer.status_code == 403, headers
    assert httpx.post(f"{url}/admin/models/default/load", headers={"Origin": url}).status_code == 200


def test_a_server_that_others_reach_needs_a_password() -> None:
    with pytest.raises(Forbidden, match="--enable_auth"):
        check_operator(Settings(host="0.0.0.0"), {"host": "127.0.0.1"})  # noqa: S104 - nothing listens
    with running(fake_model(name="default"), enable_auth=True, auth_username="u", auth_password="p") as server:
        path = f"{server.url}/admin/models/default/unload"
        assert httpx.post(path).status_code == 401
        assert httpx.post(path, auth=("u", "p"), headers={"Host": "example.org"}).status_code == 200
