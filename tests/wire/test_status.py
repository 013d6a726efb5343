"""What is served, health, metrics, the page and the refusals around them."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from darkroom.models.engines.fakes import fake_model
from tests.held import wait_for
from tests.pictures import picture
from tests.serving import metric, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running(fake_model(name="default"), fake_model(name="default", version=10)) as server:
        yield server.url


def test_health_is_told_as_each_dialect_asks_for_it(url: str) -> None:
    assert httpx.get(url + "/health").text == "healthy"
    assert httpx.get(url + "/v2/health/live").json() == {"live": True}
    assert httpx.get(url + "/v2/health/ready").json() == {"ready": True}
    assert httpx.head(url + "/health").status_code == 200


def test_a_model_is_described_in_sts_words(url: str) -> None:
    (model,) = httpx.get(url + "/v1/models").json()
    assert model == httpx.get(url + "/v1/models/default").json()
    assert model["model_name"] == "default"
    assert model["model_version_list"] == ["1", "10"]
    assert [status["version"] for status in model["model_version_status"]] == ["10", "1"]
    assert model["model_signature"]["inputs"] == [{"name": "images", "dtype": 7, "shape": [-1]}]
    assert model["platform"] == "TensorFlow"


def test_an_unknown_model_is_a_404_in_tensorflow_serving_s_words(url: str) -> None:
    answer = httpx.get(url + "/v1/models/nosuch")
    assert answer.status_code == 404
    assert answer.json() == {"error": "Could not find any versions of model nosuch"}


@pytest.mark.parametrize(
    ("method", "path", "code"), [("GET", "/nowhere", 404), ("DELETE", "/", 405), ("GET", "/web/x", 404)]
)
def test_what_no_route_takes_is_json_too(url: str, method: str, path: str, code: int) -> None:
    answer = httpx.request(method, url + path)
    assert answer.status_code == code
    assert answer.json()["error"]


@pytest.mark.parametrize(("method", "path"), [("GET", "/" + "a" * 6000), ("PUT", "/web/" + "a" * 6000)])
def test_a_path_that_leads_nowhere_is_not_echoed_whole(url: str, method: str, path: str) -> None:
    answer = httpx.request(method, url + path)
    assert answer.status_code in {404, 405}
    assert len(answer.json()["error"]) < 300


def test_requests_are_counted_by_route_and_outcome_and_none_is_left_in_flight(url: str) -> None:
    before = metric(url, "darkroom_requests_total", outcome="ok", version="10")
    for _ in range(3):
        httpx.post(url, files={"image": ("a", picture())})
    assert metric(url, "darkroom_requests_total", outcome="ok", version="10") == before + 3
    assert metric(url, "darkroom_batch_images_count", version="10") >= 1
    assert metric(url, "darkroom_http_requests_total", route="/", method="POST", code="200") >= 3
    assert metric(url, "darkroom_http_requests_in_flight") == 1  # the one that asks
    assert metric(url, "darkroom_model_state", state="AVAILABLE") == 2
    body = httpx.get(url + "/monitoring/prometheus/metrics").text
    assert "darkroom_build_info" in body
    assert "process_resident_memory_bytes" in body


def test_metrics_are_openmetrics_for_who_accepts_it_and_text_for_all_others(url: str) -> None:
    httpx.post(url, files={"image": ("a", picture())})
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"  # Prometheus'
    answer = httpx.get(url + "/metrics", headers={"Accept": accept})
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family.type for family in text_string_to_metric_families(answer.text)}
    assert (families["darkroom_requests"], families["darkroom_stage_duration_seconds"]) == ("counter", "histogram")
    plain = httpx.get(url + "/metrics")
    assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "# EOF" not in plain.text


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_promtool_finds_no_fault_in_a_live_page_and_reads_openmetrics(url: str, tmp_path: Path) -> None:
    httpx.post(url, files={"image": ("a", picture())})
    page = httpx.get(url + "/metrics").text
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=page, capture_output=True, text=True, check=False, timeout=60
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    # `check metrics` reads only the text format. What reads OpenMetrics wants a time behind each sample.
    page = httpx.get(url + "/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"}).text
    timed = re.sub(r"^([^#].*)$", r"\1 1700000000", page, flags=re.MULTILINE)
    (tmp_path / "page").write_text(timed, encoding="utf-8")
    command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", "page", "blocks"]
    read = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert read.returncode == 0, read.stderr


@pytest.mark.parametrize("path", ["/", "/image_inference", "/json_inference", "/generate_clients"])
def test_a_page_and_all_that_it_loads_come_from_this_server(url: str, path: str) -> None:
    page = httpx.get(url + path)
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    loaded = re.findall(r'(?:src|href)="(/web/[^"]+)"', page.text)
    scripts = "".join(httpx.get(url + name).text for name in loaded if name.endswith(".js"))
    loaded += re.findall(r'from "([^"]+)"', scripts)
    assert "/web/models.js" in loaded
    for name in loaded:
        assert httpx.get(url + name).status_code == 200, name
    for text in (page.text, scripts):
        assert "http://" not in text
        assert "https://" not in text


def test_basic_auth_guards_all_but_health() -> None:
    with running(fake_model(name="default"), enable_auth=True, auth_username="u", auth_password="p") as server:
        for path in ("/metrics", "/v1/models", "/image_inference"):
            refused = httpx.get(server.url + path)
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"].startswith("Basic ")
            assert httpx.get(server.url + path, auth=("u", "p")).status_code == 200
        assert httpx.get(server.url + "/health").text == "healthy"
        for user, password in (("u", "x"), ("x", "p"), ("", ""), ("u", "")):
            answer = httpx.post(server.url, files={"image": ("a", picture())}, auth=(user, password))
            assert answer.status_code == 401
        assert httpx.get(server.url + "/metrics", headers={"Authorization": "Basic %%%"}).status_code == 401
        assert httpx.post(server.url, files={"image": ("a", picture())}, auth=("u", "p")).status_code == 200


def test_cors_is_off_until_asked_for(url: str) -> None:
    assert "access-control-allow-origin" not in httpx.get(url + "/health").headers
    with running(fake_model(name="default"), enable_cors=True) as server:
        assert httpx.get(server.url + "/health").headers["access-control-allow-origin"] == "*"


def test_what_can_be_got_can_be_asked_for_its_head(url: str) -> None:
    for path in ("/", "/health", "/v1/models", "/v1/models/default", "/metrics"):
        answer = httpx.head(url + path)
        assert answer.status_code == 200, path
        assert int(answer.headers["content-length"]) > 0
        assert answer.content == b""


def test_a_server_whose_folder_has_no_model_yet_says_so(tmp_path: Path) -> None:
    reason = "the folder of --model_repository has no model yet"
    with running(model_repository=tmp_path) as server:
        wait_for(lambda: httpx.get(server.url + "/v2/health/ready").json() == {"ready": False, "reason": reason})
        refused = httpx.post(server.url, content=picture(), headers={"Content-Type": "image/png"})
        assert (refused.status_code, refused.json()["error"]) == (503, reason)


def test_options_tells_which_methods_a_path_takes(url: str) -> None:
    answer = httpx.options(url + "/")
    assert answer.status_code == 200
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS, POST"
    assert "access-control-allow-methods" not in answer.headers
    assert httpx.options(url + "/nowhere").status_code == 404


def test_a_page_of_another_origin_may_post_once_cors_is_asked_for() -> None:
    asked = {"Origin": "http://example.test", "Access-Control-Request-Method": "POST"}
    with running(fake_model(name="default"), enable_cors=True) as server:
        answer = httpx.options(server.url, headers=asked | {"Access-Control-Request-Headers": "content-type"})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "Content-Type" in answer.headers["access-control-allow-headers"]


def test_the_folder_of_a_model_is_told_to_those_who_proved_who_they_are_and_to_no_stranger(url: str) -> None:
    assert httpx.get(f"{url}/v1/models/default").json()["model_base_path"] == "default"
    guarded = {"enable_auth": True, "auth_username": "u", "auth_password": "p"}
    with running(fake_model(name="default"), model_base_path="srv/models/cats", **guarded) as server:
        (model,) = httpx.get(f"{server.url}/v1/models", auth=("u", "p")).json()
        assert model["model_base_path"] == "srv/models/cats"
