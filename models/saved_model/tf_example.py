"""Serializes tf.Examples from plain values, and finds which features a graph parses as floats."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from darkroom.models.errors import InvalidInput, quote
from darkroom.models.graph.reachability import node_name
from darkroom.models.runtime.tensorflow import tf

PARSERS = frozenset({"ParseExample", "ParseExampleV2", "ParseSingleExample"})
_FLOAT_MAX = 3.4028234663852886e38
_INFINITIES = frozenset({math.inf, -math.inf})
_INT_MIN, _INT_MAX = -(1 << 63), (1 << 63) - 1
_JSON_TYPES = {type(None): "Null", dict: "Object", list: "Array", str: "String", bytes: "String", bool: "Bool"}
_KINDS = {str: "bytes", bytes: "bytes", float: "float", int: "int64", bool: "int64"}


def serialize(
    examples: Sequence[object], context: object = None, *, floats: frozenset[str] = frozenset()
) -> list[bytes]:
    """Returns one serialized tf.Example for each of `examples`.

    Args:
        examples: dicts; each value is a number, text or bytes, or a list of one of these types.
        context: a dict whose features are added to every example, or None.
        floats: names of features whose integers become floats. In a list with floats, integers become floats too.
            Booleans are the integers 0 and 1.

    Raises:
        InvalidInput: an example is not a dict, or a feature cannot be serialized. The message names both.
    """
    shared = b"" if context is None else _serialize(context, "context", floats)
    # Protobuf merges concatenated messages, so the example has the features of both.
    return [shared + _serialize(example, f"examples[{index}]", floats) for index, example in enumerate(examples)]


def float_features(graph_def: Any) -> frozenset[str]:
    """Returns the features that all parsers in the graph and in its functions parse as floats."""
    floats: set[str] = set()
    others: set[str] = set()
    for nodes in (graph_def.node, *(function.node_def for function in graph_def.library.function)):
        constants = {node.name: node for node in nodes if node.op == "Const"}
        for node in nodes:
            if node.op in PARSERS:
                for key, dtype in _features(node, constants):
                    (floats if dtype == tf.float32.as_datatype_enum else others).add(key)
    return frozenset(floats - others)


def dense_keys(node: Any, constants: Mapping[str, Any]) -> list[str]:
    """Returns the names of a parser's dense features, in the order of its attribute `Tdense`."""
    if node.op == "ParseSingleExample":
        return [key.decode() for key in node.attr["dense_keys"].list.s]
    if node.op == "ParseExampleV2":  # (serialized, names, sparse_keys, dense_keys, ragged_keys, dense_defaults…)
        return _constant(node.input[3], constants)
    sparse = node.attr["Nsparse"].i  # (serialized, names, Nsparse keys, Ndense keys, dense_defaults…)
    dense = node.input[2 + sparse : 2 + sparse + node.attr["Ndense"].i]
    return [key for name in dense for key in _constant(name, constants)]


def _features(node: Any, constants: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Yields the features of a parser, each with TensorFlow's number of its dtype."""
    yield from zip(dense_keys(node, constants), node.attr["Tdense"].list.type, strict=False)
    yield from zip(_sparse_keys(node, constants), node.attr["sparse_types"].list.type, strict=False)
    if node.op == "ParseExampleV2":
        yield from zip(_constant(node.input[4], constants), node.attr["ragged_value_types"].list.type, strict=False)


def _sparse_keys(node: Any, constants: Mapping[str, Any]) -> list[str]:
    if node.op == "ParseSingleExample":
        return [key.decode() for key in node.attr["sparse_keys"].list.s]
    if node.op == "ParseExampleV2":
        return _constant(node.input[2], constants)
    return [key for name in node.input[2 : 2 + node.attr["Nsparse"].i] for key in _constant(name, constants)]


def _constant(name: str, constants: Mapping[str, Any]) -> list[str]:
    node = constants.get(node_name(name))
    return [] if node is None else [key.decode() for key in tf.make_ndarray(node.attr["value"].tensor).ravel()]


def _serialize(example: object, where: str, floats: frozenset[str]) -> bytes:
    if not isinstance(example, dict):
        raise InvalidInput(f"{where}: Example must be JSON object but got JSON {_json_type(example)}")
    message = tf.train.Example()
    for name, content in example.items():
        values = content if isinstance(content, list) else [content]
        try:
            _fill(message.features.feature[name], values, is_float=name in floats)
        except ValueError as err:  # from _fill, or of a text with a lone surrogate
            words = "is not UTF-8 text" if isinstance(err, UnicodeError) else str(err)
            raise InvalidInput(f"{where}: feature {quote(name)!r} {words}") from err
    return bytes(message.SerializeToString())


def _fill(feature: Any, values: list[Any], *, is_float: bool) -> None:
    """Puts `values` into the list of `feature` that has their type.

    Raises:
        ValueError: no list has it, or a value is out of range.
    """
    kinds = set(map(type, values))
    if strange := [value for value in values if type(value) not in _KINDS]:
        raise ValueError(f"has element with unexpected JSON type: {_json_type(strange[0])}")
    if not values:  # an empty feature counts as missing
        return
    if kinds <= {str, bytes}:
        feature.bytes_list.value.extend([value.encode() if isinstance(value, str) else value for value in values])
    elif kinds <= {int, float} and (is_float or float in kinds):
        if any(abs(value) > _FLOAT_MAX and value not in _INFINITIES for value in values):
            raise ValueError("has a number that does not fit a float without loss of precision")
        feature.float_list.value.extend(values)
    elif kinds <= {int, bool}:
        if not all(_INT_MIN <= value <= _INT_MAX for value in values):
            raise ValueError("has an integer out of range. Only int64 is supported.")
        feature.int64_list.value.extend(map(int, values))
    else:
        raise ValueError(f"has unexpected element type: expecting type: {_KINDS[type(values[0])]}")


def _json_type(value: object) -> str:
    return _JSON_TYPES.get(type(value), "Number")
