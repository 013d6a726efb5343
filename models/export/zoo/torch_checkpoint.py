"""Reads the tensors of a legacy (non-zip) torch checkpoint without torch. Only the globals named here are ever called.

A pickle is a program. This reader lets it call the few harmless functions that a state dict needs, and refuses every
other name: a manipulated checkpoint may fail to load, but it can't run anything. The layout is torch's `_legacy_save`
(torch/serialization.py): five pickles in a row (magic number, protocol, system facts, state dict, storage keys), then
each storage's element count and raw elements.
"""

from __future__ import annotations

import math
import pickle
from collections import OrderedDict
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_ZIP_MAGIC = b"PK\x03\x04"

# The storages of weights and step counters; little-endian, as the checkpoint's header says.
_STORAGES: Mapping[str, np.dtype[Any]] = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "LongStorage": np.dtype("<i8"),
}


class CheckpointError(ValueError):
    """The file isn't a legacy torch checkpoint, is truncated, or names a global that a state dict does not need."""


@dataclass(frozen=True, slots=True)
class _Storage:
    """`elements` elements of `dtype`, whose bytes follow after the pickles."""

    key: str
    dtype: np.dtype[Any]
    elements: int


@dataclass(frozen=True, slots=True)
class _View:
    """A tensor as the pickle describes it: a view of a storage that is not read yet. Strides are in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _StorageType:
    """Takes the place of `torch.FloatStorage` and the like: a value that can be passed on, but not called."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype


class _Rebuild:
    """Takes the place of `torch._utils._rebuild_tensor_v2`. Its slots keep the pickle from setting attributes."""

    __slots__ = ()

    def __call__(self, storage: object, offset: object, shape: object, strides: object, *_rest: object) -> _View:
        match storage, offset, shape, strides:
            case _Storage(), int(), tuple(), tuple() if all(
                type(size) is int and size >= 0 for size in (offset, *shape, *strides)
            ):
                return _View(storage, offset, shape, strides)
        raise CheckpointError("a tensor of the checkpoint isn't (storage, offset, shape, strides)")


class _Unpickler(pickle.Unpickler):
    """Allows OrderedDict, the tensor rebuild and the storage types, and refuses every other global."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Rebuild()
        if module == "torch" and (dtype := _STORAGES.get(name)) is not None:
            return _StorageType(dtype)
        raise CheckpointError(f"the checkpoint asks for {module[:80]}.{name[:80]}, which no state dict needs: refused")

    def persistent_load(self, pid: object) -> _Storage:
        match pid:
            case ("storage", _StorageType() as kind, str(key), str(), int(elements), None) if elements >= 0:
                return _Storage(key, kind.dtype, elements)
        raise CheckpointError("a storage of the checkpoint isn't ('storage', type, key, location, elements, None)")


class _Plain(pickle.Unpickler):
    """For the four pickles that hold only numbers, strings, lists and dicts: refuses every global."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise CheckpointError(f"the checkpoint's header asks for {module[:80]}.{name[:80]}: refused")


def parse_tensors(data: bytes) -> dict[str, np.ndarray]:
    """Returns the tensors of a checkpoint by name, in the checkpoint's order. Each array owns its memory.

    Raises:
        CheckpointError: the data is no legacy checkpoint, is truncated, or names a global that isn't allowed.
    """
    if data.startswith(_ZIP_MAGIC):
        raise CheckpointError("a zip checkpoint (torch 1.6 and later); only the legacy kind is read here")
    stream = BytesIO(data)
    if _load(_Plain, stream) != _MAGIC:
        raise CheckpointError("not a torch checkpoint: the magic number is another")
    if _load(_Plain, stream) != _PROTOCOL:
        raise CheckpointError(f"the checkpoint's protocol isn't {_PROTOCOL}")
    facts = _load(_Plain, stream)
    if not isinstance(facts, dict) or facts.get("little_endian") is not True:
        raise CheckpointError("the checkpoint wasn't written on a little-endian machine")
    state = _load(_Unpickler, stream)
    keys = _load(_Plain, stream)
    if not isinstance(state, dict) or not isinstance(keys, list):
        raise CheckpointError("the checkpoint isn't a state dict and its list of storages")
    views = {name: view for name, view in state.items() if isinstance(name, str) and isinstance(view, _View)}
    if len(views) != len(state):
        raise CheckpointError("the state dict holds something that isn't a tensor")
    storages = _read_storages(stream, keys, {view.storage.key: view.storage for view in views.values()})
    return {name: _tensor(name, view, storages[view.storage.key]) for name, view in views.items()}


def _load(unpickler: Callable[[BytesIO], pickle.Unpickler], stream: BytesIO) -> object:
    try:
        return unpickler(stream).load()
    except CheckpointError:
        raise
    except Exception as err:  # a damaged pickle may raise almost any error: EOFError, KeyError, ValueError
        raise CheckpointError(f"not a legacy torch checkpoint, or cut short: {type(err).__name__}") from err


def _read_storages(stream: BytesIO, keys: Sequence[object], known: Mapping[str, _Storage]) -> dict[str, np.ndarray]:
    """Reads the storages in the file's order: 8 bytes with the number of elements, then the elements."""
    read: dict[str, np.ndarray] = {}
    for key in keys:
        storage = known.get(key) if isinstance(key, str) else None
        if storage is None:
            raise CheckpointError("the checkpoint lists a storage that none of its tensors uses")
        count = int.from_bytes(stream.read(8), "little")
        size_bytes = storage.elements * storage.dtype.itemsize
        raw = stream.read(size_bytes)
        if count != storage.elements or len(raw) != size_bytes:
            raise CheckpointError(f"storage {storage.key:.40}: {len(raw)} bytes of {size_bytes}: cut short")
        read[storage.key] = np.frombuffer(raw, storage.dtype)
    if missing := known.keys() - read.keys():
        raise CheckpointError(f"{len(missing)} storages of the state dict aren't in the file")
    return read


def _tensor(name: str, view: _View, storage: np.ndarray) -> np.ndarray:
    """Returns a copy of the view, which must lie inside the storage."""
    if len(view.shape) != len(view.strides):
        raise CheckpointError(f"{name}: {len(view.shape)} dimensions but {len(view.strides)} strides")
    if math.prod(view.shape) > len(
        storage
    ):  # no weight is broadcast; a stride of 0 would turn a small file into a huge array
        raise CheckpointError(f"{name}: larger than its storage")
    last = view.offset + sum((size - 1) * stride for size, stride in zip(view.shape, view.strides, strict=True))
    if math.prod(view.shape) and last >= len(storage):
        raise CheckpointError(f"{name}: reaches past the end of its storage")
    strides_bytes = [stride * storage.itemsize for stride in view.strides]
    return np.lib.stride_tricks.as_strided(storage[view.offset :], view.shape, strides_bytes).copy()
