"""A signature that cannot be served is that signature's refusal: the others are prepared, and the metadata has them all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from darkroom.models.errors import LoadFailed
from darkroom.models.rewriting.prepare import prepare
from darkroom.models.runtime.tensorflow import SessionOptions, saved_model_pb2
from tests.savedmodels import linear

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def lose_an_output(_: Any, signature: Any) -> None:
    next(iter(signature.outputs.values())).name = "nowhere:0"


def lose_an_input(_: Any, signature: Any) -> None:
    next(iter(signature.inputs.values())).name = "nowhere:0"


def have_no_outputs(_: Any, signature: Any) -> None:
    signature.outputs.clear()


def call_python(graph: Any, signature: Any) -> None:
    node = graph.node.add(name="python", op="EagerPyFunc")
    node.attr["token"].s = b"pyfunc_0"
    node.attr["Tin"].list.SetInParent()
    node.attr["Tout"].list.type.append(1)  # DT_FLOAT
    next(iter(signature.outputs.values())).name = "python:0"


def have_an_odd_type(_: Any, signature: Any) -> None:
    next(iter(signature.outputs.values())).dtype = 21  # DT_VARIANT


ODD = [
    (lose_an_output, "the graph has no tensor 'nowhere:0'"),
    (lose_an_input, "the graph has no tensor 'nowhere:0'"),
    (have_no_outputs, "it has no output"),
    (call_python, "it calls Python code (EagerPyFunc), which a SavedModel does not contain"),
    (have_an_odd_type, "which has no form on the wire"),
]


def edit(folder: Path, change: Callable[[Any, Any], None], *, name: str) -> None:
    """Adds a signature `name`, a copy of the default one with `change` applied; or changes the default one itself."""
    file = folder / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    meta_graph = saved.meta_graphs[0]
    signature = meta_graph.signature_def[name]
    signature.CopyFrom(meta_graph.signature_def["serving_default"])
    change(meta_graph.graph_def, signature)
    file.write_bytes(saved.SerializeToString())


@pytest.mark.parametrize(("change", "reason"), ODD, ids=lambda each: getattr(each, "__name__", ""))
def test_an_odd_signature_is_refused_and_the_others_are_served(
    tmp_path: Path, change: Callable[[Any, Any], None], reason: str
) -> None:
    folder = linear(tmp_path / "1")
    edit(folder, change, name="odd")
    spec = prepare(folder, name="m", version=1, options=SessionOptions()).spec
    assert list(spec.signatures) == ["serving_default"]
    assert reason in spec.refused["odd"]
    assert set(spec.unserved) >= {"odd"}
    assert set(spec.unserved["odd"]) == {"inputs", "outputs", "method_name", "defaults"}


def test_a_model_whose_only_signature_is_odd_says_why(tmp_path: Path) -> None:
    folder = linear(tmp_path / "1")
    edit(folder, call_python, name="serving_default")
    with pytest.raises(LoadFailed, match="serving_default: it calls Python code"):
        prepare(folder, name="m", version=1, options=SessionOptions())
