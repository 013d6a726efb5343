"""Devices: which a name means, and that each has an engine of its own that answers the same."""

from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pytest

from darkroom.models.engines.devices import Device, place, resolve
from darkroom.models.engines.open import SessionOptions, load_model, prepare
from darkroom.models.engines.runner import Runner, RunReport
from darkroom.models.errors import LoadFailed
from darkroom.models.runtime.tensorflow import graph_pb2
from tests import savedmodels
from tests.pictures import picture
from tests.unit.models.conftest import Build

Built = Callable[[Build], Path]
CPU = Device("cpu", 0)


def test_the_devices_that_a_name_means_on_a_machine_without_gpus() -> None:
    assert resolve("auto", gpus=0) == resolve("cpu") == resolve("cpu:1") == (CPU,)
    assert resolve("cpu:2") == (Device("cpu", 0, 2), Device("cpu", 1, 2))


def test_auto_takes_every_gpu_and_a_list_takes_those_named() -> None:
    both = (Device("gpu", 0, 2), Device("gpu", 1, 2))
    assert [resolve(wanted, gpus=2) for wanted in ("auto", "gpu", "gpu:1,0")] == [both] * 3
    assert resolve("gpu:1", gpus=2) == (Device("gpu", 1, 2),)
    assert resolve("cpu") == (CPU,)
    with pytest.raises(LoadFailed, match="TensorFlow sees 2 GPUs"):
        resolve("gpu:0,2", gpus=2)


@pytest.mark.parametrize("wanted", ["gpu", "gpu:0"])
def test_a_gpu_that_is_not_there_is_refused(wanted: str) -> None:
    with pytest.raises(LoadFailed, match="TensorFlow sees no GPU"):
        resolve(wanted, gpus=0)


@pytest.mark.parametrize("wanted", ["", "tpu", "cpu:0", "gpu:", "gpu:0,", "gpu:a"])
def test_a_name_that_means_nothing_is_refused(wanted: str) -> None:
    with pytest.raises(LoadFailed, match="is none of auto"):
        resolve(wanted)


def test_on_a_gpu_the_decoding_stays_on_the_cpu(built: Built) -> None:
    artifact = prepare(built(savedmodels.classic), name="m", version=1, options=SessionOptions())
    graph_def = graph_pb2.GraphDef.FromString(artifact.graph)
    placed = place(graph_def, Device("gpu", 1, 2), artifact.bindings.values())
    devices = {node.op: node.device for node in placed.node}
    assert devices["DecodeJpeg"] == devices["Placeholder"] == devices["TensorArrayWriteV3"] == "/device:CPU:0"
    assert devices["MatMul"] == devices["Softmax"] == "/device:GPU:1"
    assert {node.device for node in graph_def.node} == {""}


def test_a_graph_for_the_one_cpu_and_a_node_that_has_its_place_are_left_as_they_are(built: Built) -> None:
    artifact = prepare(built(savedmodels.keys_and_features), name="m", version=1, options=SessionOptions())
    graph_def = graph_pb2.GraphDef.FromString(artifact.graph)
    assert place(graph_def, CPU, artifact.bindings.values()) is graph_def
    graph_def.node[0].device = "/device:CPU:7"
    placed = place(graph_def, Device("cpu", 1, 2), artifact.bindings.values())
    assert placed.node[0].device == "/device:CPU:7"
    assert {node.device for node in placed.node[1:]} == {"/device:CPU:1"}


def test_two_logical_devices_have_an_engine_each_and_both_are_used(built: Built) -> None:
    model = load_model(built(savedmodels.classic), name="m", version=1, device="cpu:2")
    engines = model.engines_of("serving_default")
    assert list(engines) == ["cpu:0", "cpu:1"]
    assert len({id(engine) for engine in engines.values()}) == 2
    (rows, *_) = model.samples["serving_default"]
    one, other = (np.asarray(engine.run(rows).columns["softmax"]) for engine in engines.values())
    np.testing.assert_allclose(one, other, rtol=1e-6)
    runner = Runner(engines["cpu:0"], devices=engines)
    reports: SimpleQueue[RunReport] = SimpleQueue()
    for _ in range(40):
        runner.start([(rows, 0, 1)], 0, reports.put)
    found = [reports.get(timeout=60) for _ in range(40)]
    assert {report.error for report in found} == {None}
    assert {report.device for report in found} == {"cpu:0", "cpu:1"}
    runner.close()
    model.close()


def test_a_signature_that_keeps_state_has_one_engine_whatever_the_devices(built: Built) -> None:
    model = load_model(built(savedmodels.counter), name="m", version=1, device="cpu:2")
    assert list(model.engines_of("serving_default")) == ["cpu:0"]
    rows = model.spec.signatures["serving_default"].accept({"x": [1.0]})
    counts = [np.asarray(model.engines["serving_default"].run(rows).columns["calls"]).tolist() for _ in range(2)]
    assert counts == [[1], [2]]
    model.close()


def test_what_a_picture_gives_does_not_hang_on_the_device(built: Built) -> None:
    model = load_model(built(savedmodels.pictures), name="m", version=1, device="cpu:3")
    rows = model.spec.signatures["serving_default"].accept(
        {"images": [picture(seed, kind="JPEG") for seed in range(5)]}
    )
    answers = [engine.run(rows).columns["predict"] for engine in model.engines_of("serving_default").values()]
    assert len(answers) == 3
    assert all(np.array_equal(answer, answers[0]) for answer in answers)
    model.close()
