"""Prepares a SavedModel: reads its signatures, rewrites its graph and proves the rewrites. Returns an artifact.

This is the expensive part of a load. It may run in another process, see `models/rewriting/child.py`;
`models/engines/open.py` opens the artifact.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

from darkroom.models.errors import LoadFailed
from darkroom.models.graph.reachability import GraphTraits, find_traits, why_not_runnable
from darkroom.models.graph.same_function import find_same_functions
from darkroom.models.rewriting.artifact import Artifact
from darkroom.models.rewriting.bfloat16 import try_bf16
from darkroom.models.rewriting.job import Job
from darkroom.models.rewriting.optimize import OPTIMIZE, optimize
from darkroom.models.rewriting.passes import PASSES, Pass
from darkroom.models.rewriting.rewriter import Rewriter
from darkroom.models.rewriting.verify import first_accepted
from darkroom.models.rows import Rows
from darkroom.models.runtime.session import clean
from darkroom.models.runtime.tensorflow import SessionOptions
from darkroom.models.saved_model.activations import with_activations
from darkroom.models.saved_model.demands import with_demands
from darkroom.models.saved_model.front.geometry import read_fit
from darkroom.models.saved_model.front.insert import add_front, make_plan
from darkroom.models.saved_model.front.preprocess import DEFAULT, Preprocess
from darkroom.models.saved_model.image_input import check_batching, find_image_input
from darkroom.models.saved_model.original import OnDemand, open_original
from darkroom.models.saved_model.reader import describe_signatures, read_labels, read_meta_graph, read_signatures
from darkroom.models.saved_model.sample_rows import PictureMaker, candidates
from darkroom.models.saved_model.tf_example import float_features
from darkroom.models.saved_model.warmup_requests import recorded_rows
from darkroom.models.spec import ModelSpec, SignatureSpec

Passes = Sequence[tuple[str, Pass]]
Reasons = Mapping[str, str]
_NONE: Reasons = MappingProxyType({})


def prepare(
    path: Path, *, name: str, version: int, options: SessionOptions, passes: Passes = PASSES,
    pictures: Preprocess | None = None, known: Reasons = _NONE,
) -> Artifact:  # fmt: skip
    """Reads, rewrites and verifies the SavedModel at `path`, without the signatures that are `known` to be bad.

    All of this runs on the CPU, whatever device the model will run on. A GPU multiplies floats in TF32, which has 11
    bits, and uses other kernels for other numbers of rows, so no rewrite and no batch could be proven there.

    A signature that keeps state is not run, so a load does not change the state. With `pictures`, a signature that takes
    tensors gets a decode front first, and is then a signature like any other.

    Raises:
        LoadFailed: the SavedModel cannot be read, or none of its signatures can be served.
    """
    options = replace(options, uses_gpus=False)
    meta_graph = read_meta_graph(path)
    front = read_fit(path) if pictures is None else make_plan(meta_graph, pictures).fit()
    meta_graph = meta_graph if pictures is None else add_front(meta_graph, pictures)
    specs, refused = read_signatures(meta_graph)
    refused |= known
    graph_def = meta_graph.graph_def
    traits = _examine(graph_def, specs, refused)
    specs = {key: spec for key, spec in specs.items() if key not in refused}
    if not specs:
        raise LoadFailed("; ".join(f"{key}: {reason}" for key, reason in refused.items()) or "it has no signature")
    if missing := sorted({op for each in traits.values() for op in each.missing}):
        raise LoadFailed(f"this TensorFlow has no op {', '.join(missing)}: give its library with --custom_op_paths")
    floats = float_features(graph_def)
    specs = {
        key: replace(check_batching(find_image_input(spec, graph_def), traits[key]), float_features=floats)
        for key, spec in specs.items()
    }
    specs |= {key: replace(spec, front=front) for key, spec in specs.items() if key == DEFAULT}
    specs = {key: with_demands(spec, graph_def) for key, spec in specs.items()}
    every, same = specs, find_same_functions(graph_def, {key: specs[key] for key in specs if not traits[key].stateful})
    specs = {key: spec for key, spec in every.items() if key not in same}
    exact = replace(options, bf16=False)
    original = OnDemand(partial(open_original, path, meta_graph, specs, exact, pictures))
    rewriter = Rewriter(original, specs, traits, options, passes)
    try:
        stateless = {key: spec for key, spec in specs.items() if not traits[key].stateful}
        recorded = recorded_rows(path, stateless)
        samples = dict.fromkeys(specs, ()) | _find_samples(rewriter, stateless, graph_def, options, recorded)
        rewriter.apply_passes(samples)
        specs = {key: _prove(rewriter, spec, samples[key], graph_def) for key, spec in specs.items()}
        if options.bf16:
            try_bf16(rewriter, specs, samples, options)
        specs = {key: _same(each, specs[same[key]]) if key in same else specs[key] for key, each in every.items()}
        unserved = describe_signatures(meta_graph, meta_graph.signature_def.keys() - specs.keys())
        spec = ModelSpec(name, version, specs, labels=read_labels(path), refused=refused, unserved=unserved)
        return Artifact(spec, path, rewriter.serialized(), rewriter.bindings, rewriter.reports(), samples, pictures)
    finally:
        rewriter.close()
        original.close()


def _same(spec: SignatureSpec, other: SignatureSpec) -> SignatureSpec:
    """Returns `other` under the name of `spec`: the same function, whose tensors have other names in the graph."""
    outputs = [replace(one, source=own.source) for one, own in zip(other.outputs, spec.outputs, strict=True)]
    return replace(other, name=spec.name, inputs=spec.inputs, outputs=tuple(outputs), same_as=other.name)


def _prove(rewriter: Rewriter, spec: SignatureSpec, samples: Sequence[Rows], graph_def: Any) -> SignatureSpec:
    """Returns the spec with what is proven of its rows, and what its outputs are; gives the signature its screen."""
    proven = rewriter.prove_row_wise(spec, samples, graph_def)
    rewriter.add_screen(proven, samples)
    return with_activations(proven, graph_def, rewriter.engine(spec.name), samples)


def _examine(graph_def: Any, specs: Mapping[str, SignatureSpec], refused: dict[str, str]) -> dict[str, GraphTraits]:
    """Returns the traits of each signature. One that can't be examined, or cannot run, is added to `refused`."""
    traits = {}
    for key, spec in specs.items():
        outputs = [tensor.source for tensor in spec.outputs]
        try:
            inputs = [tensor.source for tensor in spec.inputs]
            reason = why_not_runnable(graph_def, inputs, outputs)
            found = find_traits(graph_def, outputs, inputs)
            check_batching(find_image_input(spec, graph_def), found)
        except Exception as err:  # noqa: BLE001 - a graph may be odd in any way, and this is one signature of several
            reason = f"its graph cannot be examined: {type(err).__name__}: {clean(str(err))}"
        if reason:
            refused[key] = reason
        else:
            traits[key] = found
    return traits


def _find_samples(
    rewriter: Rewriter,
    specs: Mapping[str, SignatureSpec],
    graph_def: Any,
    options: SessionOptions,
    recorded: Mapping[str, list[Rows]],
) -> dict[str, tuple[Rows, ...]]:
    """Returns rows that each signature accepts: recorded ones if there are enough for a batch, else generated ones."""
    pictures = PictureMaker(options)
    try:
        samples = {}
        for key, spec in specs.items():
            original = rewriter.original(key)
            known = [rows for rows in recorded.get(key, ()) if first_accepted(original, [[rows]])]
            known = [rows for rows in known if spec.batched and rows.key == known[0].key] or known[:1]
            generated = candidates(spec, graph_def, pictures)
            sets = chain([known], generated) if len(known) > 1 or not spec.batched else chain(generated, [known])
            samples[key] = tuple(first_accepted(original, filter(None, sets), again=original.engine.run))
        return samples
    finally:
        pictures.close()


def prepare_job(job: Job) -> Artifact:
    """Returns the artifact of a job; see `prepare`.

    Raises:
        LoadFailed: it cannot be served. The message says why, and names no path.
    """
    options = session_options(job)
    # A GPU wants another graph than a CPU, and bfloat16 is chosen by the optimizer.
    passes = PASSES if options.bf16 or job.may_use_gpus() else (*PASSES, (OPTIMIZE, optimize))
    with load_failures():
        pictures = None if job.pictures is None else Preprocess.of(job.pictures)
        return prepare(
            job.path,
            name=job.name,
            version=job.version,
            options=options,
            passes=passes,
            pictures=pictures,
            known=job.refused,
        )


def session_options(job: Job) -> SessionOptions:
    """Returns the options of every session of this job.

    Raises:
        LoadFailed: `session_config` has an unknown key or a value of the wrong type.
    """
    options = SessionOptions(job.intra_op_threads, job.inter_op_threads).with_session_config(job.session_config)
    return options if job.max_drift is None else replace(options, bf16=True, max_drift=job.max_drift)


@contextmanager
def load_failures() -> Iterator[None]:
    """Context manager that turns every exception of TensorFlow into LoadFailed."""
    try:
        yield
    except LoadFailed:
        raise
    except Exception as err:
        raise LoadFailed(f"it cannot be loaded: {type(err).__name__}: {clean(str(err))}") from err
