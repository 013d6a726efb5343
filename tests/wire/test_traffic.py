"""`--traffic`: which version answers a request that names none, in every dialect, and the one that runs beside it."""

from __future__ import annotations

import base64
from collections import Counter
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from darkroom.models.engines.fakes import BrokenEngine, EchoEngine, fake_model
from darkroom.models.errors import PredictFailed
from tests.echo import scores_model
from tests.held import Held, wait_for
from tests.pictures import picture
from tests.serving import metric, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


KEYS = [f"user-{number}" for number in range(20)]
PICTURES = [picture(seed) for seed in range(20)]
HALVES = {"split": {"1": 1, "2": 1}}
RAW = {"Content-Type": "image/png"}


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode()


def _tensor(data: bytes) -> dict[str, Any]:
    return {"inputs": [{"name": "images", "shape": [1], "datatype": "BYTES", "data": [_text(data)]}]}


# By name: where a picture is sent, how, and which version its answer says it is of.
WAYS: dict[str, tuple[str, Callable[[bytes], dict[str, Any]], Callable[[Any], int]]] = {
    "simple json": ("/", lambda data: {"json": {"data": {"images": [_text(data)]}}}, lambda told: told["version"][0]),
    "simple form": ("/", lambda data: {"files": {"image": ("a", data)}}, lambda told: told["version"][0]),
    "simple raw": ("/", lambda data: {"content": data, "headers": RAW}, lambda told: told["version"][0]),
    "tensorflow serving json": (
        "/v1/models/default:predict",
        lambda data: {"json": {"instances": [{"b64": _text(data)}]}},
        lambda told: told["predictions"][0]["version"],
    ),
    "tensorflow serving raw": (
        "/v1/models/default:predict",
        lambda data: {"content": data, "headers": RAW},
        lambda told: told["predictions"][0]["version"],
    ),
    "open inference": (
        "/v2/models/default/infer",
        lambda data: {"json": _tensor(data)},
        lambda told: (told["model_version"] == str(told["outputs"][1]["data"][0])) and int(told["model_version"]),
    ),
}


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    """Versions 1, 2 and 3 of one model; each answers its number."""
    models = [scores_model(version, best=version % 2) for version in (1, 2, 3)]
    with (
        running(*models, traffic={"default": HALVES}) as server,
        httpx.Client(base_url=server.url, timeout=60) as made,
    ):
        yield made


@pytest.fixture
def direct(client: httpx.Client) -> Iterator[Callable[[Any], Any]]:
    """Sets the rule of the model by the operator's route; the rule of the start comes back."""

    def put(rule: Any) -> Any:
        answer = client.put("/admin/models/default/traffic", json=rule)
        assert answer.status_code == 200, answer.text
        return answer.json()

    yield put
    put(HALVES)


def _version(client: httpx.Client, way: str, data: bytes, path: str = "", **headers: str) -> int:
    """The version that answered; the header says the same where a rule chose it."""
    usual, send, read = WAYS[way]
    sent = send(data)
    answer = client.post(path or usual, **sent | {"headers": sent.get("headers", {}) | headers})
    assert answer.status_code == 200, answer.text
    version = read(answer.json())
    assert answer.headers.get("X-Darkroom-Version", str(version)) == str(version)
    assert ("X-Darkroom-Version" in answer.headers) is not bool(path)
    return version


def test_a_key_meets_one_version_in_every_dialect_and_requests_without_one_meet_both(client: httpx.Client) -> None:
    def meets(way: str) -> dict[str, int]:
        return {key: _version(client, way, PICTURES[0], **{"X-Darkroom-Sticky": key}) for key in KEYS}

    first = meets("simple json")
    assert set(first.values()) == {1, 2}
    for way in WAYS:
        assert meets(way) == first, way
        assert {_version(client, way, PICTURES[0]) for _ in range(40)} == {1, 2}, way  # but once in 2^39 times


def test_a_picture_meets_one_version_in_whichever_form_it_comes(
    client: httpx.Client, direct: Callable[[Any], Any]
) -> None:
    direct(HALVES | {"sticky": "picture"})
    first = [_version(client, "simple json", data) for data in PICTURES]
    assert set(first) == {1, 2}
    for way in WAYS:
        assert [_version(client, way, data) for data in PICTURES] == first, way
    large = picture(1, kind="BMP", size=(400, 400))  # of so many bytes a thread reads it
    assert len({_version(client, way, large) for way in WAYS}) == 1
    keyed = {_version(client, "simple raw", PICTURES[0], **{"X-Darkroom-Sticky": key}) for key in KEYS}
    assert keyed == {1, 2}


def test_who_names_a_version_or_a_label_gets_it(client: httpx.Client, direct: Callable[[Any], Any]) -> None:
    assert client.put("/admin/models/default/labels", json={"canary": 3}).status_code == 200
    direct({"split": {"1": 1}})
    paths = {
        "tensorflow serving json": (
            "/v1/models/default/versions/3:predict",
            "/v1/models/default/labels/canary:predict",
        ),
        "open inference": ("/v2/models/default/versions/3/infer", "/v2/models/default/versions/canary/infer"),
    }
    for way, each in paths.items():
        assert {_version(client, way, PICTURES[0], path) for path in each} == {3}
    named = client.post("/", json={"model_version": 3, "data": {"images": [_text(PICTURES[0])]}})
    assert (named.json()["version"], "X-Darkroom-Version" in named.headers) == ([3], False)
    direct({"split": {"canary": 1}})
    assert _version(client, "simple json", PICTURES[0]) == 3
    client.put("/admin/models/default/labels", json={"canary": 2})  # the share moves with the label
    assert {_version(client, way, PICTURES[0]) for way in WAYS} == {2}
    assert client.get("/v2/models/default").json()["versions"] == ["1", "2", "3"]


def test_the_rule_is_shown_and_one_that_names_what_is_not_there_changes_nothing(
    client: httpx.Client, direct: Callable[[Any], Any]
) -> None:
    path = "/admin/models/default/traffic"
    told = direct({"split": {"1": 3, "2": 1}, "sticky": "X-User", "shadow": {"version": 3, "share": 0.5}})
    assert told == {
        "split": {"1": 3.0, "2": 1.0},
        "sticky": "X-User",
        "shadow": {"version": "3", "share": 0.5, "busy": 0.005},
        "shares": {"1": 0.75, "2": 0.25},
        "missing": [],
        "trouble": "",
    }
    for wrong, status, words in (
        ({"split": {"7": 1}}, 404, "no version 7; there are: 1, 2, 3"),
        ({"split": {"gone": 1}}, 400, "no version labelled 'gone'"),
        ({"shadow": {"version": "gone"}}, 400, "no version labelled 'gone'"),
        ({"split": {"1": "x"}}, 400, "the weight must be a number"),
        ({"split": {"1": 0}}, 400, "add up to 0"),
        ([], 400, "expected an object"),
    ):
        refused = client.put(path, json=wrong)
        assert (refused.status_code, words in refused.json()["error"]) == (status, True), refused.text
    assert client.put("/admin/models/other/traffic", json=HALVES).status_code == 404
    assert client.put(path, json={}, headers={"Origin": "http://example.org"}).status_code == 403
    assert client.get(path).json() == client.get("/v1/models/default").json()["traffic"] == told
    shares = {version: metric(str(client.base_url), "darkroom_traffic_share", version=version) for version in "123"}
    assert shares == {"1": 0.75, "2": 0.25, "3": 0}
    assert direct({}) is None
    assert client.get(path).json() is None
    answers = [client.post("/", files={"image": ("a", PICTURES[0])}) for _ in range(2)]
    assert [(each.json()["version"], each.headers.get("X-Darkroom-Version")) for each in answers] == [([3], None)] * 2


def test_a_shadow_is_compared_and_nobody_gets_its_answer(client: httpx.Client, direct: Callable[[Any], Any]) -> None:
    url = str(client.base_url)
    before = metric(url, "darkroom_requests_total", version="3")

    def meets(version: int, outcome: str) -> None:
        direct({"split": {"1": 1}, "shadow": {"version": version, "busy": 1}})
        for way in WAYS:
            assert _version(client, way, PICTURES[0]) == 1
        several = {"data": {"images": [_text(data) for data in PICTURES]}}
        assert client.post("/", json=several).json()["version"] == [1] * len(PICTURES)
        wait_for(
            lambda: _version(client, "simple json", PICTURES[0]) == 1 and _shadowed(url, str(version), outcome) > 0
        )

    meets(3, "same")
    meets(2, "different")
    assert (_shadowed(url, "3", "different"), _shadowed(url, "2", "same")) == (0, 0)
    assert metric(url, "darkroom_shadow_distance_sum", version="3") == 0
    assert metric(url, "darkroom_shadow_distance_sum", version="2") > 0
    assert metric(url, "darkroom_shadow_engine_seconds_total", version="2", side="shadow") > 0
    assert metric(url, "darkroom_requests_total", version="3") == before


def _shadowed(url: str, version: str, outcome: str) -> float:
    return metric(url, "darkroom_shadow_images_total", version=version, outcome=outcome)


def test_a_shadow_of_a_broken_version_harms_nobody() -> None:
    broken = scores_model(2, wrap=lambda engine: BrokenEngine(engine, PredictFailed("it is broken")))
    rule = {"shadow": {"version": 2, "busy": 1}}
    with (
        running(scores_model(1), broken, traffic={"default": rule}, engine_timeout_ms=40) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        answers = [client.post("/", files={"image": ("a", each)}) for each in PICTURES]
        assert Counter((each.status_code, each.json()["version"][0]) for each in answers) == {(200, 1): len(PICTURES)}
        wait_for(lambda: _shadowed(server.url, "2", "failed") > 0)
        assert client.get("/v2/health/ready").status_code == 200
        assert client.get("/v2/health/live").status_code == 200
        told = client.post("/v2/models/default/versions/2/infer", json=_tensor(PICTURES[0]))
        assert (told.status_code, "it is broken" in told.text) == (500, True)


def test_a_server_that_is_busy_with_another_model_drops_the_shadows_and_answers() -> None:
    held = Held(fake_model(EchoEngine(), name="other"))
    with running(
        scores_model(1), scores_model(2), held.model, traffic={"default": {"shadow": {"version": 2}}}
    ) as server:
        plug = {"model_name": "other", "data": {"images": [_text(PICTURES[0])]}}
        with (
            httpx.Client(base_url=server.url, timeout=60) as client,
            held.standing(server.url, lambda: httpx.post(server.url, json=plug, timeout=60)),
        ):
            assert {_version(client, way, PICTURES[0]) for way in WAYS} == {1}
            wait_for(lambda: _shadowed(server.url, "2", "dropped") == len(WAYS))
        assert _shadowed(server.url, "2", "same") == 0
