"""Settles which passes are in force: all that apply, less those that change an answer."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from darkroom.models.engine import Engine, PassReport
from darkroom.models.graph.decoding_ops import find_cut
from darkroom.models.graph.reachability import Reach
from darkroom.models.rewriting.passes import BoundSignature, Pass
from darkroom.models.rewriting.verify import difference, misjudges, not_row_wise
from darkroom.models.rows import Rows
from darkroom.models.runtime.session import Binding, SessionEngine, clean, open_session
from darkroom.models.runtime.tensorflow import SessionOptions
from darkroom.models.saved_model.image_input import unbatched
from darkroom.models.saved_model.original import Original
from darkroom.models.spec import SignatureSpec

_log = logging.getLogger("darkroom.models")
FREEZE, SCREEN, BF16 = "freeze", "screen", "bf16"


class Rewriter:
    """The signatures of one SavedModel on their way through the passes.

    A signature has a binding while it is served from the rewritten graph; back on the original, it has none.
    """

    def __init__(
        self,
        original: Original,
        specs: Mapping[str, SignatureSpec],
        reaches: Mapping[str, Reach],
        options: SessionOptions,
        passes: Sequence[tuple[str, Pass]],
    ) -> None:
        self.bindings: dict[str, Binding] = {}
        self._original = original
        self._specs = specs
        self._options = options
        self._passes = passes
        self._frozen: Any = None
        self._dropped: dict[str, dict[str, str]] = {name: {} for name in specs}  # signature → pass → reason
        self._applied: dict[str, list[str]] = {name: [] for name in specs}
        self._notes: dict[tuple[str, str], str] = {}  # signature, pass → what it did
        self._graph: Any = None
        self._session: Any = None
        self._engines: dict[str, Engine] = {}  # those of the graph as it stands; making one costs an optimisation of it
        self._originals: dict[str, Engine] = {}
        changes = "; ".join(f"signature {name!r}: {each.mutates}" for name, each in reaches.items() if each.mutates)
        for name, each in reaches.items():
            if reason := each.stateful or each.unfreezable or changes:
                self._dropped[name][FREEZE] = reason

    def settle(self, samples: Mapping[str, Sequence[Rows]]) -> None:
        """Applies what applies, compares with the original on `samples`, takes back what differs until none does."""
        for name in self._specs:
            if not samples[name]:
                self._dropped[name].setdefault(FREEZE, "it cannot be verified: no generated row is one that it takes")
        self._freeze()
        while self.bindings:
            wrong = self._apply() or self._compare(samples)
            if not wrong:
                return
            for name, reason in wrong.items():
                self._take_back(name, reason)
        self._graph = None

    def add_screen(self, spec: SignatureSpec, samples: Sequence[Rows]) -> None:
        """Gives a signature its cut, if that passes the samples and finds one that is cut short guilty."""
        name = spec.name
        if name not in self.bindings:
            return
        try:
            binding = self._with_cut(spec)
            engine = SessionEngine(spec, self._session, binding, passes=self.reports()[name])
            reason = misjudges(engine, samples)
        except Exception as err:  # noqa: BLE001 - whatever TensorFlow raises, a signature without a screen still serves
            reason = clean(str(err))
        if reason:
            self._dropped[name][SCREEN] = reason
        else:
            self._applied[name].append(SCREEN)
            self.bindings[name] = binding

    def _with_cut(self, spec: SignatureSpec) -> Binding:
        if not spec.batched:
            raise ValueError("its requests never share a call")
        binding = self.bindings[spec.name]
        strings = [binding.feeds[tensor.name] for tensor in spec.inputs if tensor.dtype == "string"]
        return replace(binding, cut=find_cut(self._graph, strings, list(binding.fetches.values())))

    def original(self, name: str) -> Engine:
        """The signature as its author meant it."""
        if name not in self._originals:
            self._originals[name] = self._original.engine(self._specs[name])
        return self._originals[name]

    def engine(self, name: str) -> Engine:
        """The signature as it stands now."""
        if name not in self.bindings:
            return self.original(name)
        if name not in self._engines:
            passes = self.reports()[name]
            self._engines[name] = SessionEngine(self._specs[name], self._session, self.bindings[name], passes=passes)
        return self._engines[name]

    def prove_row_wise(self, spec: SignatureSpec, samples: Sequence[Rows]) -> SignatureSpec:
        """The spec, unbatched with the reason unless a batch of `samples` answers as its rows alone do."""
        if not spec.batched:
            return spec
        if not samples:
            return unbatched(spec, "it cannot be proven row-wise: no generated row is one that it takes")
        reason = not_row_wise(self.engine(spec.name), samples)
        if reason:
            _log.warning("signature %r is served one request at a time: %s", spec.name, reason)
        return unbatched(spec, reason) if reason else spec

    def reports(self) -> dict[str, tuple[PassReport, ...]]:
        """What each pass came to, by signature."""
        return {name: tuple(self._report(name, each) for each in self._names()) for name in self._specs}

    @property
    def graph(self) -> Any:
        """The rewritten GraphDef; None where every signature went back to the original."""
        return self._graph

    def note(self, name: str, each: str, what: str) -> None:
        """A pass outside the graph is in force for a signature, and what it did."""
        self._applied[name].append(each)
        self._notes[name, each] = what

    def refuse(self, name: str, each: str, reason: str) -> None:
        """A pass outside the graph is not in force for a signature."""
        self._drop(name, each, reason)

    def serialized(self) -> bytes:
        """The rewritten GraphDef; empty where every signature went back to the original."""
        return b"" if self._graph is None else bytes(self._graph.SerializeToString(deterministic=True))

    def close(self) -> None:
        """Closes the session of the rewritten graph; idempotent."""
        session, self._session = self._session, None
        self._engines.clear()
        if session is not None:
            session.close()

    def _names(self) -> list[str]:
        asked = [BF16] if self._options.bf16 else []
        return [FREEZE, *(name for name, _ in self._passes), SCREEN, *asked]

    def _report(self, name: str, each: str) -> PassReport:
        if each in self._applied[name]:
            return PassReport(each, applied=True, reason=self._notes.get((name, each), ""))
        return PassReport(each, applied=False, reason=self._dropped[name].get(each, "the graph is not frozen"))

    def _freeze(self) -> None:
        wanted = {name: spec for name, spec in self._specs.items() if FREEZE not in self._dropped[name]}
        if not wanted:
            return
        try:
            self._frozen, self.bindings = self._original.freeze(wanted)
            self._frozen.SerializeToString()  # past 2 GB, protobuf refuses here
        except Exception as err:  # noqa: BLE001 - whatever TensorFlow raises, the original still serves
            self.bindings = {}
            for name in wanted:
                self._drop(name, FREEZE, f"it cannot be frozen: {clean(str(err))}")

    def _apply(self) -> dict[str, str]:
        """Makes the graph and its session anew, with every pass that is not dropped; why it cannot, by signature."""
        self.close()
        graph = self._frozen
        targets = {name: BoundSignature(self._specs[name], binding) for name, binding in self.bindings.items()}
        self._applied |= {name: [FREEZE] for name in targets}
        for each, rewrite in self._passes:
            wanted = {name for name in targets if each not in self._dropped[name]}
            if not wanted:
                continue
            try:
                graph, reasons = rewrite(graph, targets, wanted)
            except Exception as err:  # noqa: BLE001 - a wrong rewrite may fail in any way
                reasons = dict.fromkeys(wanted, f"it fails: {clean(str(err))}")
                _log.warning("pass %s is dropped: %s", each, clean(str(err)))
            for name in wanted:
                if name in reasons:
                    self._dropped[name][each] = reasons[name]
                else:
                    self._applied[name].append(each)
        self._graph = graph
        try:
            self._session = open_session(graph, replace(self._options, bf16=False))
        except Exception as err:  # noqa: BLE001 - a wrong rewrite may fail in any way
            return dict.fromkeys(self.bindings, f"TensorFlow refuses the graph: {clean(str(err))}")
        return {}

    def _compare(self, samples: Mapping[str, Sequence[Rows]]) -> dict[str, str]:
        """How each signature differs from the original; those that do not are left out."""
        found = {}
        for name in self.bindings:
            try:
                found[name] = difference(self.original(name), self.engine(name), samples[name])
            except Exception as err:  # noqa: BLE001 - a wrong rewrite may fail in any way
                found[name] = f"it fails: {clean(str(err))}"
        return {name: reason for name, reason in found.items() if reason}

    def _take_back(self, name: str, reason: str) -> None:
        """Drops the last pass that is applied to a signature; the first of all is the freezing itself."""
        last = self._applied[name].pop()
        self._drop(name, last, f"its answer is not the original's: {reason}")
        if last == FREEZE:
            del self.bindings[name]

    def _drop(self, name: str, each: str, reason: str) -> None:
        self._dropped[name][each] = reason
        _log.warning("pass %s is dropped for signature %r: %s", each, name, reason)
