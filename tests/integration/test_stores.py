"""Models that are kept in stores, under a real server that is being asked all the while."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass
from functools import partial
from operator import mul
from typing import TYPE_CHECKING

import httpx
import pytest

from tests import savedmodels
from tests.asked import CLIENTS, load, until
from tests.held import wait_for
from tests.serving import Process, metric
from tests.stores import storing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.asked import Load, States
    from tests.stores import Handler, Store

pytestmark = pytest.mark.slow
QUICK = ("--reload_interval_ms=100", "--store_poll_ms=100")
LIMIT_BYTES = 4_000_000
LIMITED = f"--store_cache_bytes={LIMIT_BYTES}"
BUCKET = {"name": "default", "base_path": "s3://bucket/models/default"}
WEIGHTS = "variables/variables.data-00000-of-00001"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Versions 1 and 2: each multiplies by its number."""
    folder = tmp_path_factory.mktemp("built")
    for factor in (1, 2):
        savedmodels.numbers(folder / str(factor), partial(mul, float(factor)))
    return folder


@dataclass(frozen=True)
class Site:
    """A store, and a server of two models in it: `default` in a bucket, which is asked all the while, and `packed`."""

    store: Store
    url: str
    process: Process
    clients: Load
    config: Path
    cache: Path


@pytest.fixture(scope="module")
def site(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    config, cache = tmp_path_factory.mktemp("config") / "models.json", tmp_path_factory.mktemp("cache")
    with storing() as store:
        store.put_folder(built / "1", "models/default/1")
        store.put("model.tar.gz", _archive(built / "1"), age_s=9000)
        listed = [{"name": "packed", "base_path": f"{store.url}/bucket/model.tar.gz"}, BUCKET]
        config.write_text(json.dumps({"model_config_list": listed}))
        flags = (f"--model_config_file={config}", "--model_config_poll_ms=100", "--log_format=json", *QUICK)
        process = Process(*flags, LIMITED, f"--cache_dir={cache}", environment=store.environment)
        try:
            url = process.wait_ready()
            with load(url, pause_s=0.05) as clients:  # fails if a request does
                yield Site(store, url, process, clients, config, cache)
        finally:
            assert process.stop() == 0
        said = [json.loads(line) for line in process.lines if line.startswith("{")]
        assert [line for line in said if "Traceback" in str(line)] == []


def _says(version: str, state: str, words: str, states: States) -> bool:
    now, message = states.get(version, ("", ""))
    return now == state and words in message


def _until_answers_come_from(clients: Load, factor: float, url: str) -> None:
    asked = len(clients.factors)
    until(url, lambda _: len(clients.factors) >= asked + 2 * CLIENTS)
    assert set(clients.factors[asked + CLIENTS :]) == {factor}


def test_whatever_happens_to_a_bucket_costs_no_request(built: Path, site: Site) -> None:
    store, url = site.store, site.url
    cut: list[str] = []

    def die_while_it_lists(handler: Handler, key: str) -> bool:
        if key or "token" not in handler.path:
            return True
        cut.append(key)
        return handler.cut()

    store.fault = lambda handler, key: bool(key) or handler.say(403, b"<Code>AccessDenied</Code>")
    wait_for(lambda: metric(url, "darkroom_store_failing", model="default") == 1)
    store.fault = die_while_it_lists
    store.drop("models/default/1")
    store.put_folder(built / "2", "models/default/2")
    wait_for(lambda: len(cut) > 3)
    store.fault = lambda handler, key: not key.endswith(WEIGHTS) or handler.send(store.objects[key], cut_at=9)
    until(url, partial(_says, "2", "START", f"% of 0.0 MB are fetched; '{WEIGHTS}' can't be fetched: "))
    assert set(site.clients.factors) == {1.0}
    store.requests.clear()
    store.heal()
    until(url, lambda states: states == {"2": ("AVAILABLE", "")})
    _until_answers_come_from(site.clients, 2.0, url)
    assert "models/default/2/saved_model.pb" not in store.fetched()  # it was here already
    wait_for(lambda: metric(url, "darkroom_store_failing", model="default") == 0)
    assert metric(url, "darkroom_store_fetched_bytes_total", model="default") > 0
    store.put("models/default/4/saved_model.pb", b"x")
    store.put("models/default/4/a\\b", b"x")
    until(url, partial(_says, "4", "END", "no file can have the name of the object 'a\\\\b'"))
    _until_answers_come_from(site.clients, 2.0, url)


def test_a_version_over_the_limit_of_bytes_is_refused_with_both_sizes_and_never_fetched(
    built: Path, site: Site
) -> None:
    store, url = site.store, site.url
    large = bytes(LIMIT_BYTES + 1)
    store.put_folder(built / "1", "models/default/5")
    store.put("models/default/5/assets/large.bin", large)
    until(url, partial(_says, "5", "END", f"bytes, more than {LIMITED} allows"))
    size = sum(len(each.data) for key, each in store.objects.items() if key.startswith("models/default/5/"))
    until(url, partial(_says, "5", "END", f"it has {size} bytes, "))
    listings = store.requests.count("")
    wait_for(lambda: store.requests.count("") > listings + 6)  # three more looks: none fetches
    _until_answers_come_from(site.clients, 2.0, url)
    assert store.fetched("models/default/5/") == []
    assert list(site.cache.glob("stores/*/.part-5-*")) == []
    store.drop("models/default/5/assets/large.bin")
    until(url, lambda states: states.get("5") == ("AVAILABLE", ""))
    _until_answers_come_from(site.clients, 1.0, url)


def test_archives_are_swapped_and_models_come_and_go_with_the_config_file(built: Path, site: Site) -> None:
    store, url = site.store, site.url
    before = _states(url)
    store.put("model.tar.gz", _archive(built / "2", "evil"), age_s=5000)
    wait_for(lambda: ("END", "the archive has a link: 'evil'") in _states(url).values())
    assert before.items() <= _states(url).items()
    store.put("model.tar.gz", _archive(built / "2"), age_s=1000)
    wait_for(lambda: list(_states(url).values()) == [("AVAILABLE", "")] and before != _states(url))

    site.config.write_text(json.dumps({"model_config_list": [BUCKET, {"name": "other", "base_path": "fake"}]}))
    wait_for(lambda: _status(url, "other") == 200)
    wait_for(lambda: _status(url, "packed") == 404)
    site.config.write_text('{"model_config_list": [')
    wait_for(lambda: "--model_config_file can't be followed" in "".join(site.process.lines))
    assert _status(url, "other") == 200


def _status(url: str, name: str) -> int:
    return httpx.get(f"{url}/v1/models/{name}", timeout=60).status_code


def _states(url: str) -> States:
    """Of the versions of the archive."""
    described = httpx.get(f"{url}/v1/models/packed", timeout=60).json()["model_version_status"]
    return {each["version"]: (each["state"], each["status"]["error_message"]) for each in described}


def _archive(folder: Path, *links: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        archive.add(folder, arcname="model")
        for name in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc"
            archive.addfile(info)
    return out.getvalue()


def test_a_start_without_a_version_says_why_and_names_the_address(tmp_path: Path) -> None:
    with storing() as store:
        at = f"{store.url}/bucket/nothing.tar.gz"
        process = Process(f"--model_base_path={at}", f"--cache_dir={tmp_path}", environment=store.environment)
        assert process.process.wait(60) == 1
        process.stop()
    words = "the store can't be listed: it answers 404: there is no such bucket or object"
    assert f"default ({at}): {words}" in "".join(process.lines)
