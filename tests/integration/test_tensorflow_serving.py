"""Requests as TensorFlow Serving's documentation shows them, to real SavedModels, over a socket."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

from darkroom.models.engines.open import load_model
from darkroom.models.runtime.tensorflow import tf
from tests import savedmodels
from tests.pictures import picture, standard, url_safe
from tests.serving import metric, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def _joined(x: Any) -> Any:
    return tf.strings.reduce_join(tf.as_string(x, precision=1))


MODELS: dict[str, Callable[[Path], Path]] = {
    "half_plus_two": savedmodels.half_plus_two,
    "estimator": savedmodels.estimator,
    "kinds": savedmodels.of_every_kind,
    "picture_and_threshold": savedmodels.picture_and_threshold,
    "base64": savedmodels.pictures,
    "bytes": lambda folder: savedmodels.pictures(folder, wire="bytes"),
    "words": lambda folder: savedmodels.numbers(folder, _joined, shape=(None,)),
    "mixing": lambda folder: savedmodels.numbers(folder, tf.reduce_sum, shape=(None,)),
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("models")
    models = [load_model(build(folder / name / "00000123"), name=name, version=123) for name, build in MODELS.items()]
    with running(*models) as server:
        server.darkroom.registry.label("half_plus_two", {"stable": 123})
        yield server.url


def _post(url: str, path: str, body: dict[str, Any]) -> httpx.Response:
    # What curl -d sends.
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    return httpx.post(f"{url}/v1/models/{path}", content=json.dumps(body), headers=headers)


@pytest.mark.parametrize("which", ["", "/versions/123", "/labels/stable"])
@pytest.mark.parametrize(
    ("act", "body", "answer"),
    [
        ("predict", {"instances": [1.0, 2.0, 5.0]}, '{"predictions":[2.5,3.0,4.5]}'),
        ("predict", {"instances": [[1.0, 2.0], [3.0, 4.0]]}, '{"predictions":[[2.5,3.0],[3.5,4.0]]}'),
        ("predict", {"instances": [{"x": [1.0]}, {"x": [2.0]}]}, '{"predictions":[[2.5],[3.0]]}'),
        ("predict", {"signature_name": "serving_default", "inputs": [3, 4.0]}, '{"outputs":[3.5,4.0]}'),
        ("predict", {"signature_name": "", "inputs": {"x": 3.0}}, '{"outputs":3.5}'),
        ("predict", {"instances": [float("nan"), float("-inf"), 0]}, '{"predictions":[null,null,2.0]}'),
        ("regress", {"signature_name": "regress_x_to_y", "examples": [{"x": 80.0}]}, '{"results":[42.0]}'),
        ("regress", {"signature_name": "regress_x_to_y2", "examples": [{"x": 2}, {}]}, '{"results":[4.0,3.0]}'),
        (
            "regress",
            {"signature_name": "regress_x_to_y", "context": {"x": 2}, "examples": [{}, {"x2": [8.0]}]},
            '{"results":[3.0,3.0]}',
        ),
        ("classify", {"signature_name": "classify_x_to_y", "examples": [{"x": 20.0}]}, '{"results":[[["",12.0]]]}'),
    ],
)
def test_half_plus_two_answers_as_it_does_there(
    url: str, which: str, act: str, body: dict[str, Any], answer: str
) -> None:
    got = _post(url, f"half_plus_two{which}:{act}", body)
    assert (got.status_code, got.text) == (200, answer + "\n")


@pytest.mark.parametrize(
    ("act", "body", "words"),
    [
        ("predict", {"instances": ["x", "y"]}, "x[0]: expected a number, got str"),
        ("predict", {"instances": [1, "y"]}, 'JSON Value: "y" Type: String is not of expected type: float; x[1]: '),
        (
            "predict",
            {"instances": [[1, 2, 3], [1, 2]]},
            "element: 1 key: x of 'instances' list. Error: Expecting tensor size: 3",
        ),
        (
            "predict",
            {"inputs": {"x": [[1, 2], [3]]}},
            "Encountered list at unexpected size: 1 at level: 1 expected size: 2; ",
        ),
        ("predict", {"instances": [1.0, None]}, "x[1]: expected a number, got NoneType"),
        ("predict", {"instances": [True]}, "x[0]: expected a number, got bool"),
        ("predict", {"instances": [1.7976931348623157e308]}, "out of range for float32"),
        (
            "predict",
            {"instances": [[1, 2], [3, 4], [5, 6, 7]]},
            "element: 2 key: x of 'instances' list. Error: Expecting",
        ),
        (
            "predict",
            {"instances": [1, [1]]},
            "element: 1 key: x of 'instances' list. Error: Expecting shape [] but got: [1]",
        ),
        ("predict", {"instances": [{"b64": "YQ=="}]}, "x[0]: expected a number, got dict"),
        ("regress", {"examples": [{"x": 1.0}]}, "Expected a regression signature"),
        ("classify", {"signature_name": "regress_x_to_y", "examples": [{}]}, "Expected a classification signature"),
        ("classify", {"signature_name": "classify_x2_to_y3", "examples": [{}]}, "Expected a classification signature"),
        ("regress", {"signature_name": "regress_x_to_y", "examples": [{"x": "a"}]}, "Key: x"),
        ("regress", {"signature_name": "regress_x_to_y", "examples": [{"x": [1, 2]}]}, "Key: x"),
        ("regress", {"signature_name": ["regress_x_to_y"], "examples": [{}]}, "'signature_name' key must be a string"),
        ("regress", {"context": [{"x": 1.0}]}, "key 'examples' is expected and was not found"),
        ("regress", {"examples": {"x": 1.0}}, "Expecting 'examples' value to be an list/array"),
        ("regress", {"examples": []}, "'examples' value is an empty array"),
        (
            "regress",
            {"signature_name": "regress_x_to_y", "examples": [{}, [{}]]},
            "examples[1]: Example must be JSON object but got JSON Array",
        ),
        (
            "regress",
            {"signature_name": "regress_x_to_y", "examples": [{}], "context": []},
            "context: Example must be JSON object",
        ),
        (
            "regress",
            {"signature_name": "regress_x_to_y", "examples": [{"x": {"b64": "%"}}]},
            "examples[0]: is not base64: Unable to base64 decode",
        ),
    ],
)
def test_what_half_plus_two_does_not_take_is_a_400_that_says_where(
    url: str, act: str, body: dict[str, Any], words: str
) -> None:
    got = _post(url, f"half_plus_two:{act}", body)
    assert got.status_code == 400
    assert words in got.json()["error"]


def _info(dtype: str, name: str, *sizes: int) -> dict[str, Any]:
    dims = [{"size": str(size), "name": ""} for size in sizes]
    return {"dtype": dtype, "tensor_shape": {"dim": dims, "unknown_rank": not sizes}, "name": name}


def test_metadata_of_half_plus_two_is_what_tensorflow_serving_tells_of_it(url: str) -> None:
    examples = {"inputs": _info("DT_STRING", "tf_example:0")}
    x, x2 = (_info("DT_FLOAT", f"{name}:0", -1, 1) for name in ("x", "x2"))
    y, y2, y3 = (_info("DT_FLOAT", f"{name}:0", -1, 1) for name in ("y", "y2", "y3"))

    def signature(inputs: object, outputs: object, method: str) -> dict[str, Any]:
        name = f"tensorflow/serving/{method}"
        return {"inputs": inputs, "outputs": outputs, "method_name": name, "defaults": {}}

    assert httpx.get(url + "/v1/models/half_plus_two/metadata").json() == {
        "model_spec": {"name": "half_plus_two", "signature_name": "", "version": "123"},
        "metadata": {
            "signature_def": {
                "signature_def": {
                    "serving_default": signature({"x": x}, {"y": y}, "predict"),
                    "regress_x_to_y": signature(examples, {"outputs": y}, "regress"),
                    "regress_x_to_y2": signature(examples, {"outputs": y2}, "regress"),
                    "regress_x2_to_y3": signature({"inputs": x2}, {"outputs": y3}, "regress"),
                    "classify_x_to_y": signature(examples, {"scores": y}, "classify"),
                    "classify_x2_to_y3": signature({"inputs": x2}, {"scores": y3}, "classify"),
                }
            }
        },
    }


def test_an_estimator_classifies_with_labels_and_takes_serialized_examples_by_predict(url: str) -> None:
    results = [["0", 0.5], ["1", 0.5]]
    answer = _post(url, "estimator:classify", {"examples": [{"b": [1.0, 1]}, {"b": [2, 2]}]})
    assert answer.json() == {"results": [results, results]}
    wire = base64.b64encode(b"\n\x13\n\x11\n\x01b\x12\x0c\x12\n\n\x08\x00\x00\x80?\x00\x00\x80?").decode()
    predicted = _post(url, "estimator:predict", {"instances": [{"b64": wire}]})
    assert predicted.json() == {"predictions": [{"classes": ["0", "1"], "scores": [0.5, 0.5]}]}


def test_bytes_that_are_no_example_are_refused_in_a_reply_that_is_text(url: str) -> None:
    answer = _post(url, "estimator:predict", {"instances": [{"b64": standard(picture(1))}]})
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("inputs[0]: Could not parse example input")


ROW = {"number": [1, 2], "text": "a", "measure": 1.0}


def test_several_inputs_of_several_kinds_in_rows_and_in_columns(url: str) -> None:
    other = {"number": [3, -4], "text": {"b64": standard(b"\xff")}, "measure": 20}
    first = {
        "number": [2, 4],
        "text": {"b64": standard(b"a!")},
        "raw_bytes": {"b64": "YQ=="},
        "measure": 0.1,
        "half": 1.0,
        "brain": 1.0,
    }
    second = {
        "number": [6, -8],
        "text": {"b64": standard(b"\xff!")},
        "raw_bytes": {"b64": "/w=="},
        "measure": 2.0,
        "half": 20.0,
    }
    rows = [first | {"is_large": False}, second | {"brain": 20.0, "is_large": True}]
    assert _post(url, "kinds:predict", {"instances": [ROW, other]}).json() == {"predictions": rows}
    columns = {name: [ROW[name], other[name]] for name in ROW} | {"ignored": [None]}
    answer = _post(url, "kinds:predict", {"inputs": columns})
    assert answer.json() == {"outputs": {name: [row[name] for row in rows] for name in rows[0]}}
    filtered = _post(url, "kinds:predict", {"inputs": columns, "output_filter": ["raw_bytes"]})
    assert filtered.json() == {"outputs": [{"b64": "YQ=="}, {"b64": "/w=="}]}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"number": ["1", 2]}, "number[0][0]: expected an integer, got str"),
        ({"number": [1.5, 2]}, "number[0][0]: expected an integer, got float"),
        ({"number": [1, True]}, "number[0][1]: expected an integer, got bool"),
        ({"number": [1, None]}, "number[0][1]: expected an integer, got NoneType"),
        ({"number": [1, 2**40]}, "input 'number': a value is out of range for int32"),
        ({"text": 5}, "text[0]: expected a string, got int"),
        ({"text": {"b64": "%"}}, "text: is not base64"),
        ({"text": {"b64": "YQ==", "x": 1}}, "text[0]: expected a string, got dict"),
        ({"measure": "1.5"}, "measure[0]: expected a number, got str"),
    ],
)
def test_a_value_of_another_kind_is_refused_with_its_place(url: str, value: dict[str, Any], words: str) -> None:
    answer = _post(url, "kinds:predict", {"instances": [ROW | value]})
    assert answer.status_code == 400
    assert words in answer.json()["error"]


def test_a_bare_value_can_not_stand_for_several_inputs(url: str) -> None:
    for body, words in (
        ({"instances": [[1, 2]]}, "instances is a plain list, but expecting list of objects"),
        ({"inputs": [[1, 2]]}, "inputs is a plain value/list, but expecting an object"),
    ):
        answer = _post(url, "kinds:predict", body)
        assert answer.status_code == 400
        assert answer.json()["error"].startswith(words)


@pytest.mark.parametrize("model", ["base64", "bytes"])
def test_a_picture_comes_in_base64_of_either_kind_to_a_graph_of_either_kind(url: str, model: str) -> None:
    data = picture(3)
    ways = [standard(data), url_safe(data), {"b64": standard(data)}, {"b64": standard(url_safe(data).encode())}]
    answers = _post(url, f"{model}:predict", {"instances": ways}).json()["predictions"]
    assert answers == [answers[0]] * len(ways)
    raw = httpx.post(f"{url}/v1/models/{model}:predict", content=data, headers={"Content-Type": "image/png"})
    assert raw.json() == {"predictions": answers[:1]}


def test_a_picture_beside_another_input_goes_through_the_door_too(url: str) -> None:
    data = standard(picture(3))
    rows = [{"image": data, "threshold": 1.0}, {"image": {"b64": data}, "threshold": 300}]
    assert _post(url, "picture_and_threshold:predict", {"instances": rows}).json() == {"predictions": [True, False]}
    junk = {"image": standard(b"junk"), "threshold": 1}
    refused = _post(url, "picture_and_threshold:predict", {"instances": [*rows, junk]})
    assert refused.status_code == 400
    assert refused.json()["error"].startswith("image[2]: not a JPEG")
    none = _post(url, "picture_and_threshold:predict", {"inputs": {"image": [], "threshold": [1.0]}})
    words = "input 'image' has shape (0,), the signature wants (-1,): dimension 0 must be 1 or more"
    assert none.json() == {"error": words}
    raw = httpx.post(f"{url}/v1/models/picture_and_threshold:predict", content=picture(3))
    assert raw.json()["error"] == (
        "signature 'serving_default' takes more than a picture: its inputs are image (string), threshold (float32); send JSON"
    )


def test_a_scalar_output_is_told_in_columns_and_refused_in_rows(url: str) -> None:
    assert _post(url, "mixing:predict", {"inputs": [1.0, 2.0]}).json() == {"outputs": 3.0}
    assert _post(url, "words:predict", {"inputs": [1.0, 2.0]}).json() == {"outputs": "1.02.0"}
    refused = _post(url, "mixing:predict", {"instances": [1.0, 2.0]})
    assert refused.status_code == 400
    assert refused.json()["error"].startswith("Tensor name: y has no shape information")


@pytest.mark.parametrize("shape", [(1025,), (20_000,), (3000, 1), (3000, 2), (1, 3000), (1200, 0)])
@pytest.mark.parametrize("form", ["instances", "inputs"])
def test_numbers_are_not_bounded_like_pictures(url: str, shape: tuple[int, ...], form: str) -> None:
    sent = np.arange(float(np.prod(shape))).reshape(shape)
    (got,) = _post(url, "half_plus_two:predict", {form: sent.tolist()}).json().values()
    assert got == (sent / 2 + 2).tolist()


def test_the_tensor_of_an_unbatched_signature_is_one_image_in_limits_and_metrics(url: str) -> None:
    before = metric(url, "darkroom_images_total", model="mixing")
    assert _post(url, "mixing:predict", {"inputs": [1.0] * 3000}).json() == {"outputs": 3000.0}
    assert metric(url, "darkroom_images_total", model="mixing") == before + 1
