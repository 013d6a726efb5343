"""Tokens, scopes and TLS over a real socket."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import httpx

from darkroom.models.engines.fakes import fake_model
from darkroom.service.config.tokens import Scope, new_token
from tests.pictures import picture
from tests.serving import certificate, running

if TYPE_CHECKING:
    from pathlib import Path

PNG = {"Content-Type": "image/png"}


def _bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


def test_each_scope_opens_its_own_doors_and_health_needs_none(tmp_path: Path) -> None:
    made = {scope: new_token(scope.value, frozenset({scope})) for scope in Scope}
    file = tmp_path / "tokens"
    file.write_text("".join(token.line() + "\n" for _, token in made.values()), encoding="utf-8")
    doors = {
        ("POST", "/"): Scope.PREDICT,
        ("GET", "/v1/models"): Scope.PREDICT,
        ("GET", "/metrics"): Scope.METRICS,
        ("GET", "/monitoring/prometheus/metrics"): Scope.METRICS,
        ("GET", "/admin/models"): Scope.ADMIN,
        ("POST", "/admin/models/default/load"): Scope.ADMIN,
    }
    with running(fake_model(name="default"), auth_tokens_file=file) as server:

        def status(method: str, path: str, headers: dict[str, str]) -> int:
            return httpx.request(method, server.url + path, content=picture(), headers=PNG | headers).status_code

        for (method, path), needed in doors.items():
            assert status(method, path, {}) == 401
            assert status(method, path, _bearer("x")) == 401
            for scope, (text, _) in made.items():
                assert (status(method, path, _bearer(text)) == 403) is (scope is not needed), (path, scope)
            assert status(method, path, _bearer(made[needed][0])) == 200
        for path in ("/health", "/v2/health/live", "/v2/health/ready"):
            assert httpx.get(server.url + path).status_code == 200
        refused = httpx.get(server.url + "/metrics", headers=_bearer(made[Scope.PREDICT][0]))
        assert refused.json()["error"].endswith("it takes metrics")
        assert "Bearer" in httpx.get(server.url + "/metrics").headers["www-authenticate"]


def test_what_changes_the_server_is_closed_to_pages_of_elsewhere_also_with_cors(tmp_path: Path) -> None:
    text, token = new_token("ops", frozenset(Scope))
    file = tmp_path / "tokens"
    file.write_text(token.line(), encoding="utf-8")
    with running(fake_model(name="default"), auth_tokens_file=file, enable_cors=True) as server:
        page = _bearer(text) | {"Origin": "http://example.org"}
        load = server.url + "/admin/models/default/load"
        refused = httpx.post(load, headers=page)
        assert refused.status_code == 403
        assert "access-control-allow-origin" not in refused.headers
        assert "access-control-allow-origin" not in httpx.post(load, headers=_bearer(text)).headers
        assert httpx.get(server.url + "/v1/models", headers=page).headers["access-control-allow-origin"] == "*"


def test_tls_by_the_flags_of_sts_answers_in_both_ways_to_predict(tmp_path: Path) -> None:
    pem, key = certificate(tmp_path)
    trust = ssl.create_default_context(cafile=pem)
    with running(fake_model(name="default"), enable_ssl=True, secret_pem=pem, secret_key=key) as server:
        assert server.url.startswith("https://")
        with httpx.Client(verify=trust) as client:
            assert client.get(server.url + "/health").text == "healthy"
            raw = client.post(server.url, content=picture(), headers=PNG)
            assert raw.json() == client.post(server.url, files={"image": ("a", picture())}).json()
