"""The exported graph, compared with the same recipe computed step by step, on pictures of many kinds."""

import io
from base64 import b64encode, urlsafe_b64encode
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from darkroom.models.export.export import (
    export_from_reference,
    export_image_model,
    load_reference,
    signature_of,
)
from darkroom.models.export.zoo import ExportFailed
from darkroom.models.saved_model.front.recipe import TF1_BILINEAR, Recipe

SIZE = (6, 5)
CLASSES = 4


class Linear:
    """A model with known weights: the pixels, flattened, times a matrix."""

    def __init__(self, channels: int) -> None:
        rng = np.random.default_rng(channels)
        values = rng.normal(size=(SIZE[0] * SIZE[1] * channels, CLASSES)).astype(np.float32)
        self.matrix = tf.Variable(values, name="matrix")

    def __call__(self, x: Any) -> Any:
        return tf.matmul(tf.reshape(x, [-1, self.matrix.shape[0]]), self.matrix)


def encode(kind: str, mode: str = "RGB", side: int = 23, **options: Any) -> bytes:
    out = io.BytesIO()
    gradient = Image.radial_gradient("L").resize((side + 9, side)).rotate(30)
    Image.merge("RGB", (gradient, gradient.rotate(90), gradient.rotate(180))).convert(mode).save(out, kind, **options)
    return out.getvalue()


def sixteen_bit_png() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.linspace(0, 65535, 600).reshape(20, 30).astype(np.uint16)).save(out, "PNG")
    return out.getvalue()


def animated_gif() -> bytes:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "lime", "blue")]
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    return out.getvalue()


COLOUR = [encode("JPEG"), encode("JPEG", side=40, quality=30), encode("PNG")]
KINDS = {
    "jpeg": encode("JPEG"),
    "grey jpeg": encode("JPEG", "L"),
    "png": encode("PNG"),
    "png with alpha": encode("PNG", "RGBA"),
    "grey png": encode("PNG", "L"),
    "palette png": encode("PNG", "P"),
    "16-bit png": sixteen_bit_png(),
    "gif": encode("GIF"),
    "animated gif": animated_gif(),
    "bmp": encode("BMP"),
    "webp": encode("WEBP"),
}
BROKEN = {
    "not base64": b"####",
    "standard alphabet": b64encode(b"\xff\xd8\xff\xfb\xef\xbe"),
    "no picture": urlsafe_b64encode(b"certainly not a picture"),
    "empty": b"",
    "cut short": urlsafe_b64encode(encode("JPEG")[:150]),
}


def serve(folder: Path) -> Any:
    return tf.saved_model.load(str(folder)).signatures["serving_default"]


def freeze(folder: Path) -> Any:
    model = tf.saved_model.load(str(folder))  # holds the variables while they are read
    return convert_variables_to_constants_v2(model.signatures["serving_default"])


def text(pictures: list[bytes]) -> Any:
    return tf.constant([urlsafe_b64encode(picture) for picture in pictures])


def by_hand(pictures: list[bytes], channels: int) -> np.ndarray:
    """The probabilities of the model of `exported`, one picture at a time and eagerly."""
    rows = [
        tf.image.resize(tf.io.decode_image(each, channels=channels, expand_animations=False), SIZE) for each in pictures
    ]
    logits = Linear(channels)((tf.stack(rows) - 127.0) / 128.0)
    return np.asarray(tf.nn.softmax(logits).numpy())


def recipe(channels: int = 3, **options: Any) -> Recipe:
    return Recipe(size=SIZE, channels=channels, mean=127.0, std=128.0, **options)


@pytest.fixture(scope="module", params=[1, 3], ids=["grey", "colour"])
def channels(request: pytest.FixtureRequest) -> int:
    assert isinstance(request.param, int)
    return request.param


@pytest.fixture(scope="module")
def exported(channels: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_image_model(Linear(channels), tmp_path_factory.mktemp("linear"), recipe(channels))


def test_the_signature_takes_strings_and_gives_a_class_and_its_probabilities(exported: Path) -> None:
    signature = serve(exported)
    assert signature.structured_input_signature[1] == {"images": tf.TensorSpec([None], tf.string, name="images")}
    assert signature.structured_outputs["predict"].dtype == tf.int64
    assert signature.structured_outputs["predict"].shape.as_list() == [None]
    assert signature.structured_outputs["probability"].dtype == tf.float32
    assert signature.structured_outputs["probability"].shape.as_list() == [None, CLASSES]


def test_row_i_of_the_answer_is_picture_i_decoded_resized_and_scaled(exported: Path, channels: int) -> None:
    answer = serve(exported)(text(COLOUR))
    expected = by_hand(COLOUR, channels)
    np.testing.assert_allclose(answer["probability"], expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(answer["predict"], expected.argmax(axis=1))


@pytest.mark.parametrize("formats", ["any", "jpeg"])
def test_map_defun_and_map_fn_agree_to_the_bit(tmp_path: Path, channels: int, formats: str) -> None:
    answers = []
    for decode in ("map_defun", "map_fn"):
        wanted = recipe(channels, formats=formats, batch_decode=decode)
        answers.append(serve(export_image_model(Linear(channels), tmp_path / decode, wanted))(text(COLOUR)))
    np.testing.assert_array_equal(answers[0]["probability"], answers[1]["probability"])


def test_the_graph_freezes_and_runs_as_a_session_callable_with_the_same_answer(exported: Path) -> None:
    frozen = freeze(exported)
    pictures = text(COLOUR).numpy()
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(frozen.graph.as_graph_def(), name="")
    with tf.compat.v1.Session(graph=graph) as session:
        fetch = next(tensor.name for tensor in frozen.outputs if tensor.dtype == tf.float32)
        call = session.make_callable(fetch, feed_list=[frozen.inputs[0].name])
        answer = call(pictures)
    np.testing.assert_allclose(answer, serve(exported)(text(COLOUR))["probability"], rtol=1e-6, atol=1e-7)


def test_base64_is_decoded_once_for_the_batch_and_straight_from_the_input(channels: int) -> None:
    graph = signature_of(Linear(channels), recipe(channels)).graph
    decoders = [node for node in graph.as_graph_def().node if node.op == "DecodeBase64"]
    assert [list(node.input) for node in decoders] == [["images"]]


@pytest.mark.parametrize("kind", KINDS)
def test_any_format_takes(exported: Path, channels: int, kind: str) -> None:
    answer = serve(exported)(text([KINDS[kind]]))
    if channels == 3 or "jpeg" in kind or "png" in kind:
        np.testing.assert_allclose(answer["probability"], by_hand([KINDS[kind]], channels), rtol=1e-6, atol=1e-7)
    assert answer["probability"].shape == (1, CLASSES)


def test_a_grey_model_sees_a_gif_as_the_grey_of_its_first_frame(tmp_path: Path) -> None:
    def brightness(x: Any) -> Any:
        return tf.reduce_mean(x, axis=[1, 2])

    grey = Recipe(size=SIZE, channels=1, std=1.0, answers="probability")
    answer = serve(export_image_model(brightness, tmp_path, grey))(text([animated_gif(), KINDS["webp"]]))
    assert float(answer["probability"][0, 0]) == pytest.approx(76, abs=1)  # red: 0.2989 of 255


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_picture_is_an_invalid_argument_whatever_its_neighbours(exported: Path, broken: str) -> None:
    healthy = urlsafe_b64encode(COLOUR[0])
    with pytest.raises(tf.errors.InvalidArgumentError):
        serve(exported)(tf.constant([healthy, BROKEN[broken], healthy]))


def test_the_bytes_wire_takes_the_picture_itself(tmp_path: Path) -> None:
    folder = export_image_model(Linear(3), tmp_path, recipe(wire="bytes"))
    answer = serve(folder)(tf.constant(COLOUR))
    np.testing.assert_allclose(answer["probability"], by_hand(COLOUR, 3), rtol=1e-6, atol=1e-7)


def test_the_jpeg_only_graph_refuses_a_bmp(tmp_path: Path) -> None:
    signature = serve(export_image_model(Linear(3), tmp_path, recipe(formats="jpeg")))
    signature(text([KINDS["jpeg"]]))
    with pytest.raises(tf.errors.InvalidArgumentError):
        signature(text([KINDS["bmp"]]))


def test_exif_orientation_is_ignored(exported: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise
    answer = serve(exported)(text([encode("JPEG"), encode("JPEG", exif=exif.tobytes())]))
    np.testing.assert_array_equal(answer["probability"][0], answer["probability"][1])


def test_the_tf1_resize_is_resize_images_of_the_classic_recipe(tmp_path: Path) -> None:
    folder = export_image_model(Linear(3), tmp_path, recipe(resize=TF1_BILINEAR))
    pixels = tf.compat.v1.image.resize_images(tf.io.decode_jpeg(COLOUR[0], channels=3), SIZE)
    expected = tf.nn.softmax(Linear(3)((pixels[None] - 127.0) / 128.0))
    np.testing.assert_allclose(serve(folder)(text(COLOUR[:1]))["probability"], expected, rtol=1e-6, atol=1e-7)


def test_mean_and_std_may_differ_by_channel(tmp_path: Path) -> None:
    means, stds = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    folder = export_image_model(Linear(3), tmp_path, Recipe(size=SIZE, mean=means, std=stds))
    pixels = tf.image.resize(tf.io.decode_jpeg(COLOUR[0], channels=3), SIZE)
    expected = tf.nn.softmax(Linear(3)((pixels[None] - means) / stds))
    np.testing.assert_allclose(serve(folder)(text(COLOUR[:1]))["probability"], expected, rtol=1e-5, atol=1e-7)


def test_a_keras_model_answers_as_in_inference_and_its_probabilities_stay_as_they_are(tmp_path: Path) -> None:
    layers = tf.keras.layers
    model = tf.keras.Sequential(
        [
            layers.Input((*SIZE, 3)),
            layers.BatchNormalization(),
            layers.Dropout(0.9),
            layers.Flatten(),
            layers.Dense(CLASSES, activation="softmax"),
        ]
    )
    folder = export_image_model(model, tmp_path, Recipe(size=SIZE, answers="probability"))
    pixels = tf.image.resize(tf.io.decode_jpeg(COLOUR[0], channels=3), SIZE)
    expected = model(pixels[None] / 255.0, training=False)
    np.testing.assert_allclose(serve(folder)(text(COLOUR[:1]))["probability"], expected, rtol=1e-5, atol=1e-7)


def test_a_module_with_a_table_is_saved_with_its_table(tmp_path: Path) -> None:
    class Shuffled(tf.Module):  # type: ignore[misc]  # TensorFlow is untyped
        def __init__(self) -> None:
            super().__init__()
            pairs = tf.lookup.KeyValueTensorInitializer(tf.range(CLASSES), tf.range(CLASSES)[::-1])
            self.table = tf.lookup.StaticHashTable(pairs, default_value=-1)
            self.linear = Linear(3)

        def __call__(self, x: Any) -> Any:
            return tf.gather(self.linear(x), self.table.lookup(tf.range(CLASSES)), axis=1)

    answer = serve(export_image_model(Shuffled(), tmp_path, recipe()))(text(COLOUR))
    np.testing.assert_allclose(answer["probability"][:, ::-1], by_hand(COLOUR, 3), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "model",
    [lambda x: x, lambda x: tf.reduce_mean(x, axis=[1, 2, 3]), lambda x: tf.argmax(x[:, 0], axis=1)],
    ids=["a picture", "a number", "integers"],
)
def test_a_model_that_gives_no_row_of_classes_is_refused(tmp_path: Path, model: Any) -> None:
    with pytest.raises(ExportFailed, match="not float"):
        export_image_model(model, tmp_path, recipe())


def test_a_recipe_lists_all_that_is_wrong_with_it() -> None:
    with pytest.raises(ValueError, match=r"channels=2 .*; wire='hex' .*; size=.*; mean has 3 .*; std may not be 0"):
        Recipe(size=(0, 5), channels=2, wire="hex", mean=(1.0, 2.0, 3.0), std=0.0)


def test_a_reference_finds_a_keras_file_and_a_factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tf.keras.Sequential([tf.keras.layers.Input((*SIZE, 3)), tf.keras.layers.Flatten()])
    model.save(tmp_path / "mine.keras")
    (tmp_path / "my_models.py").write_text("def make():\n    return 'made'\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")  # so that what the loader adds to the path goes again
    assert load_reference("mine.keras").count_params() == model.count_params()
    assert load_reference("my_models:make") == "made"


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras's own, on writing its file
def test_a_keras_file_is_exported_by_its_path(tmp_path: Path) -> None:
    layers = tf.keras.layers
    tf.keras.utils.set_random_seed(0)
    model = tf.keras.Sequential([layers.Input((*SIZE, 3)), layers.Flatten(), layers.Dense(CLASSES)])
    model.save(tmp_path / "mine.keras")
    folder = export_from_reference(str(tmp_path / "mine.keras"), tmp_path / "mine", Recipe(size=SIZE), version=3)
    pixels = tf.image.resize(tf.io.decode_jpeg(COLOUR[0], channels=3), SIZE)
    expected = tf.nn.softmax(model(pixels[None] / 255.0))
    np.testing.assert_allclose(serve(folder)(text(COLOUR[:1]))["probability"], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("reference", ["absent.keras", "no_such_module:make", "json:no_such_factory", "nonsense"])
def test_a_reference_to_nothing_says_so(reference: str) -> None:
    with pytest.raises(ExportFailed, match=reference.partition(":")[0]):
        load_reference(reference)
