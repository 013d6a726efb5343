"""A model's versions in a store and what can go wrong there: a real client, a store of the tests, files on disk."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import threading
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import pytest

from darkroom.models.engines.fakes import fake_model
from darkroom.models.errors import LoadFailed
from darkroom.models.versions.folder import FolderSource
from darkroom.models.versions.policy import Policy
from darkroom.models.versions.stores.mirror import Mirror, MirrorCache
from darkroom.models.versions.stores.source import StoreSource
from tests.held import wait_for
from tests.stores import storing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from darkroom.models.engine import LoadedModel
    from darkroom.models.versions.folder import Found
    from tests.stores import Handler, Store

GRAPH, WEIGHTS, INDEX = "saved_model.pb", "variables/variables.data-00000-of-00001", "variables/variables.index"
FILES = {GRAPH: b"graph", WEIGHTS: b"w" * 200_000, INDEX: b"index"}


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    with storing() as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        yield store


class Kept:
    """A model that is kept in a store, in a cache folder of its own; its loads succeed, except of versions in `broken`."""

    def __init__(
        self,
        folder: Path,
        *,
        address: str = "s3://bucket/models/digits",
        policy: str = "latest:1",
        max_bytes: int = 1 << 30,
        poll_s: float = 0.02,
    ) -> None:
        self.broken: set[int] = set()
        mirror = Mirror(MirrorCache(folder, max_bytes=max_bytes), address)
        self.source = StoreSource(
            address,
            mirror,
            FolderSource(mirror.folder, self._load, settle_s=0),
            policy=Policy.parse(policy),
            poll_s=poll_s,
            settle_s=60.0,
            lease_s=0.1,
        )
        self.folder = mirror.folder

    def _load(self, path: Path, version: int) -> LoadedModel:
        if version in self.broken:
            raise LoadFailed("it is broken")
        assert (path / WEIGHTS).stat().st_size > 0
        return fake_model(name="default")

    def scan(self) -> Mapping[int, Found]:
        """What is found now; nothing while the store has not listed a version."""
        with suppress(LoadFailed):
            return self.source.scan()
        return {}

    def until(self, is_so: Callable[[Mapping[int, Found]], object]) -> None:
        """Scans until it is so; fails after two minutes: the client waits 20 s for an answer before it asks again."""
        ends_s = time.monotonic() + 120
        while not is_so(found := self.scan()):
            assert time.monotonic() < ends_s, f"{found} {self.source.trouble}"
            time.sleep(0.01)

    def until_here(self, *versions: int) -> None:
        """Scans until these versions are whole, and loads them."""
        self.until(lambda _: all((self.folder / str(version)).exists() for version in versions))
        for version in versions:
            self.source.load(version)

    def written(self) -> dict[str, bytes]:
        """Every file of the versions, by its path below the mirror's folder."""
        folders = [path for path in self.folder.iterdir() if path.name.isdecimal()]
        paths = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in paths if ".darkroom" not in path.name}


def put(store: Store, version: int | str, files: Mapping[str, bytes] = FILES, *, age_s: float = 3600.0) -> None:
    for path, data in files.items():
        store.put(f"models/digits/{version}/{path}", data, age_s=age_s)


def is_refused(version: int, found: Mapping[int, Found]) -> bool:
    """Whether a version that can't be fetched is to be loaded, which tells why."""
    return version in found and found[version].is_settled


def cut_weights(handler: Handler, key: str) -> bool:
    """A fault: the weights of each version never come whole."""
    return handler.send(handler.store.objects[key], cut_at=100_000) if key.endswith(WEIGHTS) else True


def test_a_version_is_mirrored_as_the_store_has_it_and_only_what_the_policy_picks_is(
    store: Store, tmp_path: Path
) -> None:
    put(store, 1)
    put(
        store,
        "0002",
        {f"model.savedmodel/{path}": data for path, data in FILES.items()} | {"config": b"", "assets/": b""},
    )
    put(store, "notes", {"readme.txt": b"not a version"})
    kept = Kept(tmp_path)
    kept.until_here(2)
    assert kept.written() == {f"2/model.savedmodel/{path}": data for path, data in FILES.items()} | {
        "2/config": b"",
        "2/assets": b"",
    }
    assert store.fetched("models/digits/1/") == []
    kept.source.policy = Policy.parse("all")
    kept.until_here(1, 2)
    assert kept.source.fetched_bytes == 2 * sum(map(len, FILES.values()))
    assert kept.source.trouble == ""


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda handler, _: handler.cut(), "the store can't be listed: "),
        (lambda handler, _: handler.say(403, b"<Code>AccessDenied</Code>"), "403: check the credentials and what they"),
        (lambda handler, _: handler.say(404, b"<Code>NoSuchBucket</Code>"), "404: there is no such bucket or object"),
        (lambda handler, _: handler.say(503, b"<Code>SlowDown</Code>"), "it answers 503 Service Unavailable"),
        (lambda handler, key: handler.cut() if not key and "token" in handler.path else True, "can't be listed"),
        (lambda handler, key: True if not key else handler.cut(), "'saved_model.pb' can't be fetched: "),
        (lambda handler, key: True if not key else handler.say(403, b""), "can't be fetched: it answers 403"),
        (cut_weights, "variables.data-00000-of-00001' can't be fetched: "),
        (
            lambda handler, key: not key or handler.send(type(handler.store.objects[key])(b"other", 0.0)),
            "'saved_model.pb' changed while it was fetched",
        ),
    ],
    ids=["away", "forbidden", "no bucket", "busy", "dies while it lists", "dies", "no object", "truncated", "changed"],
)
def test_a_store_that_fails_changes_nothing_and_says_why_until_it_is_back(
    store: Store, tmp_path: Path, fault: Callable[[Handler, str], bool], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    put(store, 1)
    kept = Kept(tmp_path)
    kept.until_here(1)
    store.fault = fault
    put(store, 2)
    kept.until(lambda _: kept.source.trouble)
    assert words in kept.source.trouble
    assert "\n" not in kept.source.trouble
    found = kept.scan()
    assert found[1].is_settled
    assert not found[2].is_settled if 2 in found else True
    assert not (kept.folder / "2").exists()
    store.heal()
    kept.until_here(2)
    kept.until(lambda _: not kept.source.trouble)
    assert {path: data for path, data in kept.written().items() if path.startswith("2/")} == {
        f"2/{path}": data for path, data in FILES.items()
    }
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        "a store can't be read"
    ]


def test_what_came_before_a_break_is_not_fetched_again_whoever_goes_on(store: Store, tmp_path: Path) -> None:
    put(store, 1)
    store.fault = cut_weights
    broken = Kept(tmp_path)
    broken.until(lambda found: broken.source.trouble and found)
    assert "; 'variables/variables.data" in broken.scan()[1].missing
    store.heal()
    store.requests.clear()
    kept = Kept(tmp_path)  # of another process
    kept.until_here(1)
    assert set(store.fetched()) == {f"models/digits/1/{WEIGHTS}", f"models/digits/1/{INDEX}"}


def test_an_object_that_changes_in_place_is_swapped_with_its_version_and_the_others_are_kept(
    store: Store, tmp_path: Path
) -> None:
    put(store, 1)
    kept = Kept(tmp_path)
    kept.until_here(1)
    before = kept.scan()[1].stamp
    store.requests.clear()
    put(store, 1, {INDEX: b"changed"})
    kept.until(lambda found: found[1].stamp != before)
    assert set(store.fetched()) == {f"models/digits/1/{INDEX}"}
    assert kept.written() == {f"1/{path}": data for path, data in (FILES | {INDEX: b"changed"}).items()}


def test_a_version_is_fetched_when_it_is_whole_and_gone_when_a_listing_lacks_it(store: Store, tmp_path: Path) -> None:
    put(store, 1)
    kept = Kept(tmp_path)
    put(store, 2, {GRAPH: FILES[GRAPH], INDEX: FILES[INDEX]})
    kept.until(lambda found: 2 in found and found[1].is_settled)  # in place of the one that waits
    assert kept.scan()[2].missing == "the variables.data files are missing"
    assert not kept.scan()[2].is_coming
    put(store, 2, age_s=0.0)
    kept.until_here(2)
    store.fault = lambda handler, _: handler.cut()
    store.drop("models/digits/1")
    kept.until(lambda _: kept.source.trouble)
    assert set(kept.scan()) == {1, 2}
    store.heal()
    kept.until(lambda found: set(found) == {2})
    store.drop("models")
    with pytest.raises(LoadFailed, match=r"the store has no version: a folder named by a number, with saved_model.pb"):
        wait_for(lambda: not kept.source.scan())


def test_the_copies_are_served_while_the_store_is_away_at_the_start(store: Store, tmp_path: Path) -> None:
    put(store, 1)
    Kept(tmp_path).until_here(1)
    store.fault = lambda handler, _: handler.cut()
    kept = Kept(tmp_path, poll_s=0.0)
    kept.until_here(1)
    assert kept.source.trouble
    with pytest.raises(LoadFailed, match="the store can't be listed"):
        Kept(tmp_path / "empty").source.scan()


def test_an_older_version_is_fetched_in_place_of_one_that_does_not_load(store: Store, tmp_path: Path) -> None:
    put(store, 1)
    put(store, 2)
    kept = Kept(tmp_path)
    kept.broken = {2}
    kept.until(lambda found: 2 in found and found[2].is_settled)
    with pytest.raises(LoadFailed, match="it is broken"):
        kept.source.load(2)
    kept.until_here(1)


def test_an_older_version_is_fetched_in_place_of_one_that_never_comes_whole(store: Store, tmp_path: Path) -> None:
    put(store, 1)
    put(store, 2)
    store.fault = lambda handler, key: not key.startswith("models/digits/2/") or handler.say(403, b"")
    kept = Kept(tmp_path)
    kept.until_here(1)
    assert "403" in kept.source.trouble
    store.heal()
    kept.until_here(2)


def test_the_limit_of_bytes_holds_and_what_is_needed_is_kept(store: Store, tmp_path: Path) -> None:
    size = sum(map(len, FILES.values()))
    kept = Kept(tmp_path, max_bytes=2 * size + 1000)
    for version in (1, 2, 3, 4):
        put(store, version)
        kept.until_here(version)
        there = sum(len(data) for data in kept.written().values())
        assert there <= 2 * size
    assert {path.partition("/")[0] for path in kept.written()} == {"3", "4"}
    for version, large, why in ((5, 1.5, r"and \S+ leaves \d+: versions that are"), (6, 3, r"more than \S+ allows")):
        put(store, version, FILES | {WEIGHTS: b"w" * int(large * size)})
        kept.until(partial(is_refused, version))
        with pytest.raises(LoadFailed, match=rf"it has \d+ bytes, {why}"):
            kept.source.load(version)
    assert {path.partition("/")[0] for path in kept.written()} >= {"4"}
    put(store, 7)
    kept.until_here(7)


def test_an_archive_that_has_no_room_is_fetched_again_only_when_there_is(store: Store, tmp_path: Path) -> None:
    def archive(**files: bytes) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w:gz") as packed:
            for name, data in {**FILES, **files}.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                packed.addfile(info, io.BytesIO(data))
        return out.getvalue()

    kept = Kept(tmp_path, address="s3://bucket/model.tar.gz", max_bytes=500_000)
    store.put("model.tar.gz", archive(), age_s=9000)
    kept.until(lambda found: [each.is_settled for each in found.values()] == [True])
    (first,) = kept.scan()
    kept.source.load(first)
    store.put("model.tar.gz", archive(zeros=bytes(10_000_000)), age_s=100)
    kept.until(lambda found: first not in found and all(each.is_settled for each in found.values()))
    (bomb,) = kept.scan()
    with pytest.raises(
        LoadFailed, match=r"(the archive|it) has (more than )?\d+ bytes, (which|and) --store_cache_bytes"
    ):
        kept.source.load(bomb)
    listed = len(store.requests)
    kept.until(lambda _: len(store.requests) > listed + 5)  # each is a look at the archive's head
    assert store.bodies.count("model.tar.gz") == 2
    assert {path.partition("/")[0] for path in kept.written()} <= {str(first)}
    store.put("model.tar.gz", archive(), age_s=50)
    kept.until(lambda found: [each.is_settled for each in found.values()] == [True] and bomb not in found)


def test_the_pauses_double_while_a_store_is_away_and_vary(tmp_path: Path) -> None:
    source, pauses = Kept(tmp_path, poll_s=30.0).source, []
    for trouble in ["away"] * 8 + [""]:
        before_s = time.monotonic()
        source._end_look(trouble)
        pauses.append(source._next_s - before_s)
    for pause_s, middle_s in zip(pauses, [60, 120, 240, 300, 300, 300, 300, 300, 30], strict=True):
        assert 0.8 * middle_s <= pause_s <= 1.2 * middle_s + 1
    assert len({round(pause_s, 3) for pause_s in pauses[3:8]}) > 1


@pytest.mark.parametrize("path", ["a\\b", "a\u200bb", f"{GRAPH}/x", ".darkroom.json", ".darkroom/x", "x" * 1025])
def test_a_key_that_is_no_name_of_a_file_is_refused_and_the_other_versions_are_served(
    store: Store, tmp_path: Path, path: str
) -> None:
    put(store, 1)
    put(store, 2, {**FILES, path: b"x"})
    kept = Kept(tmp_path)
    kept.until_here(1)
    with pytest.raises(LoadFailed, match="no file can have the name of the object"):
        kept.source.load(2)
    assert store.fetched("models/digits/2") == []


@pytest.mark.parametrize("key", ["models/digits/2/../../../evil", "models/digits/2//etc/passwd", "models/digits/2/./x"])
def test_a_key_that_leads_elsewhere_stops_the_listing_and_nothing_is_written(
    store: Store, tmp_path: Path, key: str
) -> None:
    put(store, 1)
    store.put(key, b"x")
    kept = Kept(tmp_path / "cache")
    with pytest.raises(LoadFailed, match="the store can't be listed: Encountered object with invalid path"):
        kept.source.scan()
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_the_progress_of_a_slow_store_is_told_in_steps(store: Store, tmp_path: Path) -> None:
    put(store, 1, FILES | {WEIGHTS: os.urandom(3_000_000)})
    go = threading.Event()

    def slow(_: Handler, key: str) -> bool:
        if key.endswith(INDEX):
            go.wait(60)
        return True

    store.fault = slow
    kept = Kept(tmp_path)
    try:
        kept.until(lambda found: 1 in found and "90 % of 3.0 MB are fetched" in found[1].missing)
        assert kept.scan()[1].is_coming
        assert kept.source.trouble == ""
    finally:
        go.set()
    kept.until_here(1)


def test_several_processes_share_one_mirror_and_fetch_once(store: Store, tmp_path: Path) -> None:
    put(store, 1)
    processes = [Kept(tmp_path, poll_s=60.0) for _ in range(3)]
    for kept in processes:
        threading.Thread(target=kept.scan).start()
    for kept in processes:
        kept.until_here(1)
    assert len(store.fetched()) == len(FILES)


def test_a_folder_that_others_can_write_to_is_not_used(store: Store, tmp_path: Path) -> None:
    put(store, 1)
    tmp_path.chmod(0o777)
    with pytest.raises(LoadFailed, match="--cache_dir can't be used for it: others can write to it"):
        Kept(tmp_path).source.scan()


def test_keys_are_read_from_the_file_of_aws_where_no_variable_has_them(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, 1)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    path = tmp_path / "credentials"
    path.write_text("[default]\n[mine]\naws_access_key_id = of-the-file\naws_secret_access_key = x\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    store.fault = lambda handler, _: "Credential=of-the-file/" in handler.headers["Authorization"] or handler.cut()
    Kept(tmp_path / "cache").until_here(1)


def test_the_s3_of_another_project_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        "import sys, boto3; from moto.server import ThreadedMotoServer as Server\n"
        "server = Server('127.0.0.1', 0, verbose=False); server.start()\n"
        "url = 'http://%s:%s' % server.get_host_and_port()\n"
        "s3 = boto3.client('s3', endpoint_url=url); s3.create_bucket(Bucket='bucket')\n"
        "for path in sys.argv[1:]: s3.put_object(Bucket='bucket', Key='models/digits/1/' + path, Body=b'moto')\n"
        "print(url, flush=True); sys.stdin.read()\n"
    )
    with storing() as store:
        environment = store.environment | {"AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1"}
    command = [sys.executable, "-c", script, *FILES]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as moto:
        assert moto.stdout is not None
        assert moto.stdin is not None
        environment["AWS_ENDPOINT_URL"] = moto.stdout.readline().strip()
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        kept = Kept(tmp_path)
        kept.until_here(1)
        moto.stdin.close()
    assert kept.written() == {f"1/{path}": b"moto" for path in FILES}
