"""Small SavedModels of every kind that the engine must serve. Each function writes a version folder, returns it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from darkroom.models.runtime.tensorflow import deprecation, tf

SIZE = 8
CLASSES = 5
WEIGHTS = np.random.default_rng(0).normal(size=(SIZE * SIZE * 3, CLASSES)).astype(np.float32) * 0.01


def classic(folder: Path, *, base64: str = "before") -> Path:
    """The classic TF1 recipe: placeholder, decode_base64, map_fn, decode_jpeg, resize_images, dense, simple_save.

    `base64`: decoded "before" the loop over all pictures, "inside" it one by one, or "never" (the wire is bytes).
    """
    with _tf1_graph() as (graph, session):
        images = tf.compat.v1.placeholder(tf.string, [None], name="model_input_b64_images")
        strings = tf.io.decode_base64(images) if base64 == "before" else images

        def decode(data: Any) -> Any:
            picture = tf.image.decode_jpeg(tf.io.decode_base64(data) if base64 == "inside" else data, channels=3)
            return tf.compat.v1.image.resize_images(picture, [SIZE, SIZE])

        pixels = tf.map_fn(decode, strings, dtype=tf.float32)
        weights = tf.compat.v1.get_variable("weights", initializer=WEIGHTS, use_resource=False)
        logits = tf.matmul(tf.reshape(pixels, [-1, SIZE * SIZE * 3]), weights)
        outputs = {"prediction": tf.argmax(logits, 1), "softmax": tf.nn.softmax(logits)}
        session.run(tf.compat.v1.global_variables_initializer())
        return _simple_save(session, folder, {"images": images}, outputs, graph)


def keys_and_features(folder: Path) -> Path:
    """`keys` int32 [-1,1], which comes back untouched (the placeholder itself), and `features` float32 [-1,9]."""
    with _tf1_graph() as (graph, session):
        keys = tf.compat.v1.placeholder(tf.int32, [None, 1])
        features = tf.compat.v1.placeholder(tf.float32, [None, 9])
        weights = tf.compat.v1.get_variable("weights", initializer=WEIGHTS[:9, :2], use_resource=True)
        softmax = tf.nn.softmax(tf.matmul(features, weights))
        outputs = {"keys": keys, "prediction": tf.argmax(softmax, 1), "softmax": softmax}
        session.run(tf.compat.v1.global_variables_initializer())
        return _simple_save(session, folder, {"keys": keys, "features": features}, outputs, graph)


def linear(folder: Path) -> Path:
    """`keys` int32 [-1,1], which comes back, and `features` float32 [-1,1], of which `prediction` is a line."""
    with _tf1_graph() as (graph, session):
        keys = tf.compat.v1.placeholder(tf.int32, [None, 1])
        features = tf.compat.v1.placeholder(tf.float32, [None, 1])
        outputs = {"keys": keys, "prediction": features * 2.0 + 10.0}
        return _simple_save(session, folder, {"keys": keys, "features": features}, outputs, graph)


def spin(folder: Path) -> Path:
    """`turns` int32 [-1,1], which comes back after a loop of as many turns; 2**31 - 1 turns take hours."""
    with _tf1_graph() as (graph, session):
        turns = tf.compat.v1.placeholder(tf.int32, [None, 1])
        last = tf.while_loop(
            lambda turn: turn < tf.reduce_max(turns), lambda turn: turn + 1, [0], parallel_iterations=1
        )
        outputs = {"turned": turns + 0 * tf.reshape(last, [])}
        return _simple_save(session, folder, {"turns": turns}, outputs, graph)


def raises(folder: Path) -> Path:
    """`x` float32 [-1,4], which comes back doubled; an assertion fails for a row that has a negative number."""

    def double(x: Any) -> Any:
        with tf.control_dependencies([tf.debugging.assert_non_negative(x, "a negative number")]):
            return x * 2.0

    return numbers(folder, double)


def nan(folder: Path) -> Path:
    """The logarithm of `x` float32 [-1,4]: not a number for a negative one, -Infinity for 0."""
    return numbers(folder, tf.math.log)


def few_rows(folder: Path) -> Path:
    """The rows of `x` float32 [-1,4] whose first number is positive: fewer rows out than in."""
    return numbers(folder, lambda x: tf.boolean_mask(x, x[:, 0] > 0))


def hungry(folder: Path) -> Path:
    """`megabytes` int32 [-1,1], which comes back after as much memory was filled with numbers, in one piece."""

    def serve(_: Any, megabytes: Any) -> dict[str, Any]:
        filled = tf.random.stateless_uniform([tf.reduce_max(megabytes), 262_144], seed=[1, 2])
        return {"megabytes": megabytes + tf.cast(tf.reduce_min(filled) < 0.0, tf.int32)}

    return _save(folder, serve, megabytes=tf.TensorSpec([None, 1], tf.int32))


def estimator(folder: Path, *, floats: int = 2) -> Path:
    """An Estimator's classify signature: Examples of `b`, so many floats, in; string classes and scores out."""
    with _tf1_graph() as (graph, session):
        examples = tf.compat.v1.placeholder(tf.string, [None])
        parsed = tf.io.parse_example(examples, {"b": tf.io.FixedLenFeature([floats], tf.float32)})
        scores = tf.nn.softmax(tf.concat([parsed["b"], -parsed["b"]], 1)[:, :2])
        classes = tf.tile(tf.constant([["0", "1"]]), [tf.shape(examples)[0], 1])
        return _simple_save(session, folder, {"inputs": examples}, {"classes": classes, "scores": scores}, graph)


def half_plus_two(folder: Path) -> Path:
    """TensorFlow Serving's own example: y = x/2 + 2 of float32 [-1,1], and regress and classify by tf.Examples.

    The names of tensors and signatures are those of `saved_model_half_plus_two_2_versions`.
    """
    with _tf1_graph() as (graph, session):
        half = tf.compat.v1.get_variable("a", initializer=0.5, use_resource=False)
        examples = tf.compat.v1.placeholder(tf.string, name="tf_example")
        features = {name: tf.io.FixedLenFeature([1], tf.float32, default_value=[0.0]) for name in ("x", "x2")}
        parsed = tf.io.parse_example(examples, features)
        x, x2 = (tf.identity(parsed[name], name=name) for name in ("x", "x2"))
        for tensor in (x, x2):
            tensor.set_shape([None, 1])
        y = tf.add(tf.multiply(half, x), 2.0, name="y")
        y2 = tf.add(tf.multiply(half, x), 3.0, name="y2")
        y3 = tf.add(tf.multiply(half, x2), 3.0, name="y3")
        session.run(tf.compat.v1.global_variables_initializer())
        signatures = {
            "serving_default": ({"x": x}, {"y": y}, "predict"),
            "regress_x_to_y": ({"inputs": examples}, {"outputs": y}, "regress"),
            "regress_x_to_y2": ({"inputs": examples}, {"outputs": y2}, "regress"),
            "regress_x2_to_y3": ({"inputs": x2}, {"outputs": y3}, "regress"),
            "classify_x_to_y": ({"inputs": examples}, {"scores": y}, "classify"),
            "classify_x2_to_y3": ({"inputs": x2}, {"scores": y3}, "classify"),
        }
        return _save_signatures(session, folder, signatures, graph)


def of_every_kind(folder: Path) -> Path:
    """Three inputs of three kinds in, outputs of every kind that JSON writes in its own way."""

    def serve(_: Any, number: Any, text: Any, measure: Any) -> dict[str, Any]:
        return {
            "number": number * 2,
            "text": tf.strings.join([text, "!"]),
            "raw_bytes": text,
            "measure": measure / 10.0,
            "half": tf.cast(measure, tf.float16),
            "brain": tf.cast(measure, tf.bfloat16),
            "is_large": measure > 1.0,
        }

    return _save(
        folder,
        serve,
        number=tf.TensorSpec([None, 2], tf.int32),
        text=tf.TensorSpec([None], tf.string),
        measure=tf.TensorSpec([None], tf.float32),
    )


def picture_and_threshold(folder: Path) -> Path:
    """A picture, in raw bytes, beside a number: is its mean above it?"""

    def serve(_: Any, image: Any, threshold: Any) -> dict[str, Any]:
        return {"is_above": tf.map_fn(_mean, image, fn_output_signature=tf.float32) > threshold}

    return _save(folder, serve, image=tf.TensorSpec([None], tf.string), threshold=tf.TensorSpec([None], tf.float32))


def several_pictures(folder: Path) -> Path:
    """Signatures with two pictures a row, of which the answers are the means.

    `left` and `right`: "pair" takes bytes, "texts" base64, "mixed" base64 and bytes. "views" has one input, [-1, 2].
    """

    def means(images: Any, wire: str) -> Any:
        strings = tf.io.decode_base64(images) if wire == "base64" else images
        return tf.map_fn(_mean, strings, fn_output_signature=tf.float32)

    def two(left_wire: str, right_wire: str) -> Any:
        def serve(left: Any, right: Any) -> dict[str, Any]:
            return {"left_mean": means(left, left_wire), "right_mean": means(right, right_wire)}

        spec = tf.TensorSpec([None], tf.string)
        return tf.function(serve).get_concrete_function(left=spec, right=spec)

    def views(views: Any) -> dict[str, Any]:
        one = tf.TensorSpec([2], tf.float32)
        return {"means": tf.map_fn(lambda row: means(row, "bytes"), views, fn_output_signature=one)}

    signatures = {
        "pair": two("bytes", "bytes"),
        "texts": two("base64", "base64"),
        "mixed": two("base64", "bytes"),
        "views": tf.function(views).get_concrete_function(views=tf.TensorSpec([None, 2], tf.string)),
    }
    with deprecation.silence():
        tf.saved_model.save(tf.Module(), str(folder), signatures)
    return folder


def features_of_every_parser(folder: Path) -> Path:
    """Features of floats and of integers, through each of TensorFlow's parsers of Examples; "both" is both."""

    def serve(_: Any, inputs: Any) -> dict[str, Any]:
        dense, sparse, ragged = tf.io.FixedLenFeature, tf.io.VarLenFeature, tf.io.RaggedFeature
        parsed = tf.io.parse_example(
            inputs,
            {
                "dense": dense([2], tf.float32, [0.0, 0.0]),
                "integer": dense([], tf.int64, 0),
                "both": dense([], tf.float32, 0.0),
                "sparse": sparse(tf.float32),
                "ragged": ragged(tf.float32),
            },
        )
        features = {
            "single": dense([], tf.float32, 0.0),
            "both": dense([], tf.int64, 0),
            "single_sparse": sparse(tf.float32),
        }
        single = tf.map_fn(
            lambda one: tf.io.parse_single_example(one, features)["single"], inputs, fn_output_signature=tf.float32
        )
        return {"outputs": single + parsed["both"]}

    return _save(folder, serve, inputs=tf.TensorSpec([None], tf.string))


def sparse(folder: Path) -> Path:
    """A signature with a sparse input."""
    with _tf1_graph() as (graph, session):
        values = tf.compat.v1.sparse_placeholder(tf.float32, [None, 4])
        return _simple_save(session, folder, {"x": values}, {"y": tf.sparse.reduce_sum(values, 1)}, graph)


def pictures(folder: Path, *, loop: str = "map_fn", wire: str = "base64", read_as_text: bool = False) -> Path:
    """A TF2 picture model: DecodeBase64 inside the loop. `loop`: "map_fn" or "map_defun"; `wire`: "base64" or "bytes".

    `read_as_text` adds an output that looks at the strings themselves.
    """

    def one(data: Any) -> Any:
        picture = tf.io.decode_jpeg(tf.io.decode_base64(data) if wire == "base64" else data, channels=3)
        return tf.image.resize(tf.cast(picture, tf.float32), [SIZE, SIZE])

    def serve(module: Any, images: Any) -> dict[str, Any]:
        shape = tf.TensorSpec([SIZE, SIZE, 3], tf.float32)
        if loop == "map_fn":
            pixels = tf.map_fn(one, images, fn_output_signature=shape)
        else:
            body = tf.function(one).get_concrete_function(tf.TensorSpec([], tf.string))
            (pixels,) = tf.raw_ops.MapDefun(
                arguments=[images], captured_inputs=[], output_types=[shape.dtype], output_shapes=[shape.shape], f=body
            )
        logits = tf.matmul(tf.reshape(pixels, [-1, SIZE * SIZE * 3]), module.weights)
        outputs = {"predict": tf.argmax(logits, 1), "probability": tf.nn.softmax(logits)}
        return outputs | ({"length": tf.strings.length(images)} if read_as_text else {})

    return _save(folder, serve, images=tf.TensorSpec([None], tf.string))


def two_signatures(folder: Path) -> Path:
    """One function of base64 pictures under two names: "serving_default" and "predict"."""

    class Twice(tf.Module):  # type: ignore[misc]  # TensorFlow has no types
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="images")])  # type: ignore[untyped-decorator]
        def serve(self, images: Any) -> dict[str, Any]:
            strings = tf.io.decode_base64(images)
            return {"mean": tf.map_fn(_mean, strings, fn_output_signature=tf.float32)}

    module = Twice()
    with deprecation.silence():
        tf.saved_model.save(module, str(folder), {"serving_default": module.serve, "predict": module.serve})
    return folder


def _mean(data: Any) -> Any:
    return tf.reduce_mean(tf.cast(tf.io.decode_jpeg(data, channels=3), tf.float32))


def decoders(folder: Path) -> Path:
    """Pictures in raw bytes through decode_image, which takes every format."""

    def one(data: Any) -> Any:
        return tf.reduce_mean(tf.cast(tf.io.decode_image(data, channels=3, expand_animations=False), tf.float32))

    def serve(_: Any, images: Any) -> dict[str, Any]:
        return {"mean": tf.map_fn(one, images, fn_output_signature=tf.float32)}

    return _save(folder, serve, images=tf.TensorSpec([None], tf.string))


def table(folder: Path) -> Path:
    """A word's number out of a lookup table; -1 for a word that is not in it."""

    def serve(module: Any, words: Any) -> dict[str, Any]:
        return {"number": module.table.lookup(words)}

    words = tf.lookup.KeyValueTensorInitializer(tf.constant(["a", "b"]), tf.constant([1, 2], tf.int64))
    return _save(folder, serve, words=tf.TensorSpec([None], tf.string), _table=tf.lookup.StaticHashTable(words, -1))


def pixels(
    folder: Path,
    *,
    shape: tuple[int | None, ...] = (None, SIZE, SIZE, 3),
    dtype: Any = tf.float32,
    scale: float = 1.0,
    names: tuple[str, ...] = ("x",),
    limit: bool = False,
) -> Path:
    """Pictures as tensors in, scores, a label out of a table and an embedding out; `limit`: beside a number a row.

    `scale`: what its graph multiplies the pixels by first. Several `names` are several pictures, which are added.
    """

    def serve(module: Any, **inputs: Any) -> dict[str, Any]:
        parts = [tf.cast(inputs[name], tf.float32) * scale for name in names]
        x = parts[0] if len(parts) == 1 else parts[0] - 2.0 * parts[1]
        means = tf.reduce_mean(x, [2, 3] if shape[1] == 3 else [1, 2])
        scores = tf.nn.softmax(tf.matmul(means, module.weights[:3]))
        label = module.table.lookup(tf.argmax(scores, 1))
        above = {"above": scores > inputs["limit"][:, tf.newaxis]} if limit else {}
        return {"scores": scores, "label": label, "embedding": x[..., :2]} | above

    words = tf.lookup.KeyValueTensorInitializer(tf.constant([0, 1], tf.int64), tf.constant(["a", "b"]))
    parts: dict[str, Any] = {name: tf.TensorSpec(shape, dtype) for name in names}
    parts |= {"limit": tf.TensorSpec([None], tf.float32)} if limit else {}
    return _save(folder, serve, **parts, _table=tf.lookup.StaticHashTable(words, "other"))


def finder(folder: Path, *, side: int = 64, classes: int = 21) -> Path:
    """Finds a red square in `x` float32 [-1,side,side,3], pixels from 0 to 255, and answers in every kind of output.

    The detection is TensorFlow's: three boxes, of which two count: the square, of class 2, and the whole, of class 1.
    """

    def serve(_: Any, x: Any) -> dict[str, Any]:
        red = tf.logical_and(x[..., 0] > 150.0, tf.reduce_max(x[..., 1:], -1) < 100.0)
        down, across = tf.reduce_any(red, 2), tf.reduce_any(red, 1)
        places = tf.range(side, dtype=tf.float32)

        def first(where: Any) -> Any:
            return tf.reduce_min(tf.where(where, places, float(side)), 1) / side

        def end(where: Any) -> Any:
            return tf.reduce_max(tf.where(where, places + 1.0, 0.0), 1) / side

        square = tf.stack([first(down), first(across), end(down), end(across)], 1)
        whole = tf.tile([[0.0, 0.0, 1.0, 1.0]], [tf.shape(x)[0], 1])
        ones = tf.ones_like(square[:, :1])
        means = tf.reduce_mean(x, [2, 3])
        files = tf.map_fn(tf.io.encode_png, tf.cast(x, tf.uint8), fn_output_signature=tf.string)
        return {
            "detection_boxes": tf.stack([square, whole, 0.0 * whole], 1),
            "detection_scores": ones * [[0.9, 0.25, 0.0]],
            "detection_classes": ones * [[2.0, 1.0, 1.0]],
            "num_detections": 2.0 * ones[:, 0],
            "mask": tf.one_hot(tf.where(red, 3, 0), classes, 4.0, -4.0),
            "embedding": means,
            "logits": means[:, :5] - 100.0,
            "negative": tf.cast(255.0 - x, tf.uint8),
            "light": tf.reduce_max(x, -1, keepdims=True) / 255.0,
            "file_bytes": files,
            "file": files,
        }

    return _save(folder, serve, x=tf.TensorSpec([None, side, side, 3], tf.float32))


def pixels_of_tf1(folder: Path) -> Path:
    """The same in TensorFlow 1: reference variables, a loop of Enter and Exit, a table out of an asset, `probabilities`."""
    with _tf1_graph() as (_, session):
        x = tf.compat.v1.placeholder(tf.float32, [None, SIZE, SIZE, 3], name="x")
        weights = tf.compat.v1.get_variable("weights", initializer=WEIGHTS[:3], use_resource=False)
        rows = tf.reduce_mean(x, [1, 2])
        _, turned = tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, y * 1.5 + 0.1), [tf.constant(0), rows])
        scores = tf.nn.softmax(tf.matmul(turned, weights))
        folder.parent.mkdir(parents=True, exist_ok=True)
        (folder.parent / "words.txt").write_text("a\nb\nc\nd\ne\n")
        asset = tf.constant(str(folder.parent / "words.txt"))
        tf.compat.v1.add_to_collection(tf.compat.v1.GraphKeys.ASSET_FILEPATHS, asset)
        lines = tf.lookup.TextFileInitializer(
            asset, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER, tf.string, tf.lookup.TextFileIndex.WHOLE_LINE
        )
        table = tf.lookup.StaticHashTable(lines, "other")
        session.run([tf.compat.v1.global_variables_initializer(), tf.compat.v1.tables_initializer()])
        saved_model = tf.compat.v1.saved_model
        outputs = {"scores": scores, "label": table.lookup(tf.argmax(scores, 1))}
        definition = saved_model.build_signature_def(
            {"x": saved_model.build_tensor_info(x)},
            {key: saved_model.build_tensor_info(tensor) for key, tensor in outputs.items()},
            "tensorflow/serving/predict",
        )
        builder = saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            signature_def_map={"probabilities": definition},
            assets_collection=tf.compat.v1.get_collection(tf.compat.v1.GraphKeys.ASSET_FILEPATHS),
            main_op=tf.compat.v1.tables_initializer(),
        )
        builder.save()
    return folder


def pixels_of_keras(folder: Path) -> Path:
    """A Keras 3 model of pictures inside a tf.Module, which only `tf.saved_model.load` restores."""
    layers = tf.keras.layers
    model = tf.keras.Sequential([layers.Input((SIZE, SIZE, 3)), layers.Flatten(), layers.Dense(CLASSES, "softmax")])

    def serve(module: Any, x: Any) -> dict[str, Any]:
        return {"scores": module.model(x)}

    return _save(folder, serve, x=tf.TensorSpec([None, SIZE, SIZE, 3], tf.float32), _model=model)


def counter(folder: Path) -> Path:
    """Counts its calls in a variable, and answers the count beside each row; `peek` only reads it."""

    class Counter(tf.Module):  # type: ignore[misc]  # TensorFlow has no types
        def __init__(self) -> None:
            super().__init__()
            self.calls = tf.Variable(0, dtype=tf.int64)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])  # type: ignore[untyped-decorator]
        def serve(self, x: Any) -> dict[str, Any]:
            calls = self.calls.assign_add(1)
            return {"calls": tf.fill(tf.shape(x), calls), "y": x}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])  # type: ignore[untyped-decorator]
        def peek(self, x: Any) -> dict[str, Any]:
            return {"calls": tf.fill(tf.shape(x), self.calls.read_value())}

    module = Counter()
    with deprecation.silence():
        tf.saved_model.save(module, str(folder), {"serving_default": module.serve, "peek": module.peek})
    return folder


def counter_without_inputs(folder: Path) -> Path:
    """A counter: `serving_default` adds a number to it, `get_counter` has no input and tells it."""

    class Counter(tf.Module):  # type: ignore[misc]  # TensorFlow has no types
        def __init__(self) -> None:
            super().__init__()
            self.count = tf.Variable(0.0, trainable=False)

        @tf.function(input_signature=[tf.TensorSpec([], tf.float32, name="delta")])  # type: ignore[untyped-decorator]
        def add(self, delta: Any) -> dict[str, Any]:
            return {"output": self.count.assign_add(delta)}

        @tf.function(input_signature=[])  # type: ignore[untyped-decorator]
        def get(self) -> dict[str, Any]:
            return {"output": tf.identity(self.count)}

    module = Counter()
    with deprecation.silence():
        tf.saved_model.save(module, str(folder), {"serving_default": module.add, "get_counter": module.get})
    return folder


def aborts(folder: Path) -> Path:
    """`x` → `y` by a convolution that always gets a matrix, of which the graph does not know the rank: TensorFlow aborts."""
    kernel = tf.constant(np.ones((3, 3, 3, 4)), tf.float32)

    def convolve(x: Any) -> Any:
        matrix = tf.reshape(x, tf.boolean_mask([-1, 1], [True, True] & tf.reduce_all(tf.equal(x, x))))
        return tf.raw_ops.Conv2D(input=matrix, filter=kernel, strides=[1] * 4, padding="SAME")

    return numbers(folder, convolve)


def numbers(folder: Path, function: Callable[[Any], Any], *, shape: tuple[int | None, ...] = (None, 4)) -> Path:
    """`x` float32 → `y`, whatever `function` makes of it."""

    def serve(_: Any, x: Any) -> dict[str, Any]:
        return {"y": function(x)}

    return _save(folder, serve, x=tf.TensorSpec(shape, tf.float32))


def keras_in_a_module(folder: Path, *, noise: bool = False) -> Path:
    """A Keras 3 model inside a tf.Module: only `tf.saved_model.load` finds its variables. `noise` keeps it unfrozen."""
    layers = tf.keras.layers
    inputs = [tf.keras.Input([3], name=name) for name in ("b", "a")]
    joined = layers.Dense(2)(layers.Concatenate()([inputs[0], inputs[1] * 2.0]))
    model = tf.keras.Model(inputs, joined)

    def serve(module: Any, a: Any, b: Any) -> dict[str, Any]:
        # A seed, because training elsewhere in this process asks for deterministic ops.
        return {"y": module.model([b, a]), "a": a + (tf.floor(tf.random.uniform([], seed=1)) if noise else 0.0)}

    spec = tf.TensorSpec([None, 3], tf.float32)
    return _save(folder, serve, b=spec, a=spec, _model=model)


def _save(folder: Path, serve: Callable[..., dict[str, Any]], **parts: Any) -> Path:
    """Saves a module whose one signature is `serve(module, …)`; a part whose name starts with _ is an attribute."""
    module = tf.Module()
    module.weights = tf.Variable(WEIGHTS)
    specs = {name: part for name, part in parts.items() if not name.startswith("_")}
    for name in parts.keys() - specs.keys():
        setattr(module, name[1:], parts[name])
    module.serve = tf.function(lambda **inputs: serve(module, **inputs), autograph=False)
    named = {name: tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in specs.items()}
    with deprecation.silence():
        tf.saved_model.save(module, str(folder), module.serve.get_concrete_function(**named))
    return folder


@contextmanager
def _tf1_graph() -> Iterator[tuple[Any, Any]]:
    """A graph and a session as TensorFlow 1 had them: while loops of Enter and Exit, not of functions."""
    tf.compat.v1.disable_control_flow_v2()
    try:
        with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session, deprecation.silence():
            yield graph, session
    finally:
        tf.compat.v1.enable_control_flow_v2()


def _save_signatures(session: Any, folder: Path, signatures: dict[str, Any], graph: Any) -> Path:
    """Saves several signatures: name → (inputs, outputs, the last word of the method's name)."""
    saved_model = tf.compat.v1.saved_model
    with graph.as_default():
        builder = saved_model.Builder(str(folder))
        definitions = {
            name: saved_model.build_signature_def(
                {key: saved_model.build_tensor_info(tensor) for key, tensor in inputs.items()},
                {key: saved_model.build_tensor_info(tensor) for key, tensor in outputs.items()},
                f"tensorflow/serving/{method}",
            )
            for name, (inputs, outputs, method) in signatures.items()
        }
        builder.add_meta_graph_and_variables(session, ["serve"], signature_def_map=definitions)
        builder.save()
    return folder


def _simple_save(session: Any, folder: Path, inputs: dict[str, Any], outputs: dict[str, Any], graph: Any) -> Path:
    with graph.as_default():
        tf.compat.v1.saved_model.simple_save(session, str(folder), inputs, outputs)
    return folder


def _layers() -> dict[str, tuple[list[int | None] | None, str, Callable[[Any], Any]]]:
    """What the signatures of `every_first_layer` take and do: shape, dtype, function."""
    kernel = tf.constant(np.random.default_rng(0).normal(size=(3, 3, 3, 4)), tf.float32)
    weights = tf.constant(WEIGHTS[:9, :2])

    def decode(data: Any) -> Any:
        picture = tf.image.resize(tf.io.decode_image(data, channels=3, expand_animations=False), [SIZE, SIZE])
        return tf.ensure_shape(picture, [SIZE, SIZE, 3])

    return {
        "convolution": ([None, SIZE, SIZE, 3], "float32", lambda x: tf.nn.conv2d(x, kernel, 1, "SAME")),
        "open_convolution": ([None, None, None, 3], "float32", lambda x: tf.nn.conv2d(x, kernel, 2, "VALID")),
        "depthwise": ([None, None, None, 3], "float32", lambda x: tf.nn.depthwise_conv2d(x, kernel, [1] * 4, "SAME")),
        "pooling": ([None, None, None, 3], "float32", lambda x: tf.nn.max_pool2d(x, 4, 4, "VALID")),
        "average": ([None, None, None, 3], "float32", lambda x: tf.nn.avg_pool2d(x, 2, 2, "SAME")),
        "resize": ([None, None, None, 3], "uint8", lambda x: tf.image.resize(x, [SIZE, SIZE])),
        "halve": ([None, None, None, 3], "float32", lambda x: tf.image.resize(x, tf.shape(x)[1:3] // 2)),
        "one_picture": ([None, None, 3], "uint8", lambda x: tf.image.resize(x[None], [SIZE, SIZE])),
        "matmul": ([None, 9], "float32", lambda x: tf.nn.relu(tf.matmul(x, weights))),
        "open_matmul": ([None, None], "float32", lambda x: tf.matmul(x, weights)),
        "reshape": ([None, None], "float32", lambda x: tf.reshape(x, [tf.shape(x)[0], -1, 4])),
        "gather": ([None, None], "int32", lambda x: tf.gather(weights, x)),
        "gather_columns": ([None, None], "float32", lambda x: tf.gather(x, [0, 2], axis=1)),
        "slice": ([None, None, 3], "float32", lambda x: x[:, 0, ::2]),
        "top": ([None, None], "float32", lambda x: tf.math.top_k(x, 3)[0]),
        "line": ([None, 1], "float32", lambda x: x * 0.5 + 2.0),
        "any_rank": (None, "float32", tf.nn.relu),
        "any_convolution": (None, "float32", lambda x: tf.nn.conv2d(x, kernel, 1, "SAME")),
        "any_softmax": (None, "float32", lambda x: tf.raw_ops.Softmax(logits=x)),
        "decode": ([None], "string", lambda x: tf.map_fn(decode, x, fn_output_signature=tf.float32)),
        "one_file": ([], "string", decode),
    }


def every_first_layer(folder: Path) -> Path:
    """A signature for each kind of op that a model may begin with, `x` → `y`, named after the op; see `_layers`."""
    return each(folder, _layers())


def each(folder: Path, layers: Mapping[str, tuple[Sequence[int | None] | None, str, Callable[[Any], Any]]]) -> Path:
    """A signature for each of these, `x` → `y`: shape, dtype, function."""

    def named(function: Callable[[Any], Any]) -> Callable[[Any], dict[str, Any]]:
        return lambda x: {"y": function(x)}

    module = tf.Module()
    signatures = {
        name: tf.function(named(function), input_signature=[tf.TensorSpec(shape, getattr(tf, dtype), "x")])
        for name, (shape, dtype, function) in layers.items()
    }
    module.signatures_kept = list(signatures.values())
    tf.saved_model.save(module, str(folder), signatures=signatures)
    return folder
