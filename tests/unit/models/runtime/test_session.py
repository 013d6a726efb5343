"""A session gets and returns the same bytes, errors keep their kind, and options arrive."""

from typing import Any

import numpy as np
import pytest

from darkroom.models.errors import InvalidInput, LoadFailed, OutOfMemory, PredictFailed
from darkroom.models.rows import Rows
from darkroom.models.runtime.session import (
    MAX_CALLABLES,
    Binding,
    SessionEngine,
    clean,
    fetched_column,
    open_session,
    translate,
)
from darkroom.models.runtime.tensorflow import SessionOptions, tf
from darkroom.models.spec import SignatureSpec, TensorSpec, Wire


def engine_of(wire: Wire, dtype: str = "string", shape: tuple[int | None, ...] = (None,)) -> SessionEngine:
    """A graph that gives its strings back, and three outputs more."""
    with tf.Graph().as_default() as graph:
        images = tf.compat.v1.placeholder(dtype, shape, name="images")
        tf.identity(images, name="same")
        for name in ("a", "b", "c", "d", "e"):
            tf.size(images, name=name)
    outputs = ("a", "b", "c", "d", "e", "same")
    spec = SignatureSpec(
        "s",
        (TensorSpec("images", dtype, shape),),
        tuple(TensorSpec(name, "int32", None) for name in outputs),
        wire=wire,
        image_input=None if wire is Wire.TENSOR else "images",
    )
    session = open_session(graph.as_graph_def(), SessionOptions())
    return SessionEngine(spec, session, Binding({"images": "images:0"}, {name: f"{name}:0" for name in outputs}))


def test_strings_keep_their_trailing_zero_bytes() -> None:
    given = [b"ab\x00\x00", b"\x00", b""]
    assert engine_of(Wire.BYTES).run(Rows({"images": given}).asking(["same"])).columns["same"] == given


@pytest.mark.parametrize("value", [b"ab\x00", np.float32(0.5), np.array(0.5, np.float32), np.array(b"x", object)])
def test_a_scalar_output_is_an_array_without_dimensions(value: Any) -> None:
    column = fetched_column(value)
    assert isinstance(column, np.ndarray)
    assert column.shape == ()
    assert column[()] == (value[()] if isinstance(value, np.ndarray) else value)


def test_a_graph_that_decodes_base64_gets_the_url_safe_alphabet() -> None:
    column = engine_of(Wire.BASE64).run(Rows({"images": [b"\xfb\xff"]}).asking(["same"])).columns["same"]
    assert column == [b"-_8="]


def test_strings_of_rank_two_keep_their_shape_on_every_wire() -> None:
    given = np.array([[b"\xfb\xff"], [b"a\x00"]], dtype=object)
    for wire, expected in ((Wire.BYTES, given.tolist()), (Wire.BASE64, [[b"-_8="], [b"YQA="]])):
        answer = engine_of(wire, shape=(None, None)).run(Rows({"images": given}).asking(["same"]))
        assert np.asarray(answer.columns["same"]).tolist() == expected


def test_any_number_of_sets_of_outputs_may_be_asked() -> None:
    engine = engine_of(Wire.BYTES)
    names = ["a", "b", "c", "d", "e"]
    for number in range(1, 2 ** len(names)):
        asked = [name for bit, name in enumerate(names) if number >> bit & 1]
        assert set(engine.run(Rows({"images": [b"x"]}).asking(asked)).columns) == set(asked)
    assert 2 ** len(names) > MAX_CALLABLES


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "uint16", "uint8", "bool", "int64", "float64"])
def test_numbers_of_every_width_come_back_as_they_went(dtype: str) -> None:
    engine = engine_of(Wire.TENSOR, dtype, (None, 2))
    rows = SignatureSpec("s", (TensorSpec("images", dtype, (None, 2)),), ()).accept({"images": [[0, 1], [1, 1]]})
    column = np.asarray(engine.run(rows.asking(["same"])).columns["same"])
    assert (str(column.dtype), column.astype(int).tolist()) == (dtype, [[0, 1], [1, 1]])


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (tf.errors.InvalidArgumentError(None, None, "bad"), InvalidInput),
        (tf.errors.ResourceExhaustedError(None, None, "OOM when allocating"), OutOfMemory),
        (MemoryError(), OutOfMemory),
        (tf.errors.InternalError(None, None, "cuDNN launch failure: CUDNN_STATUS_ALLOC_FAILED"), OutOfMemory),
        (tf.errors.InternalError(None, None, "Failed to allocate: CUDA_ERROR_OUT_OF_MEMORY: out of"), OutOfMemory),
        (tf.errors.InternalError(None, None, "CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory"), PredictFailed),
        (tf.errors.OutOfRangeError(None, None, "box_index has values outside [0, batch_size)"), InvalidInput),
        (tf.errors.AbortedError(None, None, "Compute received an exception:Status: 2, message: could"), InvalidInput),
        (tf.errors.AbortedError(None, None, "Compute received an exception:Status: 1, message: could"), PredictFailed),
        (tf.errors.AbortedError(None, None, "Input dims must be <= 5 and >=1"), InvalidInput),
        (tf.errors.AbortedError(None, None, "Step was cancelled"), PredictFailed),
        (tf.errors.InternalError(None, None, "bad"), PredictFailed),
        (tf.errors.FailedPreconditionError(None, None, "bad"), PredictFailed),
        (ZeroDivisionError("bad"), PredictFailed),
    ],
)
def test_only_what_an_input_can_cause_is_the_clients_fault(error: Exception, kind: type[Exception]) -> None:
    assert type(translate(error)) is kind


def test_an_error_that_quotes_bytes_of_the_client_is_its_fault() -> None:
    with pytest.raises(UnicodeDecodeError) as caught:
        b"Could not parse example input, value: 'abc\x89PNG\xff".decode()
    error = translate(caught.value)
    assert type(error) is InvalidInput
    assert str(error).startswith("Could not parse example input")


def test_an_error_of_ours_stays_what_it_is() -> None:
    error = OutOfMemory("full")
    assert translate(error) is error


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Input is empty.\n\t [[{{node map/while/DecodeJpeg}}]]", "Input is empty."),
        (
            "Could not parse example input, value: 'Ch8KDgoBYRIJCgcKBWhlbGxv'\n\t [[{{node ParseExample}}]]",
            "Could not parse example input, value: 'Ch8KDgoBYRIJCgcKBWhlbGxv'",
        ),
        (f"Could not parse example input, value: '{'A' * 400}'", "Could not parse example input"),
        (r"unknown format starting with '\377\330\000abc'", "unknown format"),
        (r"unknown format starting with '\377\330\000", "unknown format"),
        (
            "Graph execution error:\n\nDetected at node 'a'\nbad [Op:DecodeJpeg]\nOriginal stack trace for 'a':\n File",
            "Detected at node 'a' bad",
        ),
        ("{{function_node __wrapped__X}} In[0] ndims must be >= 2", "In[0] ndims must be >= 2"),
        ("x" * 1000, "x" * 256),
    ],
)
def test_messages_lose_tensorflows_nodes_and_the_data_that_they_quote(message: str, expected: str) -> None:
    assert clean(message) == expected


def test_the_session_options_reach_the_session() -> None:
    options = SessionOptions(intra_op_threads=2, inter_op_threads=-1)
    proto = options.with_session_config(
        {
            "log_device_placement": True,
            "allow_soft_placement": False,
            "allow_growth": False,
            "per_process_gpu_memory_fraction": 0.5,
        }
    ).proto()
    assert (proto.intra_op_parallelism_threads, proto.inter_op_parallelism_threads) == (2, -1)
    assert (proto.log_device_placement, proto.allow_soft_placement) == (True, False)
    assert (proto.gpu_options.allow_growth, proto.gpu_options.per_process_gpu_memory_fraction) == (False, 0.5)


def test_a_session_on_the_cpu_touches_no_gpu_and_pins_no_memory_for_one() -> None:
    on_gpu, on_cpu = SessionOptions().proto(), SessionOptions(uses_gpus=False).proto()
    assert ("GPU" in on_gpu.device_count, on_gpu.gpu_options.force_gpu_compatible) == (False, True)
    assert (on_cpu.device_count["GPU"], on_cpu.gpu_options.force_gpu_compatible) == (0, False)


@pytest.mark.parametrize("config", [{"allow_groth": True}, {"allow_growth": "true"}, {"allow_growth": 1}])
def test_a_session_config_that_simple_tensorflow_serving_does_not_have_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(LoadFailed, match=next(iter(config))):
        SessionOptions().with_session_config(config)
