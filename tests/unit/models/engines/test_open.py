"""SavedModels of every kind, loaded: what they want, which passes applied, and that they answer as TensorFlow does."""

import io
import threading
from base64 import urlsafe_b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from darkroom.models.engine import Engine, LoadedModel
from darkroom.models.engines.open import load_model, prepare
from darkroom.models.engines.row_prefix import ROW_PREFIX
from darkroom.models.engines.sharded import SHARD
from darkroom.models.errors import InvalidInput, LoadFailed, PredictFailed
from darkroom.models.rewriting.optimize import OPTIMIZE
from darkroom.models.rows import Rows, join
from darkroom.models.runtime.tensorflow import SessionOptions, saved_model_pb2, tf
from darkroom.models.spec import TensorSpec, Wire
from tests import savedmodels

Build = Callable[[Path], Path]
Built = Callable[[Build], Path]


def classic(folder: Path) -> Path:
    return savedmodels.classic(folder)


def classic_inside(folder: Path) -> Path:
    return savedmodels.classic(folder, base64="inside")


def classic_bytes(folder: Path) -> Path:
    return savedmodels.classic(folder, base64="never")


def map_fn(folder: Path) -> Path:
    return savedmodels.pictures(folder)


def map_defun(folder: Path) -> Path:
    return savedmodels.pictures(folder, loop="map_defun")


def map_fn_bytes(folder: Path) -> Path:
    return savedmodels.pictures(folder, wire="bytes")


def read_as_text(folder: Path) -> Path:
    return savedmodels.pictures(folder, read_as_text=True)


def sums(folder: Path) -> Path:
    return savedmodels.numbers(folder, lambda x: tf.reduce_sum(x, 0, keepdims=True))


def _hidden_sum(x: Any) -> Any:
    return tf.raw_ops.PlaceholderWithDefault(input=tf.reduce_sum(x, 0, keepdims=True), shape=[None, 4])


def hides_its_sum(folder: Path) -> Path:
    return savedmodels.numbers(folder, _hidden_sum)


def mixes(folder: Path) -> Path:
    return savedmodels.numbers(folder, lambda x: x - tf.reduce_mean(x, 0, keepdims=True))


def numbers_its_rows(folder: Path) -> Path:
    return savedmodels.numbers(folder, lambda x: x + tf.cast(tf.range(tf.shape(x)[0]), tf.float32)[:, None])


def random(folder: Path) -> Path:
    return savedmodels.numbers(folder, lambda x: x + tf.random.uniform(tf.shape(x)))


def fixed(folder: Path) -> Path:
    return savedmodels.numbers(folder, lambda x: x * 2, shape=(1, 4))


def unknown_sizes(folder: Path) -> Path:
    return savedmodels.numbers(folder, lambda x: tf.matmul(x, tf.ones([9, 2])), shape=(None, None))


def no_guess(folder: Path) -> Path:
    return savedmodels.numbers(folder, lambda x: tf.matmul(x, tf.ones([1234, 2])), shape=(None, None))


PICTURE_MODELS = [classic, classic_inside, classic_bytes, map_fn, map_defun, map_fn_bytes, read_as_text]


def load(path: Path) -> LoadedModel:
    return load_model(path, name="model", version=1)


def engine_of(path: Path) -> Engine:
    return load(path).engines["serving_default"]


def jpeg(seed: int, width: int = 20, height: int = 30) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG")
    return out.getvalue()


ALL_APPLIED = dict.fromkeys(("freeze", "inline", "hoist_base64", "screen"), "applied")


def reasons(engine: Engine) -> dict[str, str]:
    """What each pass came to; aside from shards and row prefixes, which the machine decides, and from `optimize`, for large graphs."""
    passes = [report for report in engine.passes if report.name not in (SHARD, ROW_PREFIX, OPTIMIZE)]
    return {report.name: "applied" if report.applied else report.reason for report in passes}


@pytest.mark.parametrize("build", PICTURE_MODELS)
def test_pictures_give_what_the_signature_itself_gives(built: Built, build: Build) -> None:
    path = built(build)
    engine = engine_of(path)
    pictures = [jpeg(seed, 10 + seed, 40 - seed) for seed in range(5)]
    signature = tf.saved_model.load(str(path)).signatures["serving_default"]
    wired = [urlsafe_b64encode(each) for each in pictures] if engine.spec.wire is Wire.BASE64 else pictures
    expected = signature(**{engine.spec.inputs[0].name: tf.constant(wired)})
    answer = engine.run(Rows({engine.spec.inputs[0].name: pictures}))
    assert set(answer.columns) == set(expected)
    for name, column in answer.columns.items():
        np.testing.assert_allclose(np.asarray(column), expected[name].numpy(), rtol=1e-5, atol=1e-6)
    assert len(set(np.asarray(answer.columns[engine.spec.outputs[-1].name]).ravel().tolist())) > 1


@pytest.mark.parametrize("build", PICTURE_MODELS)
def test_the_engine_finds_out_what_the_picture_input_takes(built: Built, build: Build) -> None:
    spec = engine_of(built(build)).spec
    assert spec.wire is (Wire.BYTES if build in {classic_bytes, map_fn_bytes} else Wire.BASE64)
    assert spec.image_input == "images"
    assert spec.formats == {"jpeg", "png", "gif"}
    assert (spec.one_frame, spec.batched) == (True, True)


@pytest.mark.parametrize("build", [classic, classic_inside, map_fn, map_defun])
def test_base64_is_taken_out_of_every_form_of_graph(built: Built, build: Build) -> None:
    assert reasons(engine_of(built(build))) == ALL_APPLIED


def test_base64_is_taken_out_of_signatures_that_share_a_function(built: Built) -> None:
    model = load(built(savedmodels.two_signatures))
    answers = []
    for name in ("serving_default", "predict"):
        engine = model.engines[name]
        assert reasons(engine) == ALL_APPLIED
        answers.append(np.asarray(engine.run(Rows({"images": [jpeg(1), jpeg(2)]})).columns["mean"]))
    assert answers[0].tolist() == answers[1].tolist()


def test_base64_stays_where_the_graph_reads_the_text_too(built: Built) -> None:
    engine = engine_of(built(read_as_text))
    assert reasons(engine)["hoist_base64"] == "its strings also reach StringLength"
    picture = jpeg(1)
    length = engine.run(Rows({"images": [picture]})).columns["length"]
    assert np.asarray(length).tolist() == [len(urlsafe_b64encode(picture))]


def test_decode_image_takes_every_format(built: Built) -> None:
    spec = engine_of(built(savedmodels.decoders)).spec
    assert spec.formats == {"jpeg", "png", "gif", "bmp", "webp"}
    assert not spec.one_frame


def test_several_inputs_and_an_output_that_is_an_input(built: Built) -> None:
    engine = engine_of(built(savedmodels.keys_and_features))
    assert engine.spec.inputs[0] == TensorSpec("features", "float32", (None, 9), source="Placeholder_1:0")
    assert [tensor.name for tensor in engine.spec.outputs] == ["keys", "prediction", "softmax"]
    answer = engine.run(engine.spec.accept({"keys": [[11], [2]], "features": [[1.0] * 9, [2.0] * 9]}))
    assert np.asarray(answer.columns["keys"]).tolist() == [[11], [2]]
    assert np.asarray(answer.columns["softmax"]).shape == (2, 2)


def test_columns_of_different_lengths_are_left_to_the_graph(built: Built) -> None:
    engine = engine_of(built(savedmodels.keys_and_features))
    answer = engine.run(engine.spec.accept({"keys": [[1], [2]], "features": [[1.0] * 9]}))
    assert [len(answer.columns[name]) for name in ("keys", "prediction")] == [2, 1]


def test_only_the_asked_outputs_come_back(built: Built) -> None:
    engine = engine_of(built(savedmodels.keys_and_features))
    rows = engine.spec.accept({"keys": [[1]], "features": [[1.0] * 9]})
    assert set(engine.run(rows.asking(["prediction"])).columns) == {"prediction"}
    assert set(engine.run(rows.asking(["keys"])).columns) == {"keys"}
    assert set(engine.run(rows).columns) == {"keys", "prediction", "softmax"}


def test_an_estimators_examples_are_served_and_its_classes_are_bytes(built: Built) -> None:
    engine = engine_of(built(savedmodels.estimator))
    example = tf.train.Example()
    example.features.feature["b"].float_list.value.extend([0.0, 0.5])
    answer = engine.run(Rows({"inputs": [example.SerializeToString()]}))
    assert np.asarray(answer.columns["classes"]).tolist() == [[b"0", b"1"]]
    assert (engine.spec.wire, engine.spec.batched) == (Wire.TENSOR, True)
    assert reasons(engine)["freeze"] == "applied"


def test_a_lookup_table_keeps_the_original_graph_and_is_batched(built: Built) -> None:
    engine = engine_of(built(savedmodels.table))
    answer = engine.run(Rows({"words": [b"b", b"a", b"x"]}))
    assert np.asarray(answer.columns["number"]).tolist() == [2, 1, -1]
    assert "lookup table" in reasons(engine)["freeze"]
    assert engine.spec.batched


def test_a_model_that_counts_its_calls_is_not_called_at_load(built: Built) -> None:
    model = load(built(savedmodels.counter))
    engine, peek = model.engines["serving_default"], model.engines["peek"]
    rows = Rows({"x": np.zeros(2, np.float32)})
    assert [np.asarray(engine.run(rows).columns["calls"]).tolist() for _ in range(2)] == [[1, 1], [2, 2]]
    assert np.asarray(peek.run(rows).columns["calls"]).tolist() == [2, 2]
    assert not engine.spec.batched
    assert "AssignAddVariableOp" in engine.spec.unbatched_reason
    assert peek.spec.batched
    assert "signature 'serving_default': it changes a resource" in reasons(peek)["freeze"]


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (sums, "the first dimension of output 'y' is 1"),
        (hides_its_sum, "joins the rows of the batch"),
        (mixes, "depends on the rows beside it"),
        (savedmodels.few_rows, "has ops that cannot be followed"),
        (numbers_its_rows, "depends on the rows beside it"),
        (random, "it keeps state (RandomUniform"),
        (fixed, "the first dimension of input 'x' is 1"),
        (no_guess, "cannot be proven row-wise"),
    ],
)
def test_a_signature_that_is_not_row_wise_is_served_unbatched_and_says_why(
    built: Built, build: Build, reason: str
) -> None:
    engine = engine_of(built(build))
    assert not engine.spec.batched
    assert reason in engine.spec.unbatched_reason
    columns = 1234 if build is no_guess else 4
    assert "y" in engine.run(Rows({"x": np.ones((1, columns), np.float32)})).columns


@pytest.mark.parametrize(("value", "want"), [(3.0, [3.0, 6.0]), ([[2.0], [4.0]], [[2.0, 4.0], [4.0, 8.0]])])
def test_an_input_with_a_default_may_be_left_out(built: Built, value: object, want: object) -> None:
    path = built(lambda folder: savedmodels.numbers(folder, lambda x: x, shape=(None,)))

    class Scaled(tf.Module):  # type: ignore[misc]  # TensorFlow has no types
        @tf.function(input_signature=[tf.TensorSpec([None]), tf.TensorSpec(None)])  # type: ignore[untyped-decorator]
        def serve(self, x: Any, scale: Any) -> dict[str, Any]:
            return {"y": x * scale}

    module = Scaled()
    tf.saved_model.save(module, str(path), signatures=module.serve)
    saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    signature = saved.meta_graphs[0].signature_def["serving_default"]
    signature.defaults["scale"].CopyFrom(tf.make_tensor_proto(value, tf.float32))
    (path / "saved_model.pb").write_bytes(saved.SerializeToString())
    engine = engine_of(path)
    assert engine.spec.required == ("x",)
    assert not engine.spec.batched  # [n] beside [n, k] would mix the rows, and the rank of `scale` is not known
    for given, answer in (({}, want), ({"scale": 1.0}, [1.0, 2.0])):
        rows = engine.spec.accept({"x": [1.0, 2.0], **given})
        assert np.asarray(engine.run(rows).columns["y"]).tolist() == answer


def test_inner_sizes_that_the_signature_does_not_tell_are_guessed(built: Built) -> None:
    engine = engine_of(built(unknown_sizes))
    assert engine.spec.batched
    assert reasons(engine)["freeze"] == "applied"


def test_a_keras_model_in_a_module_is_loaded_by_its_objects_and_frozen(built: Built) -> None:
    path = built(savedmodels.keras_in_a_module)
    engine = engine_of(path)
    a, b = np.ones((2, 3), np.float32), np.full((2, 3), 2.0, np.float32)
    expected = tf.saved_model.load(str(path)).signatures["serving_default"](a=tf.constant(a), b=tf.constant(b))
    answer = engine.run(Rows({"a": a, "b": b}))
    for name in ("a", "y"):
        np.testing.assert_allclose(np.asarray(answer.columns[name]), expected[name].numpy(), rtol=1e-5)
    assert reasons(engine)["freeze"] == "applied"


def keras_with_noise(folder: Path) -> Path:
    return savedmodels.keras_in_a_module(folder, noise=True)


def test_what_only_its_objects_can_load_and_cannot_be_frozen_is_called_eagerly(built: Built) -> None:
    model = load(built(keras_with_noise))
    engine = model.engines["serving_default"]
    a, b = np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)
    answer = engine.run(Rows({"a": a, "b": b}))
    assert np.asarray(answer.columns["y"]).shape == (2, 2)
    np.testing.assert_array_equal(np.asarray(answer.columns["a"]), a)
    assert set(engine.run(Rows({"a": a, "b": b}).asking(["y"])).columns) == {"y"}
    assert len(engine.run(Rows({"a": a[:0], "b": b[:0]}))) == 0
    assert "RandomUniform" in reasons(engine)["freeze"]
    with pytest.raises(InvalidInput):
        engine.run(Rows({"a": a, "b": b[:, :2]}))
    model.close()
    with pytest.raises(PredictFailed):
        engine.run(Rows({"a": a, "b": b}))


def test_a_sparse_input_is_refused_by_name(built: Built) -> None:
    with pytest.raises(LoadFailed, match="'x' is sparse"):
        load(built(savedmodels.sparse))


def test_the_graphs_refusal_is_the_clients_fault_and_says_no_node(built: Built) -> None:
    engine = engine_of(built(map_fn))
    with pytest.raises(InvalidInput) as caught:
        engine.run(Rows({"images": [jpeg(1), jpeg(2)[:100]]}))
    assert str(caught.value) == "jpeg::Uncompress failed. Invalid JPEG data or crop window."
    assert isinstance(caught.value.__cause__, tf.errors.InvalidArgumentError)


def test_an_empty_batch_is_answered_and_not_run(built: Built) -> None:
    answer = engine_of(built(map_fn)).run(Rows({"images": []}))
    assert np.asarray(answer.columns["probability"]).shape == (0, savedmodels.CLASSES)


def test_many_threads_get_their_own_answers(built: Built) -> None:
    engine = engine_of(built(map_defun))
    pictures = [jpeg(seed) for seed in range(8)]
    alone = [np.asarray(engine.run(Rows({"images": [each]})).columns["probability"]) for each in pictures]
    wrong: list[int] = []

    def ask(index: int) -> None:
        for _ in range(20):
            got = engine.run(Rows({"images": [pictures[index]]})).columns["probability"]
            if not np.allclose(np.asarray(got), alone[index], atol=1e-6):
                wrong.append(index)

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("build", [map_fn, savedmodels.table])
def test_a_closed_model_fails_and_closing_twice_is_harmless(built: Built, build: Build) -> None:
    model = load(built(build))
    engine = model.engines["serving_default"]
    model.close()
    model.close()
    with pytest.raises(PredictFailed):
        engine.run(Rows({engine.spec.inputs[0].name: [jpeg(1)]}))


def test_all_that_is_proven_is_run_on_the_cpu(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[bool] = []
    plain = SessionOptions.proto

    def note(options: SessionOptions) -> Any:
        given.append(options.uses_gpus)
        return plain(options)

    path = built(savedmodels.pictures)
    monkeypatch.setattr(SessionOptions, "proto", note)
    prepare(path, name="m", version=1, options=SessionOptions(uses_gpus=True))
    assert given
    assert not any(given)


def test_every_sample_is_one_row_and_all_ride_in_one_batch(built: Built) -> None:
    model = load(built(map_fn))
    samples = model.samples["serving_default"]
    assert {len(rows) for rows in samples} == {1}
    answer = model.engines["serving_default"].run(join(samples))
    assert len(answer) == len(samples) > 1


def test_labels_are_read_from_the_extra_assets(tmp_path: Path) -> None:
    path = savedmodels.numbers(tmp_path / "1", lambda x: x)
    (path / "assets.extra").mkdir()
    (path / "assets.extra" / "labels.txt").write_text("cat\nKätzchen\n", "utf-8")
    assert load(path).spec.labels == ("cat", "Kätzchen")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read"), (b"\xff\xff", "damaged"), (b"", "no graph is tagged 'serve'")],
)
def test_a_folder_that_is_no_saved_model_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "saved_model.pb").write_bytes(content)
    with pytest.raises(LoadFailed, match=message):
        load(tmp_path)


def test_lost_variables_are_a_failed_load(tmp_path: Path) -> None:
    path = classic(tmp_path / "1")
    for file in (path / "variables").iterdir():
        file.unlink()
    with pytest.raises(LoadFailed, match="TensorFlow cannot load it"):
        load(path)
