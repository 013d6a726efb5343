"""Generates warm-up rows that a signature may accept: pictures, random numbers, Examples with the graph's features.

The rows are guesses; `models/rewriting/verify.py` keeps the first set that the model accepts.
"""

import struct
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice, product
from typing import Any

import numpy as np

from darkroom.models.rows import Column, Rows
from darkroom.models.runtime.session import objects
from darkroom.models.runtime.tensorflow import SessionOptions, tf
from darkroom.models.saved_model.tf_example import dense_keys
from darkroom.models.spec import SignatureSpec, TensorSpec, numpy_dtype

SET_ROWS = 4  # rows of one set of samples; batches of 1, 2 and 3 of them are compared
_MIXED_SIZES = ((64, 48), (28, 28), (224, 224), (300, 17))
_ONE_SIZE = (28, 32, 224, 299)
_PICTURE_SIDES = (224, 299, 64, 96, 128, 32, 28)  # a network may be undefined on fewer pixels than it has strides
_INNER_SIZES = (1, 2, 3, 4, 9, 10, 16, 32, 64, 128, 224)
_DIMMED = 0.02
_TEXTS = (b"a", b"", b"0", b"1.5", b"{}")

# Other sizes to try an open size of n with, and the dimensions that change together.
_CHANGES: tuple[Callable[[int], int], ...] = (lambda n: n * 2, lambda n: n + 1, lambda n: n * 3, lambda n: n // 2)
_INNER_AXES = ((1, 2, 3, 4, 5, 6, 7), (1,), (2,), (3,))

MAX_CANDIDATES = 64  # guess: limits the load time of a model that accepts none of them; each takes about a millisecond

Pictures = Callable[[str, int, int, int], bytes]  # (format, width, height, seed) → an encoded picture
MakeColumn = Callable[[int], Column]  # seed → one row of an input, `[1, ...]`


def candidates(spec: SignatureSpec, graph_def: Any, pictures: Pictures) -> Iterator[list[Rows]]:
    """Yields sets of SET_ROWS rows, most likely first. Each element is one row, and its columns are `[1, ...]`.

    The rows of a set have equal keys, so they may share a batch. For a signature without a batch dimension a set is one
    whole request.
    """
    per_input = [list(_columns(tensor, spec, graph_def, pictures)) for tensor in spec.inputs]
    for choice in islice(product(*per_input), MAX_CANDIDATES):
        yield [
            Rows({tensor.name: column(seed) for tensor, column in zip(spec.inputs, choice, strict=True)})
            for seed in range(SET_ROWS if spec.batched else 1)
        ]


def other_sizes(spec: SignatureSpec, samples: Sequence[Rows]) -> Iterator[list[Rows]]:
    """Yields the samples with other sizes where the signature leaves inner sizes open: values are repeated or left out."""
    for axes, change in product(_INNER_AXES, _CHANGES):
        resized = [
            Rows(
                rows.columns
                | {each.name: _resized(each, rows.columns[each.name], axes, change) for each in spec.inputs}
            )
            for rows in samples
        ]
        if resized[0].key != samples[0].key:
            yield resized


def _resized(tensor: TensorSpec, column: Column, axes: Sequence[int], change: Callable[[int], int]) -> Column:
    """Returns one row with other open sizes. A row of an unknown rank and without inner dimensions gets one."""
    if isinstance(column, list) or not tensor.has_open_sizes:
        return column
    shape = column.shape if column.ndim > 1 or tensor.shape else (*column.shape, 1)
    declared = tensor.shape or (None,) * len(shape)
    is_changed = [want is None and at in axes for at, want in enumerate(declared)]
    return np.resize(
        column, [max(1, change(n)) if is_open else n for n, is_open in zip(shape, is_changed, strict=True)]
    )


def _columns(tensor: TensorSpec, spec: SignatureSpec, graph_def: Any, pictures: Pictures) -> Iterator[MakeColumn]:
    """Yields makers of one row of an input, most likely first."""
    if spec.decodes(tensor.name):
        kinds = [kind for kind in ("jpeg", "png", "bmp") if kind in spec.formats]
        all_sizes = (_MIXED_SIZES, *(((side, side),) * SET_ROWS for side in _ONE_SIZE))
        # DecodeImage refuses a BMP for some numbers of channels.
        for mix, sizes in product([kinds, kinds[:1]] if len(kinds) > 1 else [kinds], all_sizes):
            if mix:
                made = [pictures(mix[seed % len(mix)], *size, seed) for seed, size in enumerate(sizes)]
                yield partial(_text, tensor, made)
    elif tensor.dtype == "string":
        texts = [*_examples(graph_def), *([text] * SET_ROWS for text in _TEXTS)]
        for values in [*texts, *([urlsafe_b64encode(value) for value in each] for each in texts)]:
            yield partial(_text, tensor, values)
    else:
        for shape in _shapes(tensor):
            yield partial(_numbers, tensor.dtype, shape)


def _text(tensor: TensorSpec, values: list[bytes], seed: int) -> Column:
    """Returns one row of a string input, with value number `seed` in every element."""
    value = values[seed]
    shape = next(_shapes(tensor))
    return [value] if len(shape) == 1 else objects([value] * int(np.prod(shape))).reshape(shape)


def _shapes(tensor: TensorSpec) -> Iterator[tuple[int, ...]]:
    """Yields shapes of one row: 1 for the batch dimension, and each guess for all unknown inner sizes."""
    if tensor.shape is None:
        yield from (shape for shape in ((1,), (1, 1), (1, 224, 224, 3)) if tensor.takes(shape))
        yield from ((1,) + (3,) * (rank - 1) for rank in tensor.ranks if rank)
        return
    if None not in tensor.shape[1:]:
        yield tuple(size or 1 for size in tensor.shape)
        return
    is_picture = len(tensor.shape) == 4 and tensor.shape[3] in {1, 3, 4}
    for guess in (*_PICTURE_SIDES, *_INNER_SIZES[:8]) if is_picture else _INNER_SIZES:
        yield tuple((guess if at else 1) if size is None else size for at, size in enumerate(tensor.shape))


def _numbers(dtype: str, shape: tuple[int, ...], seed: int) -> Column:
    """Returns 0 or 1 for integers (they may index a table), the whole range for uint8, and normal floats.

    Every second pair of seeds is mirrored: the first number of seeds 0 to 3 is positive, and a graph that drops rows with
    a negative one would look row-wise.
    """
    rng = np.random.default_rng(seed)
    target = numpy_dtype(dtype)
    if dtype == "bool":
        return rng.random(shape) < 0.5
    if dtype == "uint8":
        return rng.integers(0, 256, shape, dtype=np.uint8)
    if target.kind in "iu":
        return rng.integers(0, 2, shape).astype(target)
    scale = -1.0 if seed & 2 else _DIMMED if seed == 1 else 1.0
    return (rng.normal(size=shape) * scale).astype(target)


def _examples(graph_def: Any) -> list[list[bytes]]:
    """Returns serialized tf.Examples with the dense features of the graph's ParseExample: no set, or one."""
    for nodes in (graph_def.node, *(function.node_def for function in graph_def.library.function)):
        constants = {node.name: node for node in nodes if node.op == "Const"}
        for node in nodes:
            if node.op in {"ParseExample", "ParseExampleV2"}:
                return [[_example(node, constants, seed) for seed in range(SET_ROWS)]]
    return []


def _example(node: Any, constants: dict[str, Any], seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    example = tf.train.Example()
    for key, dtype, shape in zip(
        dense_keys(node, constants), node.attr["Tdense"].list.type, node.attr["dense_shapes"].list.shape, strict=False
    ):
        size = int(np.prod([max(dim.size, 1) for dim in shape.dim]))
        feature = example.features.feature[key]
        if dtype == tf.string.as_datatype_enum:
            feature.bytes_list.value.extend([b"a"] * size)
        elif dtype == tf.int64.as_datatype_enum:
            feature.int64_list.value.extend(rng.integers(0, 2, size).tolist())
        else:
            feature.float_list.value.extend(rng.normal(size=size).tolist())
    return bytes(example.SerializeToString(deterministic=True))


class PictureMaker:
    """Makes pictures with TensorFlow's encoders, in a session with the same options as all others."""

    def __init__(self, options: SessionOptions) -> None:
        graph = tf.Graph()
        with graph.as_default():
            self._pixels = tf.compat.v1.placeholder(tf.uint8, [None, None, None])
            self._encoded = {"jpeg": tf.io.encode_jpeg(self._pixels), "png": tf.io.encode_png(self._pixels)}
        self._session = tf.compat.v1.Session(graph=graph, config=options.proto())

    def __call__(self, kind: str, width: int, height: int, seed: int) -> bytes:
        """Returns an encoded picture of smooth waves with a little noise. Seed 1 is nearly black, seed 2 is grey.

        The dark one is for classifiers that are always sure: a saturated softmax would hide a wrong rewrite.
        """
        rng = np.random.default_rng(seed)
        down, across = np.mgrid[0:height, 0:width]
        waves = [np.sin(down / rng.uniform(3, 20) + across / rng.uniform(3, 20)) for _ in range(3)]
        light = np.stack(waves, axis=-1) * 110 + 128 + rng.normal(size=(height, width, 3)) * 4
        light *= _DIMMED if seed == 1 else 1.0
        pixels = np.clip(light, 0, 255).astype(np.uint8)
        if kind == "bmp":
            return _bmp(pixels)
        if seed % 3 == 2:
            pixels = pixels[:, :, :1]
        return bytes(self._session.run(self._encoded[kind], {self._pixels: pixels}))

    def close(self) -> None:
        """Closes the session."""
        self._session.close()


def _bmp(pixels: "np.ndarray[Any, np.dtype[np.uint8]]") -> bytes:
    """Returns a 24-bit BMP, which TensorFlow cannot encode. `pixels` is `uint8[height, width, 3]`."""
    height, width, _ = pixels.shape
    padded = np.zeros((height, (width * 3 + 3) // 4 * 4), np.uint8)
    padded[:, : width * 3] = pixels[::-1, :, ::-1].reshape(height, width * 3)
    header = struct.pack(
        "<2sIHHIIiiHHIIiiII", b"BM", 54 + padded.size, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0
    )
    return header + padded.tobytes()
