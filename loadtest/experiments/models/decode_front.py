"""The decode front before models that take tensors: equal to what a client computes, and as fast as a model that decodes.

    python -m loadtest.experiments.models.decode_front equality              # keras.applications, saved in four ways
    python -m loadtest.experiments.models.decode_front equality --models MobileNetV2 --presets tf
    python -m loadtest.experiments.models.decode_front speed                 # EfficientNet-Lite0 with a front, and the shipped one

`equality` writes each network with random weights by `model.export()`, by `tf.saved_model.save`, by TensorFlow 1's
builder, and as a network that takes its channels first. Each preset and fit is put before it, and the answer to a
photograph is compared with TensorFlow's own to the tensor that a client makes of it. Then `darkroom serve --pictures`
serves it, with every pass and proof, and answers the photograph in each form of request.
`speed` serves both forms of EfficientNet-Lite0 from one process and loads them in turn; beside them
are clients that send the same pixels as JSON numbers and as V2 binary.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import statistics
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from darkroom.models.export.zoo.efficientnet_lite0 import EfficientNetLite0, labels, read_weights
from darkroom.models.rows import Rows
from darkroom.models.runtime.tensorflow import SessionOptions, convert_to_constants, tf
from darkroom.models.saved_model.front.insert import add_front
from darkroom.models.saved_model.front.preprocess import Preprocess
from darkroom.models.saved_model.image_input import find_image_input
from darkroom.models.saved_model.original import open_original
from darkroom.models.saved_model.reader import read_meta_graph, read_signatures
from loadtest.measure import machine
from loadtest.measure.processes import free_port, is_ready, running
from loadtest.measure.tables import number, table
from loadtest.traffic.answers import expect
from loadtest.traffic.closed_loop import capacity
from loadtest.traffic.connections import ConnectionPool, request_bytes
from loadtest.traffic.pictures import Picture, RequestBody, form_body, json_body, load, raw_body, row_body

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

MODELS = ("MobileNetV3Small", "EfficientNetB0", "ResNet50", "MobileNetV2")
CLIENTS: dict[str, Callable[[Any], Any]] = {
    "tf": lambda x: x / 127.5 - 1.0,
    "torch": lambda x: (x / 255.0 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225]),
    "caffe": lambda x: x[..., ::-1] - np.array([103.939, 116.779, 123.68]),
    "unit": lambda x: x / 255.0,
    "raw": lambda x: x,
}
FITS: dict[str, Callable[[Any], Any]] = {
    "stretch": lambda pixels: tf.image.resize(pixels, (224, 224)),
    "crop": lambda pixels: tf.keras.preprocessing.image.smart_resize(np.asarray(pixels, np.float32), (224, 224)),
    "pad": lambda pixels: tf.image.resize_with_pad(pixels, 224, 224),
}
FORMS = ("JSON", "form", "raw body", "b64", "V2")  # no name of a preset
CHANNELS_FIRST = "NCHW"
WAYS = ("export", "save", "TF1", CHANNELS_FIRST)
SERVED_FIT = "crop"
EQUAL = 1e-5
SHIPPED, WRAPPED = "shipped", "wrapped"


def save(name: str, way: str, folder: Path, *, shape: tuple[int, int, int] | None = None) -> None:
    """Writes a network of keras.applications with random weights in one of four ways; `shape`: of its input, if not its own."""
    tf.keras.backend.clear_session()  # or its layers' names depend on the networks before it
    tf.keras.utils.set_random_seed(1)
    model = getattr(tf.keras.applications, name)(weights=None, input_shape=shape)
    if way == "export":
        model.export(str(folder), verbose=False)
    elif way == "save":
        tf.saved_model.save(model, str(folder))
    elif way == CHANNELS_FIRST:
        root = tf.Module()
        root.model = model
        serve = tf.function(lambda x: {"scores": model(tf.transpose(x, [0, 2, 3, 1]), training=False)})
        spec = tf.TensorSpec([None, 3, 224, 224], tf.float32, name="x")
        tf.saved_model.save(root, str(folder), signatures=serve.get_concrete_function(spec))
    else:
        traced = tf.function(lambda x: model(x, training=False)).get_concrete_function(
            tf.TensorSpec([None, 224, 224, 3], tf.float32, name="x")
        )
        constant = convert_to_constants.convert_variables_to_constants_v2(traced)
        with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
            tf.graph_util.import_graph_def(constant.graph.as_graph_def(), name="")
            x = graph.get_tensor_by_name(constant.inputs[0].name)
            scores = graph.get_tensor_by_name(constant.outputs[0].name)
            tf.compat.v1.saved_model.simple_save(session, str(folder), {"x": x}, {"scores": scores})


def through_front(folder: Path, said: Mapping[str, Any], picture: bytes) -> Any:
    """The answer to a picture of the SavedModel with a decode front before it, no pass applied."""
    pictures = Preprocess.of(said)
    meta_graph = add_front(read_meta_graph(folder), pictures)
    specs, _ = read_signatures(meta_graph)
    spec = find_image_input(specs["serving_default"], meta_graph.graph_def)
    original = open_original(folder, meta_graph, {spec.name: spec}, SessionOptions(), pictures)
    try:
        (got,) = original.engine(spec).run(Rows({"images": [picture]})).columns.values()
        return np.asarray(got)
    finally:
        original.close()


def through_server(folder: Path, said: Mapping[str, Any], pictures: tuple[Picture, ...]) -> tuple[dict[str, Any], bool]:
    """The answer to one picture in each form of request to `darkroom serve --pictures`, and whether rows are batched."""
    port, url = free_port(), ""
    flags = (f"--model_base_path={folder.parent}", f"--pictures={json.dumps({'default': said})}", "--workers=1")
    command = [sys.executable, "-m", "darkroom", "serve", "--host=127.0.0.1", f"--port={port}", *flags]
    picture = pictures[0]
    tensor = {"name": "images", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(picture.data).decode()]}
    v2 = RequestBody("application/json", json.dumps({"inputs": [tensor]}).encode(), (), "/v2/models/default/infer")
    bodies = {
        "JSON": json_body(pictures), "form": form_body(pictures), "raw body": raw_body(picture), "b64": row_body(pictures),
        "V2": v2,
    }  # fmt: skip
    with running(command, port=port, ready_path="/v2/health/live", log=folder.parent / "log"):
        url = f"http://127.0.0.1:{port}"
        while not is_ready(port, "/v2/health/ready"):
            time.sleep(1)
        answers = {form: json.loads(post(url, body)) for form, body in bodies.items()}
        described = json.loads(urllib.request.urlopen(f"{url}/v1/models/default", timeout=60).read())  # noqa: S310
    scores = {form: _scores(answer) for form, answer in answers.items()}
    return scores, described["signatures"]["serving_default"]["batched"]


def post(url: str, body: RequestBody) -> bytes:
    """The body of the answer; raises for any status but 200."""
    request = urllib.request.Request(url + body.path, body.data, body.headers)  # noqa: S310 - our own server
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - as above
        return bytes(answer.read())


def _scores(answer: Any) -> Any:
    """The numbers of the one output in an answer of whatever dialect."""
    while isinstance(answer, dict):
        answer = answer["data"] if "data" in answer else next(answer[key] for key in answer if "model_" not in key)
        answer = answer[0] if isinstance(answer, list) and isinstance(answer[0], dict) else answer
    return np.ravel(np.asarray(answer))


def apart(got: Any, want: Any) -> float:
    """The largest difference, as a part of the largest score."""
    return float(np.max(np.abs(np.ravel(got) - np.ravel(want))) / np.max(np.abs(want)))


def equality(models: Sequence[str], ways: Sequence[str], presets: Sequence[str]) -> int:
    """Prints for each network and way of saving how far the answers are from a client's; 1 if one is not equal."""
    pictures = load("photos")[1:2]
    rows, worst = [], 0.0
    for name in models:
        for way in ways:
            with tempfile.TemporaryDirectory() as made:
                folder = Path(made) / "1"
                save(name, way, folder)
                far = compare(folder, way, presets, pictures)
            worst = max(worst, *(value for value in far.values() if not isinstance(value, bool)))
            rows.append((f"{name}, {way}", *(str(v) if isinstance(v, bool) else f"{v:.1g}" for v in far.values())))
            print(" ".join(rows[-1]), flush=True)
    print(table(("model", *presets, *FORMS, "batched"), rows))
    return int(worst > EQUAL)


def compare(folder: Path, way: str, presets: Sequence[str], pictures: tuple[Picture, ...]) -> dict[str, float | bool]:
    """How far the answers of one SavedModel are: by preset, the worst of all fits; by form; and whether it is batched."""
    signature = tf.saved_model.load(str(folder)).signatures["serving_default"]
    (given,) = signature.structured_input_signature[1]
    far: dict[str, float | bool] = {}
    for preset in presets:
        for fit, resize in FITS.items():
            decoded = resize(tf.io.decode_jpeg(pictures[0].data, 3))
            pixels = np.asarray(CLIENTS[preset](np.asarray(decoded)), np.float32)[None]
            tensor = tf.constant(pixels.transpose(0, 3, 1, 2) if way == CHANNELS_FIRST else pixels)
            (want,) = (value.numpy() for value in signature(**{given: tensor}).values())
            said = {"preprocess": preset, "fit": fit, "size": [224, 224]}  # MobileNetV3 takes any size
            got = through_front(folder, said, pictures[0].data)
            far[preset] = max(far.get(preset, 0.0), apart(got, want))
            if preset == presets[0] and fit == SERVED_FIT:
                answers, batched = through_server(folder, said, pictures)
                served = {form: apart(scores, want) for form, scores in answers.items()}
    return far | served | {"batched": batched}


def write_tensor_model(folder: Path) -> None:
    """EfficientNet-Lite0 as a SavedModel that takes the scaled pixels."""
    network = EfficientNetLite0(read_weights())
    root = tf.Module()

    def serve(x: Any) -> dict[str, Any]:
        probability = tf.nn.softmax(network(x))
        return {"predict": tf.argmax(probability, axis=1), "probability": probability}

    spec = tf.TensorSpec([None, 224, 224, 3], tf.float32, name="x")
    signature = tf.function(serve, input_signature=[spec], autograph=False).get_concrete_function()
    root.weights = list(signature.graph.variables)
    tf.saved_model.save(root, str(folder), signatures={"serving_default": signature})
    (folder / "assets.extra").mkdir()
    (folder / "assets.extra" / "labels.txt").write_text("\n".join(labels()) + "\n", encoding="utf-8")


def tensor_bodies(pixels: Any) -> dict[str, RequestBody]:
    """One picture as numbers: in TensorFlow Serving's JSON, and as the Open Inference Protocol's binary tensor."""
    document = json.dumps({"signature_name": "serving_tensors", "instances": pixels[None].tolist()}).encode()
    path = f"/v1/models/{WRAPPED}:predict"
    sent = {
        "name": "x",
        "shape": [1, *pixels.shape],
        "datatype": "FP32",
        "parameters": {"binary_data_size": pixels.nbytes},
    }
    fields = {"parameters": {"signature_name": "serving_tensors"}, "inputs": [sent], "outputs": [{"name": "predict"}]}
    head = json.dumps(fields).encode()
    binary = head + pixels.tobytes()
    return {
        "numbers in JSON": RequestBody("application/json", document, ("",), path),
        "numbers in V2 binary": RequestBody(
            "application/octet-stream", binary, ("",), f"/v2/models/{WRAPPED}/infer", json_bytes=len(head)
        ),
    }


def speed(options: argparse.Namespace) -> int:
    """Prints requests a second at each number of connections, in turns, and the ratio of the medians."""
    pictures = load("photos")
    pixels = np.asarray(
        (tf.image.resize(tf.io.decode_jpeg(pictures[0].data, 3), (224, 224)) - 127.0) / 128.0, np.float32
    )
    with tempfile.TemporaryDirectory() as made:
        write_tensor_model(Path(made) / WRAPPED / "1")
        said = {"mean": 127.0, "std": 128.0}
        entries = [
            {"name": SHIPPED, "base_path": str(options.shipped.resolve())},
            {"name": WRAPPED, "base_path": str(Path(made) / WRAPPED), "pictures": said},
        ]
        config, log, port = Path(made) / "models.json", Path(made) / "log", free_port()
        config.write_text(json.dumps({"model_config_list": entries}))
        command = [sys.executable, "-m", "darkroom", "serve", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
        bodies = {name: row_body(pictures[:1], model=name) for name in (SHIPPED, WRAPPED)} | tensor_bodies(pixels)
        rates: dict[tuple[str, int], list[float]] = {}
        with running([*command, f"--model_config_file={config}"], port=port, ready_path="/v2/health/ready", log=log):
            url = f"http://127.0.0.1:{port}/"
            shipped, wrapped = (expect(url, pictures, model=name).table for name in (SHIPPED, WRAPPED))
            print("the same labels" if shipped == wrapped else f"OTHER LABELS: {shipped}, {wrapped}")
            for turn in range(options.rounds):
                for connections in options.connections:
                    names = list(bodies) if turn % 2 == 0 else list(reversed(bodies))
                    for name in names:
                        body = bodies[name]
                        whole = request_bytes(f"127.0.0.1:{port}", body, body.headers, path=body.path)
                        pool = ConnectionPool("127.0.0.1", port, limit=connections)
                        rate = asyncio.run(capacity(pool, [whole], clients=connections, seconds=options.seconds))
                        rates.setdefault((name, connections), []).append(rate)
    medians = {key: statistics.median(each) for key, each in rates.items()}
    print(machine.lines(machine.describe()))
    rows = [
        (name, str(connections), number(rate), f"{rate / medians[SHIPPED, connections]:.3f}")
        for (name, connections), rate in sorted(medians.items(), key=lambda each: each[0][1])
    ]
    print(table(("requests", "connections", "a second", "of the shipped model's"), rows))
    return (
        0
        if min(medians[WRAPPED, each] / medians[SHIPPED, each] for each in options.connections) >= options.least
        else 1
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one of the two."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.experiments.models.decode_front", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("what", choices=("equality", "speed"))
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--ways", default=",".join(WAYS), help="of saving them")
    parser.add_argument("--presets", default=",".join(CLIENTS))
    parser.add_argument("--shipped", type=Path, default=Path("model/efficientnet_lite0"))
    parser.add_argument("--connections", type=lambda text: [int(each) for each in text.split(",")], default=[1, 16, 64])
    parser.add_argument("--seconds", type=float, default=8.0, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--least", type=float, default=0.97, help="ratio below which the exit status is 1")
    options = parser.parse_args(arguments)
    if options.what == "speed":
        return speed(options)
    return equality(options.models.split(","), options.ways.split(","), options.presets.split(","))


if __name__ == "__main__":
    sys.exit(main())
