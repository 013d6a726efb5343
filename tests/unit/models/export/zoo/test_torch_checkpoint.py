"""The torch reader on checkpoints written here byte by byte: valid, hostile and truncated."""

import pickle
import struct
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom.models.export.zoo.torch_checkpoint import CheckpointError, parse_tensors

MAGIC: Final = 0x1950A86A20F9469CFC6C
FACTS: Final = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(number(value) for value in values) + b"t"


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def storage(key: str, kind: str, elements: int) -> bytes:
    return b"(" + text("storage") + name("torch", kind) + text(key) + text("cpu") + number(elements) + b"Nt" + b"Q"


def tensor(stored: bytes, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
    arguments = stored + number(offset) + numbers(*shape) + numbers(*strides)
    hooks = name("collections", "OrderedDict") + b")R"
    return name("torch._utils", "_rebuild_tensor_v2") + b"(" + arguments + b"\x89" + hooks + b"tR"


def state_dict(**tensors: bytes) -> bytes:
    items = b"".join(text(key) + value for key, value in tensors.items())
    return b"\x80\x02" + name("collections", "OrderedDict") + b")R(" + items + b"u."


def checkpoint(state: bytes, storages: dict[str, np.ndarray], *, magic: int = MAGIC, facts: object = None) -> bytes:
    header = [pickle.dumps(part, 2) for part in (magic, 1001, FACTS if facts is None else facts)]
    raw = b"".join(struct.pack("<q", array.size) + array.tobytes() for array in storages.values())
    return b"".join(header) + state + pickle.dumps(list(storages), 2) + raw


VALUES = np.arange(12, dtype="<f4")
ONE_TENSOR = checkpoint(
    state_dict(weight=tensor(storage("a", "FloatStorage", 12), 0, (3, 4), (4, 1))),
    {"a": VALUES},
)


def one(offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray:
    state = state_dict(weight=tensor(storage("a", "FloatStorage", 12), offset, shape, strides))
    return parse_tensors(checkpoint(state, {"a": VALUES}))["weight"]


def test_tensors_come_back_by_name_and_in_order() -> None:
    state = state_dict(
        weight=tensor(storage("a", "FloatStorage", 12), 0, (3, 4), (4, 1)),
        steps=tensor(storage("b", "LongStorage", 1), 0, (), ()),
    )
    tensors = parse_tensors(checkpoint(state, {"b": np.array([7], "<i8"), "a": VALUES}))
    assert list(tensors) == ["weight", "steps"]
    np.testing.assert_array_equal(tensors["weight"], VALUES.reshape(3, 4))
    assert tensors["steps"].shape == ()
    assert tensors["steps"] == 7


def test_offsets_and_strides_are_followed() -> None:
    np.testing.assert_array_equal(one(0, (4, 3), (1, 4)), VALUES.reshape(3, 4).T)
    np.testing.assert_array_equal(one(5, (2, 2), (4, 1)), [[5, 6], [9, 10]])


def test_an_empty_tensor_is_read() -> None:
    assert one(0, (0, 4), (4, 1)).shape == (0, 4)


def test_two_tensors_may_share_a_storage_and_are_arrays_of_their_own() -> None:
    stored = storage("a", "FloatStorage", 12)
    state = state_dict(one=tensor(stored, 0, (12,), (1,)), two=tensor(stored, 6, (6,), (1,)))
    tensors = parse_tensors(checkpoint(state, {"a": VALUES}))
    tensors["one"][:] = 0
    np.testing.assert_array_equal(tensors["two"], VALUES[6:])


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (1, (12,), (1,)),
        (0, (3, 4), (5, 1)),
        (0, (13,), (0,)),
        (0, (2**31 - 1,), (0,)),
        (0, (3, 4), (4,)),
        (12, (1,), (1,)),
    ],
)
def test_a_tensor_that_does_not_fit_its_storage_is_refused(
    offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    with pytest.raises(CheckpointError, match="weight: "):
        one(offset, shape, strides)


@pytest.mark.parametrize(
    ("offset", "shape", "strides"), [(-1, (3,), (1,)), (0, (-3,), (1,)), (11, (3,), (-1,))], ids=str
)
def test_negative_sizes_are_refused(offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    with pytest.raises(CheckpointError, match="isn't"):
        one(offset, shape, strides)


HOSTILE = [
    ("os", "system"),
    ("posix", "system"),
    ("builtins", "eval"),
    ("__builtin__", "eval"),
    ("subprocess", "Popen"),
    ("torch", "load"),
    ("torch._utils", "_rebuild_parameter"),
    ("collections", "deque"),
    ("collections.OrderedDict", "OrderedDict"),
    ("numpy", "load"),
]


@pytest.mark.parametrize(("module", "attribute"), HOSTILE)
def test_every_other_global_is_refused_and_nothing_runs(tmp_path: Path, module: str, attribute: str) -> None:
    mark = tmp_path / "ran"
    call = name(module, attribute) + b"(" + text(f"touch {mark}") + b"tR"
    with pytest.raises(CheckpointError, match=f"{module}.{attribute}.*refused"):
        parse_tensors(checkpoint(state_dict(weight=call), {}))
    assert not mark.exists()


def test_a_pickle_that_would_run_as_it_is_does_not_run_here(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    hostile = b"\x80\x02" + name("posix", "system") + b"(" + text(f"touch {mark}") + b"tR."
    with pytest.raises(CheckpointError, match="refused"):
        parse_tensors(checkpoint(hostile, {}))
    assert not mark.exists()
    pickle.loads(hostile)  # noqa: S301 - shows that the same bytes do run in a plain unpickler
    assert mark.exists()


@pytest.mark.parametrize("part", [0, 1, 2, 4], ids=["magic", "protocol", "facts", "keys"])
def test_the_other_pickles_may_name_nothing_at_all(part: int) -> None:
    parts = [pickle.dumps(each, 2) for each in (MAGIC, 1001, FACTS)]
    parts += [state_dict(weight=tensor(storage("a", "FloatStorage", 12), 0, (12,), (1,))), pickle.dumps(["a"], 2)]
    parts[part] = b"\x80\x02" + name("collections", "OrderedDict") + b")R."
    with pytest.raises(CheckpointError, match=r"header asks for collections\.OrderedDict"):
        parse_tensors(b"".join(parts))


def test_a_pickle_cannot_change_what_the_next_one_meets() -> None:
    # BUILD on the rebuild function or on OrderedDict itself would leave a trace for later readers, were it possible.
    for target in (name("torch._utils", "_rebuild_tensor_v2"), name("collections", "OrderedDict")):
        tampering = b"\x80\x02" + target + b"}" + text("__call__") + number(1) + b"sb."
        with pytest.raises(CheckpointError):
            parse_tensors(checkpoint(tampering, {}))
    assert list(parse_tensors(ONE_TENSOR)) == ["weight"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (checkpoint(state_dict(), {}, magic=1), "magic number"),
        (checkpoint(state_dict(), {}, facts={"little_endian": False}), "little-endian"),
        (checkpoint(state_dict(), {}, facts=[]), "little-endian"),
        (pickle.dumps(MAGIC, 2) + pickle.dumps(1002, 2), "protocol isn't 1001"),
        (checkpoint(state_dict(weight=storage("a", "FloatStorage", -1)), {}), "isn't .'storage', type"),
        (b"PK\x03\x04 and so on", "zip"),
        (b"", "cut short"),
        (checkpoint(state_dict(weight=number(1)), {}), "isn't a tensor"),
        (checkpoint(pickle.dumps([1], 2), {}), "isn't a state dict"),
        (checkpoint(state_dict(weight=tensor(storage("a", "HalfStorage", 1), 0, (), ())), {}), "HalfStorage"),
        (checkpoint(state_dict(weight=tensor(text("a"), 0, (), ())), {}), "isn't .storage"),
        (checkpoint(state_dict(weight=tensor(storage("a", "FloatStorage", 1), 0, (), ())), {}), "aren't in the file"),
        (checkpoint(state_dict(), {"a": VALUES}), "none of its tensors"),
    ],
)
def test_what_is_wrong_is_said(data: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        parse_tensors(data)


@pytest.mark.parametrize("length", range(len(ONE_TENSOR)))
def test_every_cut_is_noticed(length: int) -> None:
    with pytest.raises(CheckpointError):
        parse_tensors(ONE_TENSOR[:length])


@given(st.integers(0, len(ONE_TENSOR) - 1), st.integers(0, 255))
def test_a_changed_byte_gives_tensors_or_the_one_error(position: int, value: int) -> None:
    data = bytearray(ONE_TENSOR)
    data[position] = value
    try:
        tensors = parse_tensors(bytes(data))
    except CheckpointError:
        return
    assert all(isinstance(each, np.ndarray) for each in tensors.values())
