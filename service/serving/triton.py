"""Applies a model's config.pbtxt to a loaded version: compares its tensors, reads its labels, runs its warm-up. It blocks."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from darkroom.models.errors import LoadFailed, ModelError
from darkroom.models.spec import numpy_dtype
from darkroom.service.config.triton import config_of
from darkroom.service.serving.registry import DEFAULT_SIGNATURE

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from darkroom.models.engine import Engine, LoadedModel
    from darkroom.models.rows import Column, Rows
    from darkroom.models.spec import SignatureSpec, TensorSpec
    from darkroom.service.config.repository import RepositoryEntry

# Triton's name of each dtype, after `TYPE_`.
DATA_TYPES = {
    name: name.upper() for name in ("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")
} | {"float16": "FP16", "float32": "FP32", "float64": "FP64", "bfloat16": "BF16", "string": "STRING"}
MAX_FILE_BYTES = 64 << 20  # guess: of a file of labels, and of the data of one warm-up input
MAX_WARM_BYTES = 256 << 20  # guess: of one warm-up sample
MAX_RUNS = 1000  # guess: of one warm-up sample


def apply_config(loaded: LoadedModel, entry: RepositoryEntry) -> LoadedModel:
    """The version with the labels and the warm-up rows of its config.pbtxt; the same object if it has no such file.

    Raises:
        LoadFailed: the config doesn't fit the version; says which field. The version is closed then.
    """
    if entry.config is None:
        return loaded
    try:
        config = config_of(entry)
        # That of the signature which a request means that names none.
        engine = loaded.engines.get(DEFAULT_SIGNATURE) or next(iter(loaded.engines.values()))
        check_tensors(config, engine.spec)
        labels = read_labels(config, entry.base_path)
        samples = warm_rows(config, entry.base_path, engine)
    except LoadFailed:
        loaded.close()
        raise
    if labels:
        shared = loaded.spec.labels or (next(iter(labels.values())) if len(set(labels.values())) == 1 else ())
        loaded.spec = replace(loaded.spec, labels=shared, output_labels=labels)
    if samples:
        loaded.samples[engine.spec.name] = samples
    return loaded


def check_tensors(config: Any, spec: SignatureSpec) -> None:
    """Compares the inputs and outputs of a config with those of the signature.

    Raises:
        LoadFailed: one has another name, data type or shape.
    """
    is_batched = config.max_batch_size > 0
    for kind, described, tensors in (("input", config.input, spec.inputs), ("output", config.output, spec.outputs)):
        known = {tensor.name: tensor for tensor in tensors}
        for each in described:
            tensor = known.get(each.name)
            if tensor is None:
                raise LoadFailed(f"config.pbtxt: {kind} {each.name!r}: the signature has only {', '.join(known)}")
            wanted = f"TYPE_{DATA_TYPES[tensor.dtype]}"
            given = _kind(each)
            if each.data_type and given != wanted:
                raise LoadFailed(
                    f"config.pbtxt: {kind} {each.name!r}: data_type is {given}, the signature has {wanted}"
                )
            dims = [*([-1] if is_batched else []), *each.dims]
            if each.dims and not _fits(dims, tensor):
                shape = [-1 if size is None else size for size in tensor.shape or ()]
                more = ", with the batch before it (max_batch_size is above 0)" if is_batched else ""
                raise LoadFailed(
                    f"config.pbtxt: {kind} {each.name!r}: dims are {list(each.dims)}{more}; the signature has {shape}"
                )


def _fits(dims: list[int], tensor: TensorSpec) -> bool:
    """Whether a shape can be that of a tensor: equal ranks, and equal sizes where both are known."""
    if tensor.shape is None:
        return True
    return len(dims) == len(tensor.shape) and all(
        size is None or dim in {-1, size} for dim, size in zip(dims, tensor.shape, strict=True)
    )


def read_labels(config: Any, folder: Path) -> dict[str, tuple[str, ...]]:
    """The class names of each output that has a file of them, which has a name a line.

    Raises:
        LoadFailed: a file can't be read.
    """
    labels = {}
    for output in config.output:
        if name := output.label_filename:
            field = f"output {output.name!r}: label_filename {name!r}"
            text = _read(folder, name, field).decode("utf-8", "replace")
            labels[output.name] = tuple(line.strip() for line in text.splitlines())
    return labels


def warm_rows(config: Any, folder: Path, engine: Engine) -> tuple[Rows, ...]:
    """Runs each sample of `model_warmup`; returns the rows of those that may share a batch with the first.

    Raises:
        LoadFailed: a sample can't be made, or the model refuses it.
    """
    found: list[Rows] = []
    for number, sample in enumerate(config.model_warmup, 1):
        field = f"model_warmup {sample.name or number!r}"
        try:
            rows = _sample(sample, folder, field, engine.spec)
            for _ in range(min(sample.count, MAX_RUNS) or 1):
                engine.run(rows)
        except LoadFailed:
            raise
        except (ModelError, ValueError, KeyError) as err:
            raise LoadFailed(f"config.pbtxt: {field}: {err}") from err
        found += [rows.cut(0, 1)] if engine.spec.batched and rows.aligned and len(rows) else []
    return tuple(rows for rows in found if rows.key == found[0].key)


def _sample(sample: Any, folder: Path, field: str, spec: SignatureSpec) -> Rows:
    """One request of a warm-up sample."""
    count = sample.batch_size or 1
    tensors = {tensor.name: tensor for tensor in spec.inputs}
    columns: dict[str, object] = {}
    for name, described in sample.inputs.items():
        if name not in tensors:
            raise LoadFailed(f"config.pbtxt: {field}: input {name!r}: the signature has only {', '.join(tensors)}")
        columns[name] = _column(described, folder, f"{field}: input {name!r}", tensors[name], count)
    return spec.accept(columns, strict=True)


def _column(described: Any, folder: Path, field: str, tensor: TensorSpec, count: int) -> Column:
    """The values of one input, the same in each of `count` rows."""
    kind = _kind(described)
    if described.data_type and kind != f"TYPE_{DATA_TYPES[tensor.dtype]}":
        wanted = DATA_TYPES[tensor.dtype]
        raise LoadFailed(f"config.pbtxt: {field}: data_type is {kind}, the signature has TYPE_{wanted}")
    shape = tuple(described.dims)
    size = prod(shape)
    if any(dim < 0 for dim in shape) or size * max(count, 1) * numpy_dtype(tensor.dtype).itemsize > MAX_WARM_BYTES:
        what = f"dims {list(shape)}, {count} times"
        raise LoadFailed(f"config.pbtxt: {field}: {what}, are no sample of at most {MAX_WARM_BYTES} bytes")
    row = _row(described, folder, field, tensor.dtype)
    if tensor.shape is None or len(tensor.shape) > len(shape):  # the batch is not in `dims`
        row = np.stack([row] * count) if shape else np.array([row.item()] * count, dtype=row.dtype)
    elif len(tensor.shape) < len(shape) and size == 1:
        row = np.array([row.item()] * count, dtype=row.dtype)  # Triton's way to write one string a row: dims: [1]
    elif tensor.has_batch_dimension and shape[:1] == (1,) and count > 1:
        row = np.concatenate([row] * count)
    return row.tolist() if tensor.dtype == "string" and row.ndim == 1 else row


def _kind(described: Any) -> str:
    """The name of a data type, such as `TYPE_FP32`."""
    values = type(described).DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number
    return str(values[described.data_type].name) if described.data_type in values else str(described.data_type)


def _row(described: Any, folder: Path, field: str, dtype: str) -> np.ndarray[Any, Any]:
    """The values of a warm-up input, in the shape of its `dims`: from a file, random numbers, or zeros."""
    shape = tuple(described.dims)
    source = described.WhichOneof("input_data_type")
    if source == "input_data_file":
        return _from_file(_read(folder / "warmup", described.input_data_file, field), dtype, shape, field)
    if dtype == "string":
        return np.full(shape, b"", dtype=object)
    target = numpy_dtype(dtype)
    if source != "random_data":
        return np.zeros(shape, target)
    rng = np.random.default_rng(0)
    if target.kind in "iu":
        info = np.iinfo(target)
        return rng.integers(info.min, info.max, shape, dtype=target, endpoint=True)
    return rng.random(shape).astype(target)  # from 0 to 1


def _from_file(data: bytes, dtype: str, shape: tuple[int, ...], field: str) -> np.ndarray[Any, Any]:
    """The values of a file: numbers in row-major order, or strings, each after its length in 4 bytes."""
    if dtype == "string":
        values = list(_strings(data, field))
        if len(values) != prod(shape):
            raise LoadFailed(f"config.pbtxt: {field}: its file has {len(values)} strings, dims are {list(shape)}")
        row = np.empty(len(values), dtype=object)
        row[:] = values
        return row.reshape(shape)
    target = numpy_dtype(dtype)
    if len(data) != prod(shape) * target.itemsize:
        raise LoadFailed(
            f"config.pbtxt: {field}: its file has {len(data)} bytes, dims {list(shape)} need {prod(shape) * target.itemsize}"
        )
    return np.frombuffer(data, target).reshape(shape)


def _strings(data: bytes, field: str) -> Iterable[bytes]:
    at = 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        if end > len(data):
            raise LoadFailed(
                f"config.pbtxt: {field}: its file ends within a string; each follows its length in 4 bytes"
            )
        yield data[at + 4 : end]
        at = end


def _read(folder: Path, name: str, field: str) -> bytes:
    """A file of the model.

    Raises:
        LoadFailed: it can't be read; names the field.
    """
    try:
        with (folder / name).open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as err:
        raise LoadFailed(f"config.pbtxt: {field}: {getattr(err, 'strerror', err)}") from err
    if len(data) > MAX_FILE_BYTES:
        raise LoadFailed(f"config.pbtxt: {field}: is over {MAX_FILE_BYTES} bytes")
    return data
