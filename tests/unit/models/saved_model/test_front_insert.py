"""A decode front before signatures of many kinds: in the server's own process, and in a SavedModel that is written."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from darkroom.models.engines.open import load_model
from darkroom.models.errors import LoadFailed
from darkroom.models.export.errors import ExportFailed
from darkroom.models.export.wrap import wrap_saved_model
from darkroom.models.graph.reachability import reachable_names
from darkroom.models.rewriting.job import Job
from darkroom.models.rewriting.prepare import prepare
from darkroom.models.rows import Rows
from darkroom.models.runtime.tensorflow import SessionOptions, graph_pb2, meta_graph_pb2, tf
from darkroom.models.saved_model.front.geometry import read_fit
from darkroom.models.saved_model.front.insert import add_front
from darkroom.models.saved_model.front.preprocess import Preprocess
from darkroom.models.spec import PictureFit, Wire
from tests import savedmodels
from tests.pictures import photograph, picture

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.models.conftest import Build

SIDE = savedmodels.SIZE
PICTURES = [photograph("chelsea"), picture(5, size=(9, 30)), photograph("rocket"), picture(6, kind="BMP")]


def pixels(pictures: list[bytes], size: tuple[int, int] = (SIDE, SIDE)) -> Any:
    """What a client makes of pictures: pixels from 0 to 255."""
    decoded = [tf.io.decode_image(each, channels=3, expand_animations=False) for each in pictures]
    return np.stack([tf.image.resize(each, size).numpy() for each in decoded])


def direct(folder: Path, signature: str = "serving_default", **inputs: Any) -> dict[str, Any]:
    """TensorFlow's own answer."""
    model = tf.saved_model.load(str(folder))
    answer = model.signatures[signature](**{name: tf.constant(value) for name, value in inputs.items()})
    return {name: value.numpy() for name, value in answer.items()}


def assert_equal(answer: dict[str, Any], expected: dict[str, Any]) -> None:
    assert answer.keys() == expected.keys()
    for name, value in expected.items():
        if value.dtype == object:
            assert list(answer[name]) == list(value)
        else:
            np.testing.assert_allclose(np.asarray(answer[name]), value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("build", "signature"),
    [
        (savedmodels.pixels, "serving_default"),
        (savedmodels.pixels_of_tf1, "probabilities"),
        pytest.param(savedmodels.pixels_of_keras, "serving_default", marks=pytest.mark.slow),
    ],
    ids=["TF2", "TF1", "Keras in a module"],
)
def test_the_answer_to_a_picture_is_that_to_the_pixels_a_client_makes_of_it(
    tmp_path: Path, built: Any, build: Build, signature: str
) -> None:
    source = built(build)
    expected = direct(source, signature, x=pixels(PICTURES) / np.float32(127.5) - np.float32(1))
    written, made = wrap_saved_model(source, tmp_path / "m", Preprocess(preprocess="tf"))
    assert_equal(direct(written, images=PICTURES), expected)
    kept = made.renamed[signature]
    assert_equal(direct(written, kept, x=pixels(PICTURES)), direct(source, signature, x=pixels(PICTURES)))
    for folder, said in ((source, {"preprocess": "tf"}), (written, None)):
        model = load_model(folder, name="m", version=1, pictures=said)
        assert set(model.engines) == {"serving_default", kept}
        engine = model.engines["serving_default"]
        assert (engine.spec.wire, engine.spec.batched, engine.spec.image_input) == (Wire.BYTES, True, "images")
        assert engine.spec.formats >= {"jpeg", "png", "bmp", "gif"}
        assert_equal(engine.run(Rows({"images": PICTURES})).columns, expected)
        assert model.engines[kept].spec.inputs[0].shape == (None, SIDE, SIDE, 3)
        model.close()


@pytest.mark.parametrize(
    ("options", "said", "batched"),
    [
        ({"shape": (None, None, None, 3)}, {"size": [10, 12], "preprocess": "raw"}, True),
        ({"shape": (None, 3, SIDE, SIDE)}, {"preprocess": "raw"}, True),
        ({"dtype": tf.uint8}, {}, True),
        ({"dtype": tf.float16}, {"preprocess": "raw"}, True),
        ({"shape": (1, None, None, 3), "dtype": tf.uint8}, {"size": 12}, False),
        ({"names": ("left", "right")}, {"preprocess": "raw"}, True),
        ({"limit": True}, {"preprocess": "raw"}, True),
    ],
    ids=["any size", "nchw", "uint8", "float16", "one a call", "two pictures", "a picture and a number"],
)
def test_every_kind_of_picture_input_is_served(
    tmp_path: Path, options: dict[str, Any], said: dict[str, Any], batched: bool
) -> None:
    folder = savedmodels.pixels(tmp_path / "1", **options)
    size, names = said.get("size", SIDE), options.get("names", ("x",))
    asked = PICTURES[: 3 if batched else 1]
    dtype = options.get("dtype", tf.float32).as_numpy_dtype
    values = pixels(asked, tuple(size) if isinstance(size, list) else (size, size))
    values = (np.rint(values) if dtype is np.uint8 else values).astype(dtype)
    values = values.transpose(0, 3, 1, 2) if options.get("shape", ())[1:2] == (3,) else values
    tensors: dict[str, Any] = {names[0]: values}
    columns: dict[str, Any] = {"images": asked}
    if len(names) == 2:
        tensors, columns = {"left": values, "right": values[::-1]}, {"left": asked, "right": asked[::-1]}
    if options.get("limit"):
        limits = {"limit": np.array([0.1, 0.2, 0.9], np.float32)}
        tensors, columns = tensors | limits, columns | limits
    model = load_model(folder, name="m", version=1, pictures=said)
    engine = model.engines["serving_default"]
    assert engine.spec.batched is batched, engine.spec.unbatched_reason
    assert_equal(engine.run(Rows(columns)).columns, direct(folder, **tensors))
    model.close()


@pytest.mark.parametrize("is_written", [False, True], ids=["served", "written"])
def test_a_network_of_any_size_becomes_the_graph_of_one_with_fixed_sides(tmp_path: Path, is_written: bool) -> None:
    kernel = tf.random.stateless_normal([3, 3, 3, 4], [1, 2])

    def network(x: Any) -> Any:
        x = tf.nn.relu6(tf.nn.conv2d(tf.pad(x, [[0, 0], [0, 1], [0, 1], [0, 0]]), kernel, 2, "VALID"))
        x = x * tf.reduce_mean(x, [1, 2], keepdims=True)
        return tf.reshape(tf.reduce_mean(x, [1, 2]), [-1, 4])

    found = []
    for number, sides in enumerate([(None, None), (SIDE, SIDE)]):
        folder = savedmodels.numbers(tmp_path / str(number) / "1", network, shape=(None, *sides, 3))
        said: Preprocess | None = Preprocess(preprocess="tf", size=(SIDE, SIDE))
        if is_written and said is not None:
            folder, said = wrap_saved_model(folder, tmp_path / f"m{number}", said)[0], None
        made = prepare(folder, name="m", version=1, options=SessionOptions(), pictures=said)
        graph_def = graph_pb2.GraphDef.FromString(made.graph)
        with tf.Graph().as_default() as graph:
            tf.graph_util.import_graph_def(graph_def, name="")
        nodes, _ = reachable_names(graph_def, list(made.bindings["serving_default"].fetches.values()))
        layers = [each for each in graph.get_operations() if each.name in nodes and each.type != "Const"]
        found.append(Counter((each.type, *(str(output.shape) for output in each.outputs)) for each in layers))
    assert found[0] == found[1]
    assert found[0]["Conv2D", f"(None, {SIDE // 2}, {SIDE // 2}, 4)"] == 1


@pytest.mark.parametrize(
    ("scale", "words"),
    [
        (1 / 127.5, r"The graph itself computes x \* 0.007843 first, so it seems to take pixels from 0 to 255: raw."),
        (255.0, "pixels from 0 to 1: unit"),
        (1.5, r"The graph computes x \* 1.5 first, which tells no range."),
    ],
)
def test_what_is_not_said_is_asked_for_with_the_evidence(tmp_path: Path, scale: float, words: str) -> None:
    folder = savedmodels.pixels(tmp_path / "1", scale=scale)
    for stops in (
        lambda: wrap_saved_model(folder, tmp_path / "m", Preprocess()),
        lambda: load_model(folder, name="m", version=1, pictures={}),
    ):
        with pytest.raises(LoadFailed, match=f"--preprocess=tf.torch.caffe.unit.raw.*{words}"):
            stops()
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    "name",
    ["Identity", "images", "sub", "truediv", "cond", "map", "map/while", "truediv/y", "front", "front/images", "x_1"],
)
def test_a_graph_may_call_its_nodes_what_the_front_calls_its_own(name: str) -> None:
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, SIDE, SIDE, 3], "x")
        y = tf.reduce_mean(x, [1, 2], name=name)
        signature = tf.compat.v1.saved_model.predict_signature_def({"x": x}, {"y": y})
    meta_graph = meta_graph_pb2.MetaGraphDef(graph_def=graph.as_graph_def())
    meta_graph.signature_def["serving_default"].CopyFrom(signature)
    made = add_front(meta_graph, Preprocess(preprocess="torch"))
    names = [node.name for node in made.graph_def.node]
    assert len(names) == len(set(names))
    asked = made.signature_def["serving_default"]
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.graph_util.import_graph_def(made.graph_def, name="")
        answer = session.run(asked.outputs["y"].name, {asked.inputs["images"].name: PICTURES[:1]})
    torch = (pixels(PICTURES[:1]) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(answer, torch.mean((1, 2)), rtol=1e-4, atol=1e-5)


def test_labels_and_extra_files_are_kept_and_recorded_tensors_are_not(tmp_path: Path) -> None:
    extra = savedmodels.pixels(tmp_path / "1") / "assets.extra"
    extra.mkdir()
    (extra / "labels.txt").write_text("a\nb\n")
    (extra / "tf_serving_warmup_requests").write_bytes(b"")
    written, _ = wrap_saved_model(extra.parent, tmp_path / "m", Preprocess(preprocess="unit"))
    assert {each.name for each in (written / "assets.extra").iterdir()} == {"labels.txt", "front.json"}
    assert read_fit(written) == PictureFit((savedmodels.SIZE, savedmodels.SIZE))
    again, made = wrap_saved_model(written, tmp_path / "again", Preprocess(preprocess="raw"), labels=["c"])
    assert (again / "assets.extra" / "labels.txt").read_text() == "c\n"
    assert made.signature == "serving_tensors"
    with pytest.raises(ExportFailed, match="exists"):
        wrap_saved_model(written, tmp_path / "again", Preprocess(preprocess="raw"))


def test_the_pictures_belong_to_the_key_of_the_cache(built: Any) -> None:
    job = Job(built(savedmodels.pixels), "m", 1)
    keys = {replace(job, pictures=each).key() for each in (None, {}, {"preprocess": "tf"}, {"preprocess": "raw"})}
    assert len(keys) == 4
    assert Job.parse(replace(job, pictures={"size": [3, 4]}).dump()).pictures == {"size": [3, 4]}
