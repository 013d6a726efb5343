"""The artifact: what serving needs of a SavedModel, as an object and as bytes.

The bytes are, in this order: a magic line; the SHA-256 of all that follows (32 bytes); the length of the header (8 bytes,
little-endian); the header as JSON; the GraphDef; the values of the warm-up rows. Reading them runs no code, so they need
not be trusted. The header is validated against the types below.
"""

import hashlib
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
from pydantic import TypeAdapter

from darkroom.models.engine import PassReport
from darkroom.models.rows import Column, Rows
from darkroom.models.runtime.session import Binding, objects
from darkroom.models.saved_model.front.preprocess import Preprocess
from darkroom.models.spec import ModelSpec, numpy_dtype

MAGIC = b"darkroom artifact 1\n"
_LENGTH = struct.Struct("<Q")
_STRINGS, _OBJECTS = "strings", "objects"  # a list of bytes; an array of bytes objects


@dataclass(frozen=True, slots=True)
class Artifact:
    """What serving needs of one version. A signature without a binding is served from the SavedModel at `source`."""

    spec: ModelSpec
    source: Path
    graph: bytes | memoryview = b""  # a serialized GraphDef; empty where every signature is served from the source
    bindings: dict[str, Binding] = field(default_factory=dict)  # by signature, as the next two
    passes: dict[str, tuple[PassReport, ...]] = field(default_factory=dict)
    samples: dict[str, tuple[Rows, ...]] = field(default_factory=dict)  # warm-up rows, one row `[1, ...]` in each
    pictures: Preprocess | None = None  # the decode front that the source gets; not among the bytes


@dataclass(frozen=True, slots=True)
class _StoredColumn:
    """One column of a sample. `sizes` has the bytes of each value."""

    dtype: str
    shape: tuple[int, ...]
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, column: Column, values: list[bytes]) -> Self:
        """Describes a column, and appends its values to `values`."""
        if isinstance(column, list) or column.dtype == object:
            strings = column if isinstance(column, list) else column.ravel().tolist()
            values.extend(strings)
            kind, shape = (_STRINGS, (len(column),)) if isinstance(column, list) else (_OBJECTS, column.shape)
            return cls(kind, shape, tuple(map(len, strings)))
        values.append(column.tobytes())
        return cls(column.dtype.name, column.shape, (column.nbytes,))

    def read(self, stream: "_Reader") -> Column:
        """Returns the column; its values come from `stream`."""
        values = [bytes(stream.read(size)) for size in self.sizes]
        if self.dtype == _STRINGS:
            return values
        if self.dtype == _OBJECTS:
            return objects(values).reshape(self.shape)
        return np.frombuffer(values[0], numpy_dtype(self.dtype)).reshape(self.shape)


@dataclass(frozen=True, slots=True)
class _Header:
    spec: ModelSpec
    graph_bytes: int
    bindings: dict[str, Binding]
    passes: dict[str, tuple[PassReport, ...]]
    samples: dict[str, tuple[dict[str, _StoredColumn], ...]]


_HEADER = TypeAdapter(_Header)


class Damaged(ValueError):
    """The bytes are no artifact, or are not as they were written."""


def dump(artifact: Artifact) -> bytes:
    """Returns the artifact as bytes, without its source."""
    return b"".join(parts(artifact))


def parts(artifact: Artifact) -> list[bytes | memoryview]:
    """Returns what `dump` joins. The graph is not copied."""
    values: list[bytes] = []
    samples = {
        name: tuple({key: _StoredColumn.of(column, values) for key, column in rows.columns.items()} for rows in singles)
        for name, singles in artifact.samples.items()
    }
    header = _HEADER.dump_json(_Header(artifact.spec, len(artifact.graph), artifact.bindings, artifact.passes, samples))
    body: list[bytes | memoryview] = [_LENGTH.pack(len(header)), header, artifact.graph, *values]
    digest = hashlib.sha256()
    for part in body:
        digest.update(part)
    return [MAGIC, digest.digest(), *body]


class _Reader:
    """Reads bytes one after another, without a copy."""

    def __init__(self, view: memoryview) -> None:
        self._view = view

    def read(self, size: int) -> memoryview:
        """Returns the next bytes; fewer at the end."""
        found, self._view = self._view[:size], self._view[size:]
        return found


def parse(data: bytes | memoryview, source: Path) -> Artifact:
    """Reads the bytes that `dump` returned. The graph is not copied.

    Raises:
        Damaged: the bytes are truncated, changed, or written by another release.
    """
    view = memoryview(data)
    start = len(MAGIC) + hashlib.sha256().digest_size
    if data[: len(MAGIC)] != MAGIC or hashlib.sha256(view[start:]).digest() != data[len(MAGIC) : start]:
        raise Damaged("the digest is not that of the content")
    stream = _Reader(view[start:])
    try:
        (length,) = _LENGTH.unpack(stream.read(_LENGTH.size))
        header = _HEADER.validate_json(bytes(stream.read(length)))
        graph = stream.read(header.graph_bytes)
        samples = {
            name: tuple(Rows({key: column.read(stream) for key, column in row.items()}) for row in rows)
            for name, rows in header.samples.items()
        }
    except (ValueError, TypeError, AttributeError, struct.error) as err:
        raise Damaged(f"it was written by another release: {type(err).__name__}") from err
    return Artifact(header.spec, source, graph, header.bindings, header.passes, samples)
