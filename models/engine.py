"""From an artifact to a model that answers: `load_model` is what the rest of the house calls."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from models._tensorflow import SessionOptions, graph_pb2
from models.artifact import Artifact
from models.custom_ops import load_custom_ops
from models.errors import LoadFailed
from models.job import Job
from models.loaded import LoadedModel
from models.original import Original, open_original
from models.prepare import prepare
from models.rewriting import open_session
from models.runner import Engine
from models.saved_model import read_meta_graph
from models.session import SessionEngine, clean

__all__ = ["Artifact", "LoadedModel", "SessionOptions", "load_model", "open_artifact", "prepare"]


def load_model(
    path: Path,
    *,
    name: str,
    version: int,
    intra_op_threads: int = 0,
    inter_op_threads: int = 0,
    session_config: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """The SavedModel at `path`, rewritten, verified and ready, all in this process; blocks for seconds.

    Args:
        path: the version folder, with saved_model.pb in it.
        name: the model's name.
        version: the version's number.
        intra_op_threads: threads inside an op; 0: one a core. See SessionOptions.
        inter_op_threads: threads for ops beside each other; 0: one a core, -1: none, the calling thread runs them.
        session_config: Simple TensorFlow Serving's four session settings; they win.

    Raises:
        LoadFailed: it cannot be served; the message says why and names no path.
    """
    job = Job(path, name, version, intra_op_threads, inter_op_threads, dict(session_config or {}))
    return open_job(prepare_job(job), job)


def prepare_job(job: Job) -> Artifact:
    """The artifact of a job.

    Raises:
        LoadFailed: it cannot be served; the message says why and names no path.
    """
    with _load_failures():
        return prepare(job.path, name=job.name, version=job.version, options=_options(job))


def open_job(artifact: Artifact, job: Job) -> LoadedModel:
    """A model that answers, out of the artifact of this job or of one with the same key.

    Raises:
        LoadFailed: it cannot be served; the message says why and names no path.
    """
    with _load_failures():
        load_custom_ops(job.custom_op_paths)
        spec = replace(artifact.spec, name=job.name, version=job.version)
        return open_artifact(replace(artifact, spec=spec), _options(job))


def _options(job: Job) -> SessionOptions:
    return SessionOptions(job.intra_op_threads, job.inter_op_threads).with_session_config(job.session_config)


@contextmanager
def _load_failures() -> Iterator[None]:
    """Makes LoadFailed of whatever TensorFlow raises."""
    try:
        yield
    except LoadFailed:
        raise
    except Exception as err:
        raise LoadFailed(f"it cannot be loaded: {type(err).__name__}: {clean(str(err))}") from err


def open_artifact(artifact: Artifact, options: SessionOptions) -> LoadedModel:
    """A model that answers. The SavedModel itself is loaded only for signatures that could not be rewritten."""
    specs = artifact.spec.signatures
    session = open_session(graph_pb2.GraphDef.FromString(artifact.graph), options) if artifact.graph else None
    left = {name: spec for name, spec in specs.items() if name not in artifact.bindings}
    original: Original | None = None
    if left:
        original = open_original(artifact.source, read_meta_graph(artifact.source), left, options)

    def engine(name: str) -> Engine:
        passes = artifact.passes[name]
        if original is not None and name in left:
            return original.engine(specs[name], passes)
        return SessionEngine(specs[name], session, artifact.bindings[name], passes=passes)

    def free() -> None:
        for each in (session, original):
            if each is not None:
                each.close()

    return LoadedModel(artifact.spec, {name: engine(name) for name in specs}, artifact.samples, free)
