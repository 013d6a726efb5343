"""The balancer asks for a path, a port and a name that exist, and a real HAProxy spreads, drains and refuses as it says."""

from __future__ import annotations

import re
import shutil
import subprocess
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx
import pytest
import yaml

from darkroom.models.engines.fakes import fake_model
from darkroom.service.config.settings import Settings, read_settings
from loadtest.measure.processes import free_port
from tests.held import wait_for
from tests.pictures import picture
from tests.serving import metric, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from darkroom.service.server import Server

ROOT = Path(__file__).parents[3]
CONFIG = ROOT / "deploy/haproxy/haproxy.cfg"
TEXT = CONFIG.read_text(encoding="utf-8")
SERVICES = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
PICTURE = picture(1)
haproxy = pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed (Debian: haproxy)")


def said(pattern: str) -> str:
    """What the configuration says at the one place that a pattern finds."""
    (found,) = re.findall(pattern, TEXT, re.MULTILINE)
    return str(found)


def of_the_image() -> Settings:
    """The settings of a server of the compose file: the image's, without those that a variable may change."""
    image, _, _ = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8").partition("FROM bare AS gpu")
    return read_settings({}, dict(re.findall(r"^ {4}(DARKROOM_\w+)=(\S+)", image, re.MULTILINE)))


def seconds(text: str) -> float:
    return float(text.removesuffix("ms")) / 1000 if text.endswith("ms") else float(text.removesuffix("s"))


def test_it_finds_the_servers_by_the_name_of_their_service_and_at_their_port() -> None:
    name, port = said(r"^ +server-template \w+ \d+ (\S+) ").split(":")
    assert "build" in SERVICES[name]
    assert int(port) == of_the_image().port == int(SERVICES[name]["ports"][0].rpartition(":")[2])


def test_what_it_asks_for_is_answered_and_what_it_refuses_exists() -> None:
    with running(fake_model(name="default")) as server:
        assert httpx.get(server.url + said(r"^ +http-check send meth GET uri (\S+)")).status_code == 200
        paths = httpx.get(f"{server.url}/openapi.json").json()["paths"]
    for refused in said(r"if \{ path_beg (.*) \}$").split():
        assert any(path.startswith(refused) for path in paths), refused


def test_what_it_publishes_is_where_it_listens() -> None:
    listens = set(re.findall(r"^ +bind :(\d+)$", TEXT, re.MULTILINE))
    assert {port.rpartition(":")[2] for port in SERVICES["balancer"]["ports"]} == listens


def test_a_stopping_server_answers_until_the_balancer_has_looked_often_enough() -> None:
    check = dict(re.findall(r"(inter|fastinter|fall) (\S+)", said(r"^ +default-server (check .*)$")))
    looks_s = seconds(check["inter"]) + int(check["fall"]) * seconds(check["fastinter"])
    assert of_the_image().drain_delay_ms / 1000 > 2 * looks_s


def test_a_server_says_itself_that_it_was_too_late_or_has_too_many_connections() -> None:
    assert seconds(said(r"^ +timeout server (\d+s)")) > Settings().request_timeout_ms / 1000
    assert int(said(r"^ +maxconn (\d+)")) < Settings().max_connections


def test_only_a_request_that_reached_no_server_is_sent_again() -> None:
    assert said(r"^ +retry-on (.*)$") == "conn-failure"


@haproxy
def test_haproxy_takes_the_configuration() -> None:
    done = subprocess.run(["haproxy", "-c", "-f", str(CONFIG)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


@contextmanager
def balanced(servers: Sequence[Server], folder: Path) -> Iterator[str]:
    """The address of a real HAProxy with the repository's configuration, on free ports and before these servers."""
    port = free_port()
    lines = "\n".join(f"    server s{place} {urlsplit(server.url).netloc}" for place, server in enumerate(servers))
    text = re.sub(r"^ +server-template .*$", lines, TEXT, flags=re.MULTILINE)
    text = text.replace("bind :8500", f"bind 127.0.0.1:{port}").replace("bind :8404", f"bind 127.0.0.1:{free_port()}")
    (folder / "haproxy.cfg").write_text(text, encoding="utf-8")
    process = subprocess.Popen(["haproxy", "-db", "-f", str(folder / "haproxy.cfg")])
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def status(url: str) -> int:
    """What the balancer says of its servers; 0 while it does not listen."""
    try:
        return httpx.get(f"{url}/v2/health/ready").status_code
    except httpx.ConnectError:
        return 0


@haproxy
def test_requests_are_spread_none_is_lost_at_a_stop_and_what_is_meant_for_one_server_is_refused(tmp_path: Path) -> None:
    with ExitStack() as stack:
        servers = [
            stack.enter_context(running(fake_model(name="default"), drain_delay_ms=3000))
            for _ in range(2)
        ]  # fmt: skip
        url = stack.enter_context(balanced(servers, tmp_path))
        wait_for(lambda: status(url) == 200)
        client = stack.enter_context(httpx.Client(base_url=url))
        for path in ("/metrics", "/admin/models", "/v2/repository/models/default/load"):
            answer = client.get(path)
            assert (answer.status_code, "ask each server" in answer.json()["error"]) == (403, True)
        answers: list[int] = []

        def ask_until(is_so: Callable[[], bool]) -> None:
            def asked() -> bool:
                answers.append(client.post("/", content=PICTURE, headers={"Content-Type": "image/png"}).status_code)
                return is_so()

            wait_for(asked)

        ask_until(lambda: len(answers) == 40)
        assert [metric(each.url, "darkroom_images_total", outcome="ok") for each in servers] == [20, 20]
        servers[0].loop.call_soon_threadsafe(servers[0].stop)
        ask_until(servers[0].loop.is_closed)
        assert set(answers) == {200}
        assert len(answers) > 42


@haproxy
def test_without_a_server_that_is_ready_it_says_so_as_a_server_would(tmp_path: Path) -> None:
    with running(fake_model(name="default")) as server:
        pass
    with balanced([server], tmp_path) as url:
        wait_for(lambda: status(url) == 503)
        answer = httpx.post(url)
    assert answer.json() == {"error": "no server behind the balancer is ready"}
    assert (answer.status_code, answer.headers["X-Darkroom-Error"], answer.headers["Retry-After"]) == (
        503,
        "not_ready",
        "1",
    )
