"""Finds signatures that are one function under several names, as Keras' `model.export()` writes them. Runs nothing."""

import hashlib
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

from darkroom.models.graph.reachability import functions_of, node_name, reachable_names
from darkroom.models.spec import SignatureSpec

PREFERRED = "serving_default"  # the name that logs and metrics show
_NAMES_ONLY = frozenset({"_class", "_output_shapes"})  # attributes that change no answer and name other nodes


def find_same_functions(graph_def: Any, specs: Mapping[str, SignatureSpec]) -> dict[str, str]:
    """Returns, for each signature that computes what another one does, the name of that one.

    Two signatures are the same if their inputs and outputs have the same names, types and shapes, and if the same ops
    with the same attributes, constants and variables lead from the ones to the others. Nodes and functions may have
    other names. A graph with loops of TensorFlow 1 is not compared.

    Args:
        graph_def: the graph of all signatures.
        specs: the signatures to compare; none of them keeps state.
    """
    by_form: dict[object, list[SignatureSpec]] = {}
    for spec in sorted(specs.values(), key=lambda each: (each.name != PREFERRED, each.name)):
        tensors = ((each.name, each.enum, each.shape) for each in (*spec.inputs, *spec.outputs))
        by_form.setdefault((len(spec.inputs), spec.method_name, *tensors), []).append(spec)
    found: dict[str, str] = {}
    for alike in (each for each in by_form.values() if len(each) > 1):
        prints = _Fingerprints(graph_def)
        firsts: dict[bytes, str] = {}
        for spec in alike:
            try:
                first = firsts.setdefault(prints.of(spec), spec.name)
            except CycleError:
                continue
            if first != spec.name:
                found[spec.name] = first
    return found


class _Fingerprints:
    """Digests of what a graph's tensors and functions compute, whatever their names."""

    def __init__(self, graph_def: Any) -> None:
        self._graph_def = graph_def
        self._nodes = {node.name: node for node in graph_def.node}
        self._functions = {each.signature.name: each for each in graph_def.library.function}
        self._known: dict[str, bytes] = {}  # of functions

    def of(self, spec: SignatureSpec) -> bytes:
        """The digest of a signature.

        Raises:
            CycleError: the graph has a loop, or a function calls itself.
        """
        found = {node_name(each.source): each.name.encode() for each in spec.inputs}
        names, called = reachable_names(self._graph_def, [each.source for each in spec.outputs])
        self._add_functions(called)
        inputs = {name: set(map(node_name, self._nodes[name].input)) for name in names - found.keys()}
        for name in TopologicalSorter(inputs).static_order():
            if name not in found:
                node = self._nodes[name]
                known_by = name if not node.input and node.op != "Const" else ""  # what reads nothing may be a variable
                found[name] = _digest(known_by.encode(), self._op(node), *(_tensor(each, found) for each in node.input))
        return _digest(*(_tensor(each.source, found) for each in spec.outputs))

    def _add_functions(self, called: set[str]) -> None:
        """Makes the digests of these functions, each after those that it calls itself."""
        calls = {
            name: {other for node in self._functions[name].node_def for other in functions_of(node, self._functions)}
            for name in called
        }
        for name in TopologicalSorter(calls).static_order():
            if name not in self._known:
                body = self._functions[name]
                signature = type(body.signature)()
                signature.CopyFrom(body.signature)
                signature.name = ""
                returned = (
                    f"{key}={value}" for each in (body.ret, body.control_ret) for key, value in sorted(each.items())
                )
                nodes = (_digest(each.name.encode(), self._op(each), *_encoded(each.input)) for each in body.node_def)
                self._known[name] = _digest(
                    signature.SerializeToString(deterministic=True), *_encoded(returned), *nodes
                )

    def _op(self, node: Any) -> bytes:
        """The digest of a node's op and attributes."""
        parts = [self._known.get(node.op, node.op.encode()), node.device.encode()]
        for key, value in sorted(node.attr.items()):
            if key not in _NAMES_ONLY:
                parts += [key.encode(), self._attr(value)]
        return _digest(*parts)

    def _attr(self, value: Any) -> bytes:
        """An attribute's value, with digests for the names of functions."""
        if value.HasField("func") or value.list.func:
            copy = type(value)()
            copy.CopyFrom(value)
            for each in (copy.func,) if value.HasField("func") else copy.list.func:
                each.name = self._known.get(each.name, each.name.encode()).hex()
            value = copy
        return bytes(value.SerializeToString(deterministic=True))


def _tensor(name: str, found: Mapping[str, bytes]) -> bytes:
    """The digest of a tensor or of a control input, by those of the nodes."""
    port = "^" if name.startswith("^") else name.partition(":")[2] or "0"
    return port.encode() + b" " + found[node_name(name)]


def _encoded(names: Any) -> list[bytes]:
    return [name.encode() for name in names]


def _digest(*parts: bytes) -> bytes:
    """The digest of several byte strings, whose borders count."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(len(part).to_bytes(8, "little"))
        whole.update(part)
    return whole.digest()
