"""Opens a model: from a SavedModel or an artifact to engines that answer. `load_model` does it all in this process."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from darkroom.models.engine import Engine, LoadedModel, PassReport
from darkroom.models.engines.cpu_decode import (
    ConcatPoint,
    DecodePool,
    concat_points,
    with_concat_points,
    with_cpu_decode,
)
from darkroom.models.engines.devices import Device, place, resolve
from darkroom.models.engines.row_prefix import MAX_SEARCHED_BYTES, ROW_PREFIX, with_known_row_prefix, with_row_prefix
from darkroom.models.engines.sharded import SHARD, shard, why_not_sharded
from darkroom.models.engines.tuning import Timer, Tuning, TuningCache, graph_key, time_both
from darkroom.models.rewriting.artifact import Artifact
from darkroom.models.rewriting.job import Job
from darkroom.models.rewriting.optimize import OPTIMIZE, room_to_open
from darkroom.models.rewriting.prepare import load_failures, prepare, prepare_job, session_options
from darkroom.models.rewriting.rewriter import BF16
from darkroom.models.runtime.custom_ops import load_custom_ops
from darkroom.models.runtime.memory import check_room, trimmed
from darkroom.models.runtime.session import Binding, SessionEngine, open_beside, open_session
from darkroom.models.runtime.tensorflow import SessionOptions, graph_pb2
from darkroom.models.saved_model.front.insert import read_with_front
from darkroom.models.saved_model.front.preprocess import Preprocess
from darkroom.models.saved_model.original import Original, open_original

__all__ = ["Artifact", "LoadedModel", "SessionOptions", "load_model", "open_artifact", "prepare"]


def load_model(
    path: Path,
    *,
    name: str,
    version: int,
    intra_op_threads: int = 0,
    inter_op_threads: int = 0,
    session_config: Mapping[str, Any] | None = None,
    device: str = "auto",
    max_drift: float | None = None,
    pictures: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """Rewrites, verifies and opens the SavedModel at `path`, all in this process. Blocks for seconds.

    Args:
        path: the version folder, with saved_model.pb in it.
        name: the model's name.
        version: the version's number.
        intra_op_threads: threads inside an op; 0: one a core. See SessionOptions.
        inter_op_threads: threads that run ops at the same time; 0: one a core, -1: none, the calling thread runs them.
        session_config: Simple TensorFlow Serving's four session settings; they win over the others.
        device: where it runs: `auto`, `cpu`, `cpu:N`, `gpu` or `gpu:0,1`; see models/engines/devices.py.
        max_drift: how far bfloat16 may move an output; None: bfloat16 is not used.
        pictures: the decode front to put before a signature that takes tensors, as `--pictures` says it; None: none.

    Raises:
        LoadFailed: it cannot be served; the message says why and names no path.
    """
    job = Job(
        path,
        name,
        version,
        intra_op_threads,
        inter_op_threads,
        dict(session_config or {}),
        device=device,
        max_drift=max_drift,
        pictures=None if pictures is None else dict(pictures),
    )
    return open_job(prepare_job(job), job)


def open_job(artifact: Artifact, job: Job, cache: TuningCache | None = None) -> LoadedModel:
    """Opens the artifact of this job, or of one with the same key.

    Args:
        artifact: what `prepare` made.
        job: the job.
        cache: see `open_artifact`.

    Raises:
        LoadFailed: it cannot be served; the message says why and names no path.
    """
    with load_failures():
        load_custom_ops(job.custom_op_paths)
        spec = replace(artifact.spec, name=job.name, version=job.version)
        pictures = None if job.pictures is None else Preprocess.of(job.pictures)
        return open_artifact(
            replace(artifact, spec=spec, pictures=pictures), session_options(job), resolve(job.device), cache=cache
        )


def open_artifact(
    artifact: Artifact,
    options: SessionOptions,
    devices: Sequence[Device] = (Device("cpu", 0),),
    *,
    cache: TuningCache | None = None,
    timer: Timer = time_both,
) -> LoadedModel:
    """Opens a model with an engine for each signature and device, in the fastest way that is proven to answer the same.

    The SavedModel itself is loaded only for signatures that could not be rewritten. Those have one engine, which runs
    where TensorFlow places it, since a signature that keeps state must not exist twice.

    Args:
        artifact: what `prepare` made.
        options: how sessions are set up.
        devices: where engines run.
        cache: what was decided for graphs of the same key is taken from there; what is decided now is added.
        timer: what compares two implementations.
    """
    reports = [report for each in artifact.passes.values() for report in each]
    done = {report.name for report in reports if report.applied}
    options = replace(options, bf16=BF16 in done, is_optimized=OPTIMIZE in done)
    return _Opening(artifact, options, devices, cache or TuningCache(), timer).open()


@dataclass(slots=True)
class _Opening:
    """One artifact on its way to a LoadedModel: a session a device, an engine a signature and device, the fastest kept.

    Attributes:
        engines: signature → device → its engine there, replaced as faster ones are found.
        sessions: device → the session of the artifact's graph there; empty where no signature was rewritten.
    """

    artifact: Artifact
    options: SessionOptions
    devices: Sequence[Device]
    cache: TuningCache
    timer: Timer
    engines: dict[str, dict[str, Engine]] = field(default_factory=dict)
    sessions: dict[str, Any] = field(default_factory=dict)

    @property
    def cores(self) -> int:
        """The cores that a session's calls may use."""
        return self.options.intra_op_threads or os.cpu_count() or 1

    @property
    def graph_def(self) -> Any:
        """The rewritten graph, parsed at each call so that it is not kept."""
        return graph_pb2.GraphDef.FromString(self.artifact.graph)

    @property
    def tries_cpu_decode(self) -> bool:
        """Whether a decode stage is tried: not on the one CPU, where the layers use the same cores and shards do better."""
        return bool(self.artifact.graph) and tuple(self.devices) != (Device("cpu", 0),) and self.cores > 1

    def open(self) -> LoadedModel:
        """The model; see `open_artifact`."""
        artifact = self.artifact
        need = room_to_open(len(artifact.graph), is_optimized=self.options.is_optimized)
        check_room(need, "to open it")
        points = concat_points(self.graph_def, artifact.bindings.values(), self.cores) if self.tries_cpu_decode else {}
        if artifact.graph:
            with trimmed():  # the parsed graph is as large as the weights
                self.sessions = {str(device): self.session_on(device, points) for device in self.devices}
        original = self.open_engines()
        single: Any = None
        if artifact.graph:
            with ThreadPoolExecutor(1) as thread:  # what oneDNN keeps for a thread goes with it
                single = thread.submit(self.shard).result()
        pool = self.decode_on_cpu(points) if self.tries_cpu_decode else None

        shared = [each for each in (pool, *self.sessions.values(), single, original) if each is not None]

        def free() -> None:  # holds no reference to the artifact, whose graph is as large as the weights
            for each in shared:
                each.close()

        same = {name: spec.same_as for name, spec in artifact.spec.signatures.items() if spec.same_as}
        self.engines |= {name: self.engines[first] for name, first in same.items()}
        samples = artifact.samples | {name: artifact.samples[first] for name, first in same.items()}
        firsts = {name: next(iter(each.values())) for name, each in self.engines.items()}
        return LoadedModel(artifact.spec, firsts, samples, free, self.engines)

    def options_on(self, device: Device) -> SessionOptions:
        """The options of a session on the device: one for a CPU sees no GPU."""
        if device.kind == "gpu":
            return self.options
        return replace(self.options, cpu_devices=device.count, uses_gpus=False)

    def session_on(self, device: Device, points: Mapping[str, ConcatPoint]) -> Any:
        """A session of the graph, placed on the device, with the concatenation points of its decode stages."""
        graph_def = place(self.graph_def, device, self.artifact.bindings.values())
        if points:
            graph_def = with_concat_points(graph_def, points.values(), device.path)
        return open_session(graph_def, self.options_on(device))

    def open_engines(self) -> Original | None:
        """Fills `engines`; returns the SavedModel itself where some signatures could not be rewritten and need it."""
        artifact = self.artifact
        specs = {name: spec for name, spec in artifact.spec.signatures.items() if not spec.same_as}
        left = {name: spec for name, spec in specs.items() if name not in artifact.bindings}
        original: Original | None = None
        if left:
            pictures, options = artifact.pictures, self.options_on(self.devices[0])
            meta_graph = read_with_front(artifact.source, pictures)
            original = open_original(artifact.source, meta_graph, left, options, pictures)
        for name, spec in specs.items():
            passes = artifact.passes[name]
            if original is not None and name in left:
                self.engines[name] = {str(self.devices[0]): original.engine(spec, passes)}
            else:
                self.engines[name] = {
                    device: SessionEngine(spec, session, artifact.bindings[name], passes=passes)
                    for device, session in self.sessions.items()
                }
        return original

    def rewritten_on(self, device: str) -> dict[str, SessionEngine]:
        """The engines of the rewritten signatures on a device that still run whole in its session."""
        found = {name: self.engines[name].get(device) for name in self.artifact.bindings}
        return {name: engine for name, engine in found.items() if isinstance(engine, SessionEngine)}

    def shard(self) -> Any:
        """Replaces engines by sharded ones that are faster; returns the session that those need besides, or None."""
        first = self.devices[0]
        threaded = self.rewritten_on(str(first))
        if reason := why_not_sharded(self.devices, self.cores, len(self.artifact.graph)):
            for engine in threaded.values():
                engine.passes = (*engine.passes, PassReport(SHARD, applied=False, reason=reason))
            return None
        key = graph_key(self.artifact, self.options)
        known = self.cache.get(key)
        if all(name in known and not known[name].min_rows for name in threaded):
            for name, engine in threaded.items():
                engine.passes = (*engine.passes, *known[name].shard_reports)
            return None
        one_thread = replace(self.options_on(first), intra_op_threads=1, inter_op_threads=-1)
        session = open_beside(self.sessions[str(first)], one_thread)
        single, reports = self.single_threaded(threaded, session, known)
        sharded = shard(threaded, single, self.artifact.samples, cores=self.cores, known=known, timer=self.timer)
        tunings = dict(known)
        for name, engine in threaded.items():
            candidate = sharded.get(name)
            shard_reports = tuple(report for report in engine.passes if report.name == SHARD)
            found = Tuning(split_report=reports[name], shard_reports=shard_reports)
            if candidate is not None:
                candidate.passes = (*candidate.passes, reports[name])
                self.engines[name][str(first)] = candidate
                found = found._replace(
                    split=candidate.split, min_rows=candidate.min_rows, piece_rows=candidate.piece_rows
                )
            tunings.setdefault(name, found)
        self.cache.put(key, tunings)
        if sharded:
            return session
        session.close()
        return None

    def single_threaded(
        self, threaded: Mapping[str, SessionEngine], session: Any, known: Mapping[str, Tuning]
    ) -> tuple[dict[str, SessionEngine], dict[str, PassReport]]:
        """The signatures in a session without threads of its own, with a row prefix where that pays; and the reports."""
        single, reports = {}, {}
        for name, other in threaded.items():
            binding, samples = self.artifact.bindings[name], self.artifact.samples[name]

            def split_at(tensor: str, other: SessionEngine = other, binding: Binding = binding) -> SessionEngine:
                return SessionEngine(other.spec, session, binding, passes=other.passes, split=tensor)

            if len(self.artifact.graph) > MAX_SEARCHED_BYTES:
                reason = f"to look for it would take several times the graph's {len(self.artifact.graph) >> 20} MB"
                single[name], reports[name] = split_at(""), PassReport(ROW_PREFIX, applied=False, reason=reason)
            elif name in known:
                single[name], reports[name] = with_known_row_prefix(other, split_at, samples, known[name])
            else:
                single[name], reports[name] = with_row_prefix(
                    split_at(""), session.graph, binding, samples, timer=self.timer
                )
        return single, reports

    def decode_on_cpu(self, points: Mapping[str, ConcatPoint]) -> DecodePool | None:
        """Replaces engines by faster ones that decode on the CPU's cores; returns the threads of those, or None."""
        pool, is_used = DecodePool(self.cores), False
        for device in self.devices:
            split = with_cpu_decode(
                self.rewritten_on(str(device)),
                self.graph_def,
                self.artifact.bindings,
                self.artifact.samples,
                pool,
                points=points,
                float_bytes=device.float_bytes,
                timer=self.timer,
            )
            for name, engine in split.items():
                self.engines[name][str(device)] = engine
                is_used = True
        if is_used:
            return pool
        pool.close()
        return None
