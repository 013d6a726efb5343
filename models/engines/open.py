"""From an artifact to a model that answers: `load_model` is what the rest of the house calls."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from darkroom.models.engine import Engine, PassReport
from darkroom.models.engines.choices import Choice, Choices
from darkroom.models.engines.devices import Device, resolve
from darkroom.models.engines.on_devices import cores_for, joints_for, options_on, put_fronts, session_on
from darkroom.models.engines.row_prefix import with_known_waist, with_waist
from darkroom.models.engines.sharded import SHARD, ShardedEngine, objection, shard
from darkroom.models.engines.structure import structure_of
from darkroom.models.errors import LoadFailed
from darkroom.models.loaded import LoadedModel
from darkroom.models.rewriting.artifact import Artifact
from darkroom.models.rewriting.job import Job
from darkroom.models.rewriting.prepare import prepare
from darkroom.models.rewriting.rewriter import BF16, open_beside
from darkroom.models.runtime.custom_ops import load_custom_ops
from darkroom.models.runtime.session import Binding, SessionEngine, clean
from darkroom.models.runtime.tensorflow import SessionOptions
from darkroom.models.saved_model.original import Original, open_original
from darkroom.models.saved_model.reader import read_meta_graph

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
) -> LoadedModel:
    """The SavedModel at `path`, rewritten, verified and ready, all in this process; blocks for seconds.

    Args:
        path: the version folder, with saved_model.pb in it.
        name: the model's name.
        version: the version's number.
        intra_op_threads: threads inside an op; 0: one a core. See SessionOptions.
        inter_op_threads: threads for ops beside each other; 0: one a core, -1: none, the calling thread runs them.
        session_config: Simple TensorFlow Serving's four session settings; they win.
        max_drift: how far bfloat16 may move an output; None: it is not used.
        device: where it runs: `auto`, `cpu`, `cpu:N`, `gpu` or `gpu:0,1`; see models/engines/devices.py.

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
    )
    return open_job(prepare_job(job), job)


def prepare_job(job: Job) -> Artifact:
    """The artifact of a job.

    Raises:
        LoadFailed: it cannot be served; the message says why and names no path.
    """
    with _load_failures():
        return prepare(job.path, name=job.name, version=job.version, options=_options(job))


def open_job(artifact: Artifact, job: Job, choices: Choices | None = None) -> LoadedModel:
    """A model that answers, out of the artifact of this job or of one with the same key.

    `choices`: see `open_artifact`.

    Raises:
        LoadFailed: it cannot be served; the message says why and names no path.
    """
    with _load_failures():
        load_custom_ops(job.custom_op_paths)
        spec = replace(artifact.spec, name=job.name, version=job.version)
        return open_artifact(replace(artifact, spec=spec), _options(job), resolve(job.device), choices=choices)


def _options(job: Job) -> SessionOptions:
    options = SessionOptions(job.intra_op_threads, job.inter_op_threads).with_session_config(job.session_config)
    return options if job.max_drift is None else replace(options, bf16=True, max_drift=job.max_drift)


@contextmanager
def _load_failures() -> Iterator[None]:
    """Makes LoadFailed of whatever TensorFlow raises."""
    try:
        yield
    except LoadFailed:
        raise
    except Exception as err:
        raise LoadFailed(f"it cannot be loaded: {type(err).__name__}: {clean(str(err))}") from err


def open_artifact(
    artifact: Artifact,
    options: SessionOptions,
    devices: Sequence[Device] = (Device("cpu", 0),),
    *,
    choices: Choices | None = None,
) -> LoadedModel:
    """A model that answers, with an engine on each device.

    What `choices` has of a graph of the same structure is taken over, else measured and put there.

    The SavedModel itself is loaded only for signatures that could not be rewritten, and runs where TensorFlow puts it:
    what keeps state must be one.
    """
    specs = artifact.spec.signatures
    rounds = any(report.name == BF16 and report.applied for reports in artifact.passes.values() for report in reports)
    options = replace(options, bf16=rounds)
    left = {name: spec for name, spec in specs.items() if name not in artifact.bindings}
    joints = joints_for(artifact, options, devices)
    sessions = (
        {str(device): session_on(device, artifact, options, joints) for device in devices} if artifact.graph else {}
    )
    original: Original | None = None
    if left:
        first = options_on(devices[0], options)
        original = open_original(artifact.source, read_meta_graph(artifact.source), left, first)

    def engines(name: str) -> dict[str, Engine]:
        passes = artifact.passes[name]
        if original is not None and name in left:
            return {str(devices[0]): original.engine(specs[name], passes)}
        binding = artifact.bindings[name]
        return {
            device: SessionEngine(specs[name], session, binding, passes=passes) for device, session in sessions.items()
        }

    replicas = {name: engines(name) for name in specs}
    narrow: Any = None
    if artifact.graph:
        with ThreadPoolExecutor(1) as passing:  # with it goes what oneDNN keeps for a thread
            first = sessions[str(devices[0])]
            trial = passing.submit(
                _shard, replicas, artifact, options, devices, session=first, choices=choices or Choices()
            )
            narrow = trial.result()
    fronts = put_fronts(replicas, artifact, options, devices, joints)

    def free() -> None:
        for each in (fronts, *sessions.values(), narrow, original):
            if each is not None:
                each.close()

    firsts = {name: next(iter(each.values())) for name, each in replicas.items()}
    return LoadedModel(artifact.spec, firsts, artifact.samples, free, replicas)


def _shard(
    replicas: Mapping[str, dict[str, Engine]],
    artifact: Artifact,
    options: SessionOptions,
    devices: Sequence[Device],
    *,
    session: Any,
    choices: Choices,
) -> Any:
    """Puts sharded engines in the place of those that they beat; the session that they need besides, or None."""
    device = str(devices[0])
    wide = {name: each for name in artifact.bindings if isinstance(each := replicas[name].get(device), SessionEngine)}
    cores = cores_for(options)
    if reason := objection(devices, cores, len(artifact.graph)):
        for engine in wide.values():
            engine.passes = (*engine.passes, PassReport(SHARD, applied=False, reason=reason))
        return None
    structure = structure_of(artifact, options)
    known = choices.of(structure)
    if all(name in known and not known[name].least for name in wide):
        for name, engine in wide.items():
            engine.passes = (*engine.passes, *known[name].found_shards)
        return None
    one_thread = replace(options, intra_op_threads=1, inter_op_threads=-1)
    beside = open_beside(session, options_on(devices[0], one_thread))
    narrow, waists = _narrow(wide, artifact, beside, known)
    sharded = shard(wide, narrow, artifact.samples, cores=cores, known=known)
    for name, candidate in sharded.items():
        candidate.passes = (*candidate.passes, waists[name])
        replicas[name][device] = candidate
    found = {name: _choice(each, sharded.get(name), waists[name]) for name, each in wide.items() if name not in known}
    choices.keep(structure, {**known, **found})
    if sharded:
        return beside
    beside.close()
    return None


def _narrow(
    wide: Mapping[str, SessionEngine], artifact: Artifact, session: Any, known: Mapping[str, Choice]
) -> tuple[dict[str, SessionEngine], dict[str, PassReport]]:
    """The signatures in a session without threads of its own, with a waist where that pays, and what became of that."""
    narrow, waists = {}, {}
    for name, each in wide.items():
        binding, samples = artifact.bindings[name], artifact.samples[name]
        at_waist = partial(_with, each, session, binding)
        if name in known:
            narrow[name], waists[name] = with_known_waist(each, at_waist, samples, known[name])
        else:
            narrow[name], waists[name] = with_waist(at_waist(), session.graph, binding, samples)
    return narrow, waists


def _with(wide: SessionEngine, session: Any, binding: Binding, waist: str = "") -> SessionEngine:
    return SessionEngine(wide.spec, session, binding, passes=wide.passes, waist=waist)


def _choice(wide: SessionEngine, sharded: ShardedEngine | None, waist: PassReport) -> Choice:
    """What was decided of a signature."""
    shards = tuple(report for report in wide.passes if report.name == SHARD)
    if sharded is None:
        return Choice(found_waist=waist, found_shards=shards)
    return Choice(sharded.waist, sharded.least, sharded.piece, waist, shards)
