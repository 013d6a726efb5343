"""Decides which passes are applied to a SavedModel: all that can be, except those that change an answer."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from darkroom.models.engine import PassReport
from darkroom.models.graph.decoding_ops import find_decoding_nodes
from darkroom.models.graph.inline import inline_calls
from darkroom.models.graph.reachability import GraphTraits
from darkroom.models.graph.row_flow import Flows, find_flows
from darkroom.models.rewriting.optimize import (
    MIN_GRAPH_BYTES,
    OPTIMIZE,
    graph_bytes,
    optimize,
    room_to_open,
    without_values,
)
from darkroom.models.rewriting.passes import BoundSignature, Pass
from darkroom.models.rewriting.verify import Remembered, difference, not_row_wise, other_sizes_fault, screen_fault
from darkroom.models.rows import Rows, join
from darkroom.models.runtime.memory import check_room, give_back
from darkroom.models.runtime.session import Binding, SessionEngine, clean, open_session
from darkroom.models.runtime.tensorflow import SessionOptions, tf
from darkroom.models.saved_model.image_input import rows_meet, size_doubt, unbatched
from darkroom.models.saved_model.original import Original
from darkroom.models.saved_model.sample_rows import other_sizes
from darkroom.models.spec import SignatureSpec

_log = logging.getLogger("darkroom.models")
MAX_GRAPH_BYTES = 1 << 31  # protobuf writes no more
FREEZE, SCREEN, BF16 = "freeze", "screen", "bf16"


class Rewriter:
    """The signatures of one SavedModel while the passes are applied to them.

    A signature has a binding as long as it is served from the rewritten graph. A signature that fell back to the
    original has none. The caller closes the rewriter and the original.
    """

    def __init__(
        self,
        original: Original,
        specs: Mapping[str, SignatureSpec],
        traits: Mapping[str, GraphTraits],
        options: SessionOptions,
        passes: Sequence[tuple[str, Pass]],
    ) -> None:
        self.bindings: dict[str, Binding] = {}
        self._original = original
        self._specs = specs
        self._options = options
        self._passes = passes
        self._wanted: dict[str, SignatureSpec] = {}  # what is frozen, and
        self._frozen: Any = None  # the frozen graph, until it is rewritten
        self._dropped: dict[str, dict[str, str]] = {name: {} for name in specs}  # signature → pass → reason
        self._applied: dict[str, list[str]] = {name: [] for name in specs}
        self._notes: dict[tuple[str, str], str] = {}  # signature, pass → what it did
        self._graph: Any = None
        self._plain: Any = None  # the graph before it was optimized, without weights; None: it was not optimized
        self._session: Any = None
        self._engines: dict[str, Remembered] = {}  # of the current graph; making one costs an optimization of the graph
        self._originals: dict[str, Remembered] = {}
        changes = "; ".join(f"signature {name!r}: {each.mutates}" for name, each in traits.items() if each.mutates)
        for name, each in traits.items():
            if reason := each.stateful or each.unfreezable or changes:
                self._dropped[name][FREEZE] = reason

    def apply_passes(self, samples: Mapping[str, Sequence[Rows]]) -> None:
        """Applies all passes, compares the answers to `samples` with the original's, and reverts what differs.

        Repeats this until no answer differs. The last pass of a signature is reverted first; the freezing is the first
        pass, and reverting it puts the signature back on the original.
        """
        for name in self._specs:
            if not samples[name]:
                self._dropped[name].setdefault(FREEZE, "it cannot be verified: no generated row is one that it takes")
        self._freeze(samples)
        if self._frozen is not None:
            size = graph_bytes(self._frozen)
            is_optimized = size >= MIN_GRAPH_BYTES and any(name == OPTIMIZE for name, _ in self._passes)
            # The original's weights and the frozen ones are in memory already.
            check_room(room_to_open(size, is_optimized=is_optimized) - 2 * size, "to prepare it")
        while self.bindings:
            wrong = self._rewrite() or self._compare(samples)
            if not wrong:
                return
            for name, reason in wrong.items():
                last = self._applied[name].pop()
                self.drop(name, last, f"its answer is not the original's: {reason}")
                if last == FREEZE:
                    del self.bindings[name]
        self._graph = None

    def add_screen(self, spec: SignatureSpec, samples: Sequence[Rows]) -> None:
        """Gives a signature its screen nodes, if they accept `samples` and reject a row that is cut short."""
        name = spec.name
        if name not in self.bindings:
            return
        binding = self.bindings[name]
        try:
            if not spec.batched:
                raise ValueError("its requests never share a call")  # noqa: TRY301 - as of find_decoding_nodes
            strings = [binding.feeds[tensor.name] for tensor in spec.inputs if tensor.dtype == "string"]
            nodes = find_decoding_nodes(self._graph, strings, list(binding.fetches.values()))
            binding = replace(binding, screen_nodes=nodes)
            engine = SessionEngine(spec, self._session, binding, passes=self.reports()[name])
            reason = screen_fault(engine, samples)
        except Exception as err:  # noqa: BLE001 - whatever TensorFlow raises, a signature without a screen still serves
            reason = clean(str(err))
        if reason:
            self._dropped[name][SCREEN] = reason
        else:
            self._applied[name].append(SCREEN)
            self.bindings[name] = binding

    def original(self, name: str) -> Remembered:
        """Returns an engine that runs the signature of the original SavedModel."""
        if name not in self._originals:
            spec = self._specs[name]
            self._originals[name] = Remembered(spec, lambda: self._original.engine(spec))
        return self._originals[name]

    def engine(self, name: str) -> Remembered:
        """Returns an engine that runs the signature in its current form."""
        if name not in self.bindings:
            return self.original(name)
        if name not in self._engines:
            make = partial(SessionEngine, self._specs[name], self._session, self.bindings[name])
            self._engines[name] = Remembered(self._specs[name], partial(make, passes=self.reports()[name]))
        return self._engines[name]

    def prove_row_wise(self, spec: SignatureSpec, samples: Sequence[Rows], graph_def: Any) -> SignatureSpec:
        """Returns the spec, unbatched with the reason unless a batch is proven to give the answers of its rows alone.

        The graph must not join rows (`rows_meet`), and a batch of `samples` must answer like the samples one by one. If
        inner sizes are open, the graph must show that this holds for all of them; else it is tried with other sizes.
        `graph_def` is the SavedModel's own graph.
        """
        if not spec.batched:
            return spec
        if not samples:
            return unbatched(spec, "it cannot be proven row-wise: no generated row is one that it takes")
        try:
            flows = self._flows(spec, graph_def)
            reason = rows_meet(spec, flows.outputs) or self._one_branch(spec, flows.predicates, samples)
            reason = reason or not_row_wise(self.engine(spec.name), samples)
            if not reason and (doubt := size_doubt(spec, flows)):
                reason = other_sizes_fault(self.engine(spec.name), other_sizes(spec, samples), doubt)
        except Exception as err:  # noqa: BLE001 - without a proof it is served one request at a time
            reason = f"it cannot be proven row-wise: {type(err).__name__}: {clean(str(err))}"
        if reason:
            _log.warning("signature %r is served one request at a time: %s", spec.name, reason)
        return unbatched(spec, reason) if reason else spec

    def reports(self) -> dict[str, tuple[PassReport, ...]]:
        """Returns the reports of all passes, by signature."""
        names = [FREEZE, *(name for name, _ in self._passes), SCREEN, *([BF16] if self._options.bf16 else [])]

        def report(signature: str, name: str) -> PassReport:
            if name in self._applied[signature]:
                return PassReport(name, applied=True, reason=self._notes.get((signature, name), ""))
            reason = self._dropped[signature].get(name, "the graph is not frozen")
            return PassReport(name, applied=False, reason=reason)

        return {signature: tuple(report(signature, name) for name in names) for signature in self._specs}

    @property
    def graph(self) -> Any:
        """The rewritten GraphDef; None where every signature fell back to the original."""
        return self._graph

    def note(self, signature: str, name: str, what: str) -> None:
        """Reports a pass that runs outside this class as applied; `what` says what it did."""
        self._applied[signature].append(name)
        self._notes[signature, name] = what

    def drop(self, signature: str, name: str, reason: str) -> None:
        """Reports a pass as not applied, and logs the reason."""
        self._dropped[signature][name] = reason
        _log.warning("pass %s is dropped for signature %r: %s", name, signature, reason)

    def serialized(self) -> bytes:
        """Returns the rewritten GraphDef, and closes its session; empty where every signature fell back to the original."""
        if self._graph is None:
            return b""
        whole = self._graph if self._plain is None else self._session.graph
        self.close()
        if self._plain is not None:
            whole = whole.as_graph_def()
        return bytes(whole.SerializeToString(deterministic=True))

    def close(self) -> None:
        """Closes the session of the rewritten graph. Idempotent."""
        session, self._session = self._session, None
        self._engines.clear()
        if session is not None:
            session.close()
            give_back()

    def _one_branch(self, spec: SignatureSpec, predicates: Iterable[str], samples: Sequence[Rows]) -> str:
        """Returns which of the predicates has no sample that is in one branch alone and in the other beside the rest."""
        for predicate in predicates:
            if (binding := self.bindings.get(spec.name)) is None:
                return f"it branches on the whole batch ({predicate})"
            chooses = Binding(binding.feeds, {"branch": predicate})
            engine = SessionEngine(spec, self._session, chooses, passes=self.reports()[spec.name])
            branches = [bool(engine.run(rows).columns["branch"]) for rows in (*samples, join(samples))]
            engine.close()
            if len(set(branches)) == 1:
                return f"it branches on the whole batch ({predicate}), and the sample rows take one branch only"
        return ""

    def _flows(self, spec: SignatureSpec, graph_def: Any) -> Flows:
        """Where the rows of a batch are in each output, by the graph in its current form; see `find_flows`."""
        inputs = [tensor.source for tensor in spec.inputs]
        fetches = {output.name: output.source for output in spec.outputs}
        if (binding := self.bindings.get(spec.name)) is not None:
            inputs, fetches = list(binding.feeds.values()), binding.fetches
            if self._plain is None:
                return find_flows(self._graph, self._session.graph, inputs, fetches)
        inlined = self._plain if binding is not None else inline_calls(graph_def, list(fetches.values()))
        for node in inlined.node:
            node.attr.pop("_class", None)  # names a node to be placed with, which may be gone
        graph = tf.Graph()
        with graph.as_default():
            tf.graph_util.import_graph_def(inlined, name="")
        return find_flows(inlined, graph, inputs, fetches)

    def _freeze(self, samples: Mapping[str, Sequence[Rows]]) -> None:
        """Freezes the graph. If no signature needs the original then, it is freed before the rewritten graph is opened.

        What the comparison will ask it is remembered. It is loaded again if it is needed after all.
        """
        for name, engine in self._originals.items():
            engine.learn(samples[name])
        give_back()
        self._wanted = wanted = {name: spec for name, spec in self._specs.items() if FREEZE not in self._dropped[name]}
        if not wanted:
            return
        try:
            self._frozen, self.bindings = self._original.freeze(wanted)
            if (size := graph_bytes(self._frozen)) >= MAX_GRAPH_BYTES:
                raise ValueError(f"it has {size} bytes")  # noqa: TRY301 - as TensorFlow's own errors
        except Exception as err:  # noqa: BLE001 - whatever TensorFlow raises, the original still serves
            self.bindings = {}
            for name in wanted:
                self.drop(name, FREEZE, f"it cannot be frozen: {clean(str(err))}")
        if len(self.bindings) == len(self._specs):
            for engine in self._originals.values():
                engine.close()
            self._original.close()
            give_back()

    def _rewrite(self) -> dict[str, str]:
        """Makes the graph and its session with every pass that was not dropped.

        Returns why TensorFlow refuses the graph, by signature; empty where it accepts it.
        """
        self.close()
        graph, self._frozen = self._frozen, None  # it is as large as the weights, and rarely needed again
        if graph is None:
            graph, _ = self._original.freeze(self._wanted)
        signatures = {name: BoundSignature(self._specs[name], binding) for name, binding in self.bindings.items()}
        self._applied |= {name: [FREEZE] for name in signatures}
        self._plain = None
        for pass_name, rewrite in self._passes:
            wanted = {name for name in signatures if pass_name not in self._dropped[name]}
            if not wanted:
                continue
            plain = without_values(graph) if rewrite is optimize else None
            try:
                graph, reasons = rewrite(graph, signatures, wanted)
            except Exception as err:  # noqa: BLE001 - a wrong rewrite may fail in any way
                reasons = dict.fromkeys(wanted, f"it fails: {clean(str(err))}")
                _log.warning("pass %s is dropped: %s", pass_name, clean(str(err)))
            for name in wanted:
                if name in reasons:
                    self._dropped[name][pass_name] = reasons[name]
                else:
                    self._applied[name].append(pass_name)
            self._plain = None if reasons else plain
        # Of a large graph the session has the only copy: to make a callable takes several times its weights.
        self._graph = graph if self._plain is None else without_values(graph)
        options = replace(self._options, bf16=False, is_optimized=self._plain is not None)
        try:
            self._session = open_session(graph, options)
            del graph
            give_back()
        except Exception as err:  # noqa: BLE001 - a wrong rewrite may fail in any way
            return dict.fromkeys(self.bindings, f"TensorFlow refuses the graph: {clean(str(err))}")
        return {}

    def _compare(self, samples: Mapping[str, Sequence[Rows]]) -> dict[str, str]:
        """Returns how signatures differ from the original, by signature; those that do not are left out."""
        found = {}
        for name in self.bindings:
            try:
                found[name] = difference(self.original(name), self.engine(name), samples[name])
            except Exception as err:  # noqa: BLE001 - a wrong rewrite may fail in any way
                found[name] = f"it fails: {clean(str(err))}"
        return {name: reason for name, reason in found.items() if reason}
