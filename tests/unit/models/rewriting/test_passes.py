"""Each pass on graphs; and a wrong rewrite, which is found, dropped and reported."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkroom.models.engine import PassReport
from darkroom.models.engines.fakes import ECHO, EchoEngine
from darkroom.models.engines.open import open_artifact, prepare
from darkroom.models.engines.row_prefix import ROW_PREFIX
from darkroom.models.engines.sharded import SHARD
from darkroom.models.graph.reachability import GraphTraits
from darkroom.models.rewriting.passes import PASSES, BoundSignature, Pass, hoist_base64
from darkroom.models.rewriting.rewriter import Rewriter
from darkroom.models.rows import Rows
from darkroom.models.runtime.session import Binding
from darkroom.models.runtime.tensorflow import SessionOptions, tf
from darkroom.models.spec import SignatureSpec, TensorSpec, Wire
from tests import savedmodels

Built = Callable[[Callable[[Path], Path]], Path]
OPTIONS = SessionOptions()
SPEC = SignatureSpec("s", (TensorSpec("images", "string", (None,)),), (), wire=Wire.BASE64, image_input="images")


def graph_of(build: Callable[[], Any]) -> Any:
    """The GraphDef of what `build` makes in an empty graph."""
    with tf.Graph().as_default() as graph:
        build()
    return graph.as_graph_def()


def strings(name: str = "images") -> Any:
    return tf.compat.v1.placeholder(tf.string, [None], name=name)


def decode(data: Any) -> Any:
    return tf.identity(tf.io.decode_base64(data), name="decoded")


def hoist(graph_def: Any, **fetches: str) -> tuple[Any, str]:
    """The rewritten graph, and why it is not (empty where it is)."""
    target = BoundSignature(SPEC, Binding({"images": "images:0"}, fetches))
    hoisted, reasons = hoist_base64(graph_def, {"s": target}, {"s"})
    return hoisted, reasons.get("s", "")


def hoist_both(graph_def: Any, first: str, second: str, wanted: set[str]) -> tuple[Any, dict[str, str]]:
    """The same for two signatures with an image input each."""
    feeds = {"one": first, "two": second}
    targets = {name: BoundSignature(SPEC, Binding({"images": source}, {})) for name, source in feeds.items()}
    return hoist_base64(graph_def, targets, wanted)


def ops(graph_def: Any) -> list[str]:
    inside = [node.op for function in graph_def.library.function for node in function.node_def]
    return [node.op for node in graph_def.node] + inside


def test_hoisting_leaves_its_argument_and_takes_the_op_out_of_a_copy() -> None:
    graph_def = graph_of(lambda: decode(strings()))
    before = graph_def.SerializeToString(deterministic=True)
    assert "DecodeBase64" not in ops(hoist(graph_def)[0])
    assert graph_def.SerializeToString(deterministic=True) == before


def test_hoisting_reaches_into_functions() -> None:
    body = tf.function(decode).get_concrete_function(tf.TensorSpec([], tf.string))

    def build() -> None:
        tf.raw_ops.MapDefun(
            arguments=[strings()], captured_inputs=[], output_types=[tf.string], output_shapes=[[]], f=body
        )

    graph_def = graph_of(build)
    assert "DecodeBase64" in ops(graph_def)
    assert "DecodeBase64" not in ops(hoist(graph_def)[0])


def read_twice() -> None:
    images = strings()
    decode(images)
    tf.strings.length(images)


def mixed_before() -> None:
    decode(tf.concat([strings(), ["YQ"]], axis=0))


def chosen_before() -> None:
    decode(tf.where(tf.equal(strings("other"), "x"), strings(), strings("third")))


def shared_loop() -> None:
    body = tf.function(decode).get_concrete_function(tf.TensorSpec([], tf.string))
    for name in ("images", "other"):
        tf.raw_ops.MapDefun(
            arguments=[strings(name)], captured_inputs=[], output_types=[tf.string], output_shapes=[[]], f=body
        )


def replaced_in_a_loop() -> None:
    def body(at: Any, text: Any) -> Any:
        decode(text)
        return at + 1, tf.constant(["YQ"])

    tf.while_loop(
        lambda at, _: at < 2, body, [0, strings()], shape_invariants=[tf.TensorShape([]), tf.TensorShape([None])]
    )


def joined_branches() -> None:
    images = strings()
    decode(tf.cond(tf.size(images) > 1, lambda: images, lambda: tf.constant(["YQ"])))


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: tf.identity(strings()), "do not reach DecodeBase64"),
        (read_twice, "also reach StringLength"),
        (mixed_before, "also reach ConcatV2"),
        (chosen_before, "also reach SelectV2"),
        (shared_loop, "beside other strings"),
        (joined_branches, "beside other strings"),
        (replaced_in_a_loop, "beside other strings"),
    ],
)
def test_base64_stays_where_taking_it_out_would_change_something(build: Callable[[], Any], reason: str) -> None:
    graph_def = graph_of(build)
    hoisted, found = hoist(graph_def)
    assert reason in found
    assert ops(hoisted) == ops(graph_def)


def test_base64_stays_where_the_text_itself_is_an_output() -> None:
    def build() -> None:
        images = strings()
        decode(images)
        tf.identity(images, name="echo")

    assert "also reach the outputs" in hoist(graph_of(build), echo="echo:0")[1]


def test_signatures_that_share_a_decoder_are_hoisted_together_or_not_at_all() -> None:
    graph_def = graph_of(shared_loop)
    hoisted, reasons = hoist_both(graph_def, "images:0", "other:0", {"one", "two"})
    assert reasons == {}
    assert "DecodeBase64" not in ops(hoisted)
    hoisted, reasons = hoist_both(graph_def, "images:0", "other:0", {"one"})
    assert reasons == {"one": "its DecodeBase64 serves another input too"}
    assert "DecodeBase64" in ops(hoisted)


def test_signatures_that_share_an_input_are_hoisted_together_or_not_at_all() -> None:
    graph_def = graph_of(lambda: decode(strings()))
    assert hoist_both(graph_def, "images:0", "images:0", {"one", "two"})[1] == {}
    hoisted, reasons = hoist_both(graph_def, "images:0", "images:0", {"two"})
    assert reasons == {"two": "another signature's input is the same"}
    assert "DecodeBase64" in ops(hoisted)


def test_looking_at_the_number_of_strings_is_not_looking_at_them() -> None:
    def build() -> None:
        images = strings()
        tf.shape(images)
        tf.size(images)
        decode(images)

    assert "DecodeBase64" not in ops(hoist(graph_of(build))[0])


def doubles(graph_def: Any, *_: object) -> tuple[Any, dict[str, str]]:
    """A wrong rewrite: the softmax of the classes is taken of twice their logits."""
    changed = type(graph_def)()
    changed.CopyFrom(graph_def)
    for node in changed.node:
        if node.op == "Softmax":
            double = changed.node.add(name="twice", op="AddV2", input=[node.input[0], node.input[0]])
            double.attr["T"].type = 1
            node.input[0] = "twice"
    return changed, {}


def breaks(graph_def: Any, *_: object) -> tuple[Any, dict[str, str]]:
    """A rewrite whose graph TensorFlow cannot even make."""
    changed = type(graph_def)()
    changed.CopyFrom(graph_def)
    changed.node[0].op = "NoSuchOp"
    return changed, {}


def raises(*_: object) -> tuple[Any, dict[str, str]]:
    """A rewrite that fails."""
    raise ZeroDivisionError("oops")


def answer(path: Path, passes: tuple[tuple[str, Pass], ...]) -> tuple[tuple[PassReport, ...], "np.ndarray[Any, Any]"]:
    model = open_artifact(prepare(path, name="model", version=1, options=OPTIONS, passes=passes), OPTIONS)
    engine = model.engines["serving_default"]
    (rows, *_) = model.samples["serving_default"]
    softmax = np.asarray(engine.run(rows).columns["softmax"])
    model.close()
    the_machines = (SHARD, ROW_PREFIX)
    return tuple(report for report in engine.passes if report.name not in the_machines), softmax


@pytest.mark.parametrize("wrong", [doubles, breaks, raises])
def test_a_wrong_rewrite_is_caught_dropped_and_reported(
    built: Built, wrong: Pass, caplog: pytest.LogCaptureFixture
) -> None:
    path = built(savedmodels.classic)
    _, expected = answer(path, PASSES)
    with caplog.at_level(logging.WARNING, "darkroom.models"):
        reports, got = answer(path, (*PASSES, ("wrong", wrong)))
    assert [(report.name, report.applied) for report in reports] == [
        ("freeze", True),
        ("inline", True),
        ("hoist_base64", True),
        ("wrong", False),
        ("screen", True),
    ]
    assert reports[3].reason.startswith(("its answer is not the original's", "it fails: oops"))
    assert "pass wrong is dropped" in caplog.text
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_an_artifact_names_the_tensors_and_holds_no_variable(built: Built) -> None:
    artifact = prepare(built(savedmodels.classic), name="model", version=7, options=OPTIONS)
    graph_def = tf.compat.v1.GraphDef.FromString(artifact.graph)
    assert artifact.spec.version == 7
    assert artifact.bindings["serving_default"].feeds == {"images": "model_input_b64_images:0"}
    assert not {"VariableV2", "VarHandleOp", "DecodeBase64", "RestoreV2"} & set(ops(graph_def))
    assert all(isinstance(rows, Rows) for rows in artifact.samples["serving_default"])


class Unfreezable:
    """A SavedModel that is too large for one protobuf."""

    def engine(self, spec: SignatureSpec, passes: tuple[PassReport, ...] = ()) -> EchoEngine:
        del passes
        return EchoEngine(spec)

    def freeze(self, specs: object) -> Any:  # noqa: ARG002 - the protocol's argument
        raise ValueError("Cannot create a tensor proto whose content is larger than 2GB.")

    def close(self) -> None: ...


def test_a_model_that_cannot_be_frozen_is_served_as_it_is() -> None:
    rewriter = Rewriter(Unfreezable(), {"s": ECHO}, {"s": GraphTraits()}, OPTIONS, PASSES)
    rewriter.apply_passes({"s": [Rows({"images": [b"a"]}), Rows({"images": [b"bb"]})]})
    freeze, _, hoisted, _ = rewriter.reports()["s"]
    assert freeze.reason == "it cannot be frozen: Cannot create a tensor proto whose content is larger than 2GB."
    assert (hoisted.applied, hoisted.reason) == (False, "the graph is not frozen")
    assert isinstance(rewriter.engine("s").engine, EchoEngine)
    assert (rewriter.serialized(), rewriter.bindings) == (b"", {})
