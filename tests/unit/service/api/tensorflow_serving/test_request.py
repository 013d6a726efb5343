from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom.models.errors import InvalidInput
from darkroom.models.spec import SignatureSpec, TensorSpec, Wire
from darkroom.service.api.tensorflow_serving import request as instances
from darkroom.service.errors import CodecError
from tests.pictures import picture, standard

SPEC = SignatureSpec(
    "serving_default",
    inputs=(
        TensorSpec("image", "string", (None,)),
        TensorSpec("number", "int32", (None, 2)),
        TensorSpec("text", "string", None),
    ),
    outputs=(),
    wire=Wire.BYTES,
    image_input="image",
    formats=frozenset({"png"}),
)
NAMES = [tensor.name for tensor in SPEC.inputs]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(NAMES),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*NAMES, "b64"]) | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.lists(st.fixed_dictionaries(dict.fromkeys(NAMES, JSON)), min_size=1, max_size=4))
def test_rows_become_columns_with_every_value_in_its_place(rows: list[dict[str, Any]]) -> None:
    columns = instances.rows_to_columns(rows, NAMES, NAMES)
    assert [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)] == rows


@given(JSON, st.sampled_from([NAMES, NAMES[:1]]))
def test_whatever_json_stands_for_the_inputs_is_columns_or_a_refusal(value: object, names: list[str]) -> None:
    spec = SignatureSpec("s", SPEC.inputs[: len(names)], (), wire=SPEC.wire, image_input="image")
    for read in (instances.rows_to_columns, instances.inputs_to_columns):
        try:
            columns: dict[str, Any] = read(value, names, names)
            rows = spec.accept(instances.decode_strings(columns, spec), strict=True)
        except (CodecError, InvalidInput) as err:
            assert 0 < len(str(err)) < 1000  # noqa: PT017 - both ends are right
        else:
            assert list(rows.columns) == names


@given(JSON)
def test_whatever_json_stands_for_the_examples_is_a_list_or_a_refusal(value: object) -> None:
    try:
        examples, _ = instances.parse_examples({"examples": value, "context": value})
    except CodecError as err:
        assert str(err)  # noqa: PT017 - both ends are right
    else:
        assert isinstance(value, list)
        assert len(examples) == len(value)


def test_strings_are_decoded_by_what_their_input_takes() -> None:
    data = picture(1)
    columns = {
        "image": [standard(data), {"b64": standard(data)}],
        "number": [[1, 2]],
        "text": ["YQ==", {"b64": "YQ=="}],
    }
    decoded = instances.decode_strings(columns, SPEC)
    assert decoded == {"image": [data, data], "number": [[1, 2]], "text": ["YQ==", b"a"]}


def test_values_nested_too_deep_are_refused() -> None:
    deep: Any = "x"
    for _ in range(5000):
        deep = [deep]
    for name in ("image", "text"):
        with pytest.raises(CodecError, match=f"{name}: is nested too deep"):
            instances.decode_strings({"image": [], "number": [], "text": []} | {name: deep}, SPEC)
    with pytest.raises(CodecError, match=r"examples\[0\]: is nested too deep"):
        instances.parse_examples({"examples": [{"x": deep}]})
