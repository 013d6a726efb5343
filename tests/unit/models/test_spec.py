"""What a signature accepts, strict and not strict. The answers of Simple TensorFlow Serving were recorded from it."""

import re
from typing import Any

import numpy as np
import pytest

from darkroom.models.engines.fakes import ECHO
from darkroom.models.errors import InvalidInput
from darkroom.models.spec import DTYPES, Numbers, SignatureSpec, TensorSpec, exact, gather, lenient, np_shape

TEMPLATE = SignatureSpec(
    name="serving_default",
    inputs=(TensorSpec("features", "float32", (None, 9)), TensorSpec("keys", "int32", (None, 1))),
    outputs=(
        TensorSpec("classes", "string", (None,)),
        TensorSpec("keys", "int32", (None, 1)),
        TensorSpec("softmax", "float32", (None, 2)),
        TensorSpec("boxes", "float32", (None, None, 4)),
        TensorSpec("any", "int64", None),
    ),
)
NINE = [1.0] * 9


def one(dtype: str, shape: tuple[int | None, ...] | None = (None,)) -> SignatureSpec:
    return SignatureSpec("s", (TensorSpec("x", dtype, shape),), ())


def test_a_request_of_every_input_becomes_columns_of_their_dtypes_and_shapes() -> None:
    rows = TEMPLATE.accept({"keys": [[1], [2]], "features": [NINE, NINE], "extra": object()})
    keys, features = rows.columns["keys"], rows.columns["features"]
    assert isinstance(keys, np.ndarray)
    assert isinstance(features, np.ndarray)
    assert (str(keys.dtype), keys.tolist()) == ("int32", [[1], [2]])
    assert (str(features.dtype), features.shape) == ("float32", (2, 9))
    assert (len(rows), rows.aligned, set(rows.columns)) == (2, True, {"keys", "features"})


@pytest.mark.parametrize(
    ("keys", "expected"),
    [([["1"]], 1), ([[1.7]], 1), ([[99999999999]], 1215752191), ([[True]], 1)],
    ids=["a numeric string", "a float, truncated", "an integer that wraps round", "a boolean"],
)
def test_the_lenient_manner_casts_as_numpy_casts(keys: object, expected: int) -> None:
    column = TEMPLATE.accept({"keys": keys, "features": [NINE]}).columns["keys"]
    assert np.asarray(column).tolist() == [[expected]]


@pytest.mark.parametrize("keys", [[["1"]], [[1.7]], [[99999999999]], [[True]], [[None]], [[{"b64": "x"}]], [[1.0]]])
def test_the_strict_manner_refuses_what_is_not_of_the_kind(keys: object) -> None:
    with pytest.raises(InvalidInput, match="keys"):
        TEMPLATE.accept({"keys": keys, "features": [NINE]}, strict=True)


def test_the_strict_manner_takes_an_integer_for_a_float() -> None:
    rows = TEMPLATE.accept({"keys": [[1]], "features": [[1] * 9]}, strict=True)
    assert np.asarray(rows.columns["features"]).dtype == np.float32


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    ("keys", "features", "message"),
    [
        ([[1], [2]], [NINE, [1, 2]], r"'features' is ragged: features\[1\] is a list of 2, and .*\[0\] is a list of 9"),
        ([[1], [2]], [[NINE], [NINE, 1]], r"'features' is ragged: features\[1\] is a list of 2"),
        ([[1], 2], [NINE], r"'keys' is ragged: keys\[1\] is no list"),
        ([1, [2]], [NINE], r"'keys' is ragged: keys\[1\] is a list of 1, and keys\[0\] is no list"),
        ([[[1, 2], [3, 4]], [[1, 2], [3]]], [NINE], r"'keys' is ragged: keys\[1\]\[1\] is a list of 1"),
        ([["a"]], [NINE], r"keys\[0\]\[0\]: expected .* got str"),
        ([[1], [{}]], [NINE], r"keys\[1\]\[0\]: expected .* got dict"),
        (None, [NINE], "keys: expected .* got NoneType"),
    ],
)
def test_values_that_cannot_be_read_are_refused_with_their_place(
    *, strict: bool, keys: object, features: object, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        TEMPLATE.accept({"keys": keys, "features": features}, strict=strict)
    assert caught.value.input_name in {"keys", "features"}


def test_a_missing_input_is_named() -> None:
    with pytest.raises(InvalidInput, match="'features' is missing"):
        TEMPLATE.accept({"keys": [[1]]})


@pytest.mark.parametrize("keys", [[1], [], [[[1]]], [[1, 2]], 1])
def test_the_lenient_manner_refuses_a_shape_that_is_not_the_signatures(keys: object) -> None:
    with pytest.raises(InvalidInput, match=r"'keys' has shape .*, the signature wants \(-1, 1\)"):
        TEMPLATE.accept({"keys": keys, "features": [NINE]})


CONV = TensorSpec("x", "float32", (None, 8, 8, 3))
OPEN = TensorSpec("x", "float32", (None, None, None, 3))


def spec_of(tensor: TensorSpec, *, batched: bool = True, any_shape: bool = False) -> SignatureSpec:
    return SignatureSpec("s", (tensor,), (), batched=batched, any_shape=any_shape)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("tensor", "shape"),
    [
        (CONV, ()),
        (CONV, (1,)),
        (CONV, (1, 1, 3)),
        (CONV, (8, 8, 3)),
        (CONV, (1, 1, 8, 8, 3)),
        (CONV, (1, 8, 8, 4)),
        (CONV, (1, 8, 0, 3)),
        (CONV, (0, 8, 7, 3)),
        (OPEN, (1, 0, 5, 3)),
        (OPEN, (1, 5, 0, 3)),
        (OPEN, (0, 5, 3)),
        (TensorSpec("x", "float32", ()), (1,)),
        (TensorSpec("x", "float32", (4,)), (0,)),
        (TensorSpec("x", "string", (None, 2)), (3,)),
    ],
)
def test_a_shape_that_is_not_the_signatures_never_reaches_the_graph(
    tensor: TensorSpec, shape: tuple[int, ...], strict: bool
) -> None:
    raw = np.full(shape, b"", object) if tensor.dtype == "string" else np.zeros(shape, np.float32)
    want = re.escape(str(tuple(-1 if size is None else size for size in tensor.shape or ())))
    with pytest.raises(
        InvalidInput, match=rf"'x' has shape {re.escape(str(shape))}, the signature wants {want}"
    ) as err:
        spec_of(tensor).accept({"x": raw}, strict=strict)
    assert err.value.input_name == "x"


def test_more_elements_than_tensorflow_can_index_are_refused() -> None:
    raw = np.broadcast_to(np.uint8(0), (1 << 16, 1 << 16))
    with pytest.raises(InvalidInput, match="more than 2147483647 elements"):
        one("uint8", (None, None)).accept({"x": raw}, strict=True)


@pytest.mark.parametrize("shape", [(3,), (2, 2), (1, 0), (), (2,) * 8])
def test_a_graph_of_any_shape_is_fed_another_one_in_the_strict_manner_alone_and_rides_alone(
    shape: tuple[int, ...],
) -> None:
    spec = spec_of(TensorSpec("x", "float32", (None, 1)), any_shape=True)
    rows = spec.accept({"x": np.zeros(shape, np.float32)}, strict=True)
    assert not rows.aligned
    with pytest.raises(InvalidInput, match="the signature wants"):
        spec.accept({"x": np.zeros(shape, np.float32)})
    with pytest.raises(InvalidInput, match="the signature wants"):
        spec.accept({"x": np.zeros((1,) * 9, np.float32)}, strict=True)


def test_an_unknown_rank_is_left_to_the_graph() -> None:
    for shape in [(), (0,), (2, 0, 3), (1,) * 20]:
        rows = one("float32", None).accept({"x": np.zeros(shape, np.float32)}, strict=True)
        assert isinstance(rows.columns["x"], np.ndarray)
        assert rows.columns["x"].shape == shape


@pytest.mark.parametrize("shape", [(0,), (0, 8, 8, 3)])
def test_a_request_without_rows_has_no_rows_whatever_its_inner_shape(shape: tuple[int, ...]) -> None:
    assert len(spec_of(CONV).accept({"x": np.zeros(shape, np.float32)}, strict=True)) == 0


def test_no_rows_beside_rows_of_another_input_are_refused() -> None:
    raw = {"keys": np.zeros((0, 1), np.int32), "features": [NINE]}
    with pytest.raises(InvalidInput, match="dimension 0 must be 1 or more"):
        TEMPLATE.accept(raw, strict=True)


@pytest.mark.parametrize("strict", [True, False])
def test_a_tensor_of_a_signature_that_is_not_batched_is_one_row_whatever_its_first_size(strict: bool) -> None:
    spec = spec_of(TensorSpec("x", "uint8", (None, None, 3)), batched=False)
    rows = spec.accept({"x": np.zeros((1080, 7, 3), np.uint8)}, strict=strict)
    assert (len(rows), rows.aligned) == (1, False)
    for shape in [(0, 5, 3), (5, 0, 3), (1, 5, 5, 3)]:
        with pytest.raises(InvalidInput, match="the signature wants"):
            spec.accept({"x": np.zeros(shape, np.uint8)}, strict=strict)


def test_columns_of_different_lengths_ride_alone() -> None:
    rows = TEMPLATE.accept({"keys": [[1], [2]], "features": [NINE]})
    assert (len(rows), rows.aligned) == (2, False)


def test_a_scalar_input_is_one_row_that_rides_alone() -> None:
    rows = one("float32", ()).accept({"x": 1.5})
    assert (len(rows), rows.aligned) == (1, False)


def test_strings_become_bytes_and_a_flat_list_of_bytes_is_not_copied() -> None:
    pictures = [b"\x00", b"a\x00"]
    assert ECHO.accept({"images": pictures}).columns["images"] is pictures
    assert ECHO.accept({"images": ["ä", b"b"]}).columns["images"] == ["ä".encode(), b"b"]


def test_strings_of_another_rank_keep_their_zero_bytes() -> None:
    column = one("string", (None, 2)).accept({"x": [[b"a\x00", "b"], ["c", b""]]}).columns["x"]
    assert np.asarray(column).tolist() == [[b"a\x00", b"b"], [b"c", b""]]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([b"a", 1], r"x\[1\]: expected a string, got int"),
        ([{"b64": "a"}], r"x\[0\]: expected a string, got dict"),
        (["\ud800"], r"x\[0\] is not UTF-8"),
        ([["a"], ["b", "c"]], "ragged"),
        (["a", ["b"]], "expected a string|ragged"),
        ([None], r"x\[0\]: expected a string, got NoneType"),
    ],
)
def test_what_is_no_string_is_refused(raw: object, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        one("string").accept({"x": raw}, strict=True)


def test_string_arrays_are_taken_too() -> None:
    assert one("string").accept({"x": np.array([b"a", b"b"], dtype=object)}).columns["x"] == [b"a", b"b"]


@pytest.mark.parametrize("dtype", sorted(DTYPES.keys() - {"string"}))
def test_every_dtype_is_cast_to_in_both_manners(dtype: str) -> None:
    raw = [True, False] if dtype == "bool" else [0, 1]
    for strict in (False, True):
        assert str(np.asarray(one(dtype).accept({"x": raw}, strict=strict).columns["x"]).dtype) == dtype


def test_an_array_of_its_dtype_is_not_copied() -> None:
    array = np.zeros((2, 4), np.float32)
    assert one("float32", (None, 4)).accept({"x": array}, strict=True).columns["x"] is array


def test_the_strict_manner_refuses_an_array_that_would_lose_values() -> None:
    with pytest.raises(InvalidInput, match="'x' is int32, not float64"):
        one("int32").accept({"x": np.zeros(2)}, strict=True)


def test_a_float_that_is_too_large_becomes_infinite_without_a_warning_and_is_refused_in_the_strict_manner() -> None:
    assert np.isinf(np.asarray(one("float32").accept({"x": [1e300]}).columns["x"])).all()
    for dtype, value in (("float32", 1e300), ("float16", 70_000), ("bfloat16", -1e300)):
        with pytest.raises(InvalidInput, match=f"input 'x': a value is out of range for {dtype}"):
            one(dtype).accept({"x": [1.0, value, float("inf")]}, strict=True)


def test_infinity_itself_is_a_float_in_the_strict_manner() -> None:
    column = one("float32").accept({"x": [float("inf"), 1.0, float("-inf")]}, strict=True).columns["x"]
    assert np.array_equal(np.asarray(column), [np.inf, 1.0, -np.inf])


@pytest.mark.parametrize("value", [10**400, 2**70, float("nan"), float("inf")])
def test_a_number_that_no_integer_holds_is_refused(value: float) -> None:
    with pytest.raises(InvalidInput, match="'x'"):
        one("int64").accept({"x": [value]})


def test_deep_nesting_is_refused() -> None:
    raw: object = 1.0
    for _ in range(500):
        raw = [raw]
    for strict in (False, True):
        with pytest.raises(InvalidInput):
            one("float32").accept({"x": raw}, strict=strict)


def test_an_empty_request_has_empty_outputs_of_the_right_dtypes_and_inner_shapes() -> None:
    empty = TEMPLATE.empty()
    assert len(empty) == 0
    assert empty.columns["classes"] == []
    shapes = {name: np.asarray(empty.columns[name]).shape for name in ("keys", "softmax", "boxes", "any")}
    assert shapes == {"keys": (0, 1), "softmax": (0, 2), "boxes": (0, 0, 4), "any": (0,)}
    assert np.asarray(empty.columns["keys"]).dtype == np.int32
    assert set(TEMPLATE.empty(["softmax"]).columns) == {"softmax"}


def test_outputs_that_do_not_exist_are_refused() -> None:
    TEMPLATE.check_outputs(["softmax", "keys"])
    with pytest.raises(InvalidInput, match="unknown output 'probability'; there are: classes, keys"):
        TEMPLATE.check_outputs(["probability"])


def test_tensorflows_number_and_name_of_a_dtype_tell_a_reference_apart() -> None:
    assert (TensorSpec("x", "float32", None).enum, TensorSpec("x", "float32", None).enum_name) == (1, "DT_FLOAT")
    reference = TensorSpec("x", "float32", None, is_ref=True)
    assert (reference.enum, reference.enum_name) == (101, "DT_FLOAT_REF")


KINDS = ["float32", "float16", "float64", "bfloat16", "uint8", "int8", "int32", "int64", "uint64", "bool", "string"]
VALUES = [
    [[1, 2], [3, 4]], [0, 300, -5], [0.5, 1.0], [1, 2.5], [1e39, 1.0], [float("nan"), 1.0], [float("inf"), 2.0],
    [2**40, 1], [-1, 0], [1e20, 5.0], [[[1, 0]]],
]  # fmt: skip


@pytest.mark.parametrize("cast", [exact, lenient])
@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("values", VALUES, ids=str)
def test_numbers_are_cast_as_the_lists_that_they_stand_for(cast: Any, dtype: str, values: list[Any]) -> None:
    leaves = list(np.array(values, dtype=object).ravel())
    first = next((at for at, value in enumerate(leaves) if isinstance(value, float)), -1)
    numbers = Numbers(np.array(values), first)
    wanted, cause = _cast(cast, values, dtype)
    column, told = _cast(cast, numbers, dtype)
    assert told.replace("float", "int") == cause.replace("float", "int")  # beside floats an integer is told as one
    if wanted is not None and column is not None:
        assert column.dtype == wanted.dtype
        wide = object if dtype == "string" else np.float64
        assert np.array_equal(column.astype(wide), wanted.astype(wide), equal_nan=True)


def _cast(cast: Any, values: object, dtype: str) -> tuple[Any, str]:
    """The column, or None and the message."""
    try:
        return cast(values, dtype, "x"), ""
    except InvalidInput as err:
        return None, f"{err} ({err.index})"


def test_rows_of_numbers_are_gathered_and_those_beside_lists_are_lists_again() -> None:
    def row(*values: float) -> Numbers:
        return Numbers(np.array(values), 0 if isinstance(values[0], float) else -1)

    whole = gather([row(1, 2), row(3.5, 4.0)])
    assert isinstance(whole, Numbers)
    assert (whole.array.tolist(), whole.first_float, len(whole)) == ([[1.0, 2.0], [3.5, 4.0]], 2, 2)
    assert gather([row(1, 2), [3, 4]]) == [[1, 2], [3, 4]]
    assert gather([row(1, 2), row(3)]) == [[1, 2], [3]]
    assert gather([[1], [2]]) == [[1], [2]]


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
@pytest.mark.parametrize("value", [b"a", [b"a"], [[b"a"]]], ids=["scalar", "list", "nested"])
def test_one_string_fits_an_input_with_room_for_one_however_deep_it_is_nested(
    shape: tuple[int, ...], value: object
) -> None:
    spec = SignatureSpec("s", (TensorSpec("x", "string", shape),), (), image_input="x", batched=False)
    column = spec.accept({"x": value}).columns["x"]
    assert np.array(column, dtype=object).tolist() == np.full(shape, b"a", dtype=object).tolist()
    assert np_shape(column) == shape
    with pytest.raises(InvalidInput, match=r"has shape \(2,\)"):
        spec.accept({"x": [b"a", b"b"]})
