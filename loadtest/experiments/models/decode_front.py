"""The decode front before models that take tensors: equal to what a client computes, and as fast as a model that decodes.

    python -m loadtest.experiments.models.decode_front equality              # keras.applications, saved in three ways
    python -m loadtest.experiments.models.decode_front equality --models MobileNetV2 --presets tf
    python -m loadtest.experiments.models.decode_front speed                 # EfficientNet-Lite0 with a front, and the shipped one

`equality` writes each network with random weights by `model.export()`, by `tf.saved_model.save` and by TensorFlow 1's
builder, opens it as `--pictures` does, and compares the answer to a photograph with TensorFlow's own to the tensor that a
client makes of it. `speed` serves both forms of EfficientNet-Lite0 from one process and loads them in turn; beside them
are clients that send the same pixels as JSON numbers and as V2 binary.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from darkroom.models.engines.open import load_model
from darkroom.models.export.zoo.efficientnet_lite0 import EfficientNetLite0, labels, read_weights
from darkroom.models.rows import Rows
from darkroom.models.runtime.tensorflow import convert_to_constants, tf
from loadtest.measure import machine
from loadtest.measure.processes import free_port, running
from loadtest.measure.tables import number, table
from loadtest.traffic.answers import expect
from loadtest.traffic.closed_loop import capacity
from loadtest.traffic.connections import ConnectionPool, request_bytes
from loadtest.traffic.pictures import RequestBody, load, row_body

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
SHIPPED, WRAPPED = "shipped", "wrapped"


def save(name: str, way: str, folder: Path) -> None:
    """Writes a network of keras.applications with random weights in one of three ways."""
    tf.keras.utils.set_random_seed(1)
    model = getattr(tf.keras.applications, name)(weights=None)
    if way == "export":
        model.export(str(folder), verbose=False)
    elif way == "save":
        tf.saved_model.save(model, str(folder))
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


def equality(models: Sequence[str], presets: Sequence[str]) -> None:
    """Prints for each network, way of saving, preset and fit how far the answer is from a client's."""
    picture = load("photos")[1].data
    rows = []
    for name in models:
        for way in ("export", "save", "TF1"):
            with tempfile.TemporaryDirectory() as made:
                folder = Path(made) / "1"
                save(name, way, folder)
                signature = tf.saved_model.load(str(folder)).signatures["serving_default"]
                (given,) = signature.structured_input_signature[1]
                for preset in presets:
                    for fit, resize in FITS.items() if preset == presets[0] else [("stretch", FITS["stretch"])]:
                        pixels = np.asarray(
                            CLIENTS[preset](np.asarray(resize(tf.io.decode_jpeg(picture, 3)))), np.float32
                        )
                        (want,) = (value.numpy() for value in signature(**{given: tf.constant(pixels[None])}).values())
                        said = {"preprocess": preset, "fit": fit, "size": [224, 224]}  # MobileNetV3 takes any size
                        model = load_model(folder, name="m", version=1, pictures=said)
                        engine = model.engines["serving_default"]
                        (got,) = engine.run(Rows({"images": [picture]})).columns.values()
                        apart = float(np.max(np.abs(np.asarray(got) - want)) / np.max(np.abs(want)))
                        rows.append((f"{name}, {way}", preset, fit, f"{apart:.1g}", str(engine.spec.batched)))
                        print(" ".join(rows[-1]), flush=True)
                        model.close()
    print(table(("model", "preset", "fit", "apart, of the largest score", "batched"), rows))


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
            same = [expect(url, pictures, model=name) for name in (SHIPPED, WRAPPED)]
            print("the same labels" if same[0] == same[1] else f"OTHER LABELS: {same}")
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
    parser.add_argument("--presets", default=",".join(CLIENTS))
    parser.add_argument("--shipped", type=Path, default=Path("model/efficientnet_lite0"))
    parser.add_argument("--connections", type=lambda text: [int(each) for each in text.split(",")], default=[1, 16, 64])
    parser.add_argument("--seconds", type=float, default=8.0, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--least", type=float, default=0.97, help="ratio below which the exit status is 1")
    options = parser.parse_args(arguments)
    if options.what == "speed":
        return speed(options)
    equality(options.models.split(","), options.presets.split(","))
    return 0


if __name__ == "__main__":
    sys.exit(main())
