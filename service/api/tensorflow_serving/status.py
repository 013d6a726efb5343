"""GET under /v1/: STS's list of models, TensorFlow Serving's status and metadata, class labels."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from sanic.response import HTTPResponse

from darkroom.models.errors import UnknownModel, quote
from darkroom.service.api.tensorflow_serving import paths
from darkroom.service.errors import NotFound
from darkroom.service.http.middleware import json_response
from darkroom.service.serving.registry import DEFAULT_SIGNATURE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from sanic.request import Request

    from darkroom.models.spec import ModelSpec, TensorSpec
    from darkroom.service.api.tensorflow_serving.paths import Address
    from darkroom.service.http.middleware import App
    from darkroom.service.parts import Darkroom
    from darkroom.service.serving.registry import Registry, VersionState
    from darkroom.service.serving.servable import Target


def add_status_routes(app: App, darkroom: Darkroom) -> None:
    """Adds the GETs of `paths.ROUTES`."""
    registry = darkroom.registry
    is_open = darkroom.auth.allows(None)  # the path of a model; only clients with credentials may know it

    def folders() -> dict[str, str]:
        return {} if is_open else darkroom.manager.folders()

    def describe_all() -> list[dict[str, Any]] | dict[str, list[str]]:
        """STS's list of descriptions; KServe's object of names on a server of --model_repository, which STS's never is."""
        if darkroom.settings.model_repository is not None:
            return {"models": list(registry.models())}
        known = folders()
        return [describe_model(registry, name, known) for name in registry.models()]

    answers: dict[str, Callable[[Address], HTTPResponse]] = {
        "models": lambda _: json_response(describe_all()),
        "status": lambda address: json_response(_status(registry, address, folders())),
        "metadata": lambda address: _metadata(paths.lookup(registry, address)),
        "labels": lambda address: json_response(_labels(registry, address.model)),
    }

    async def read(request: Request, rest: str) -> HTTPResponse:  # noqa: ARG001 - Sanic passes what it matched
        """One model, or all of them."""
        if (address := paths.read(request.path)) is None:
            request.ctx.template = paths.MALFORMED
            raise paths.malformed(request.method, request.path)
        request.ctx.template = address.template
        if address.act in {"metadata", "labels"}:  # a status loads nothing
            await darkroom.manager.lazy_models.ensure(address.model)
        return answers[address.act](address)

    darkroom.middleware.route(app, "GET", paths.ANY, read)


def _status(registry: Registry, address: Address, folders: Mapping[str, str]) -> dict[str, Any]:
    """The state of the version that the address names; for a whole model, all states and STS's description."""
    name, version = address.model, paths.version_of(registry, address)
    if version is None:
        return describe_model(registry, name, folders)
    return {"model_version_status": [_describe_state(state) for state in states_of(registry, name, version)]}


def states_of(registry: Registry, name: str, version: int | None) -> list[VersionState]:
    """The states of a model's versions, newest first; of one version only, if it is named.

    Raises:
        NotFound: there is no such model, or no such version.
    """
    if version is None:
        _check_known(registry, name)
    states = [state for state in registry.states(name) if version in {None, state.version}]
    if version is not None and not states:
        raise NotFound(f"Could not find version {version} of model {quote(name)}")
    return states


def _labels(registry: Registry, name: str) -> list[str]:
    """The class names of the latest version, in class order; empty if the model ships none."""
    _check_known(registry, name)
    return list(next(iter(registry.version(name).values())).model.labels)


def _check_known(registry: Registry, name: str) -> None:
    try:
        registry.versions(name)
    except UnknownModel as err:
        raise NotFound(f"Could not find any versions of model {quote(name)}") from err


def _metadata(targets: dict[str, Target]) -> HTTPResponse:
    """The signatures of one version, in TensorFlow Serving's words and exactly in its layout.

    A signature that is refused has one key more, `refused`, with the reason.
    """
    model = next(iter(targets.values())).model
    spec = {"name": model.name, "signature_name": "", "version": str(model.version)}
    signatures = {"signature_def": describe_signatures(model)}
    parts = (json.dumps(part, indent=1, ensure_ascii=False) for part in (spec, signatures))
    text = '{{\n"model_spec":{}\n,\n"metadata": {{"signature_def": {}\n}}\n}}\n'.format(*parts)
    return HTTPResponse(text, 200, {}, "application/json")


def describe_signatures(model: ModelSpec) -> dict[str, Any]:
    """The `SignatureDef` of each signature, as protobuf writes it in JSON."""
    described = {
        name: {
            "inputs": _tensor_infos(signature.inputs),
            "outputs": _tensor_infos(signature.outputs),
            "method_name": signature.method_name,
            "defaults": {},
        }
        for name, signature in model.signatures.items()
    }
    for name, unserved in model.unserved.items():
        refusal = {"refused": model.refused[name]} if name in model.refused else {}
        described[name] = unserved | refusal
    return described


def _tensor_infos(tensors: Iterable[TensorSpec]) -> dict[str, Any]:
    """`TensorInfo` protobufs as TensorFlow Serving prints them: every field, 64-bit numbers as strings."""
    infos = {}
    for tensor in tensors:
        sizes = [-1 if size is None else size for size in tensor.shape or ()]
        shape = {"dim": [{"size": str(size), "name": ""} for size in sizes], "unknown_rank": tensor.shape is None}
        infos[tensor.name] = {"dtype": tensor.enum_name, "tensor_shape": shape, "name": tensor.source}
    return infos


def describe_model(registry: Registry, name: str, folders: Mapping[str, str]) -> dict[str, Any]:
    """STS's description of a model, and what STS did not have: state, formats, batching and passes of each signature.

    `name` and `ready` are KServe's, which asks by its V1 protocol whether a model is ready. A lazy model that is not loaded
    is: a request loads it.

    `folders` has the path of each model if the client may know it; otherwise the model's name takes its place.

    Raises:
        NotFound: there is no model of that name.
    """
    _check_known(registry, name)
    versions = registry.versions(name)
    targets = registry.version(name) if versions else {}
    routes = registry.routes(name)
    first = targets.get(DEFAULT_SIGNATURE) or next(iter(targets.values()), None)
    return {
        "name": name,
        "ready": registry.is_unloaded(name) or any(target.batcher.is_healthy for target in targets.values()),
        "model_name": name,
        "model_base_path": folders.get(name, name),
        "model_version_list": [str(version) for version in versions],
        "model_signature": _describe_tensors(first) if first else None,
        "platform": "TensorFlow",
        "signatures": {key: _describe_signature(target) for key, target in targets.items()},
        "older_signatures": {
            str(version): {key: _describe_signature(target) for key, target in older.items()}
            for version, older in versions.items()
            if older is not targets
        },
        "label_count": len(first.model.labels) if first else 0,
        "refused_signatures": first.model.refused if first else {},
        "traffic": None if routes is None else routes.describe(),
        "model_version_status": [_describe_state(state) for state in registry.states(name)],
    }


def _describe_state(state: VersionState) -> dict[str, Any]:
    """One version in TensorFlow Serving's words."""
    status = {"error_code": "UNKNOWN" if state.has_failed else "OK", "error_message": state.message}
    return {"version": str(state.version), "state": state.state, "status": status}


def _describe_tensors(target: Target) -> dict[str, list[dict[str, Any]]]:
    """Inputs and outputs in STS's words."""
    spec = target.spec
    return {"inputs": [_tensor(tensor) for tensor in spec.inputs], "outputs": [_tensor(t) for t in spec.outputs]}


def _describe_signature(target: Target) -> dict[str, Any]:
    """What a client should know about one signature."""
    spec = target.spec
    return {
        **_describe_tensors(target),
        "image_input": spec.image_input,
        "formats": sorted(spec.formats),
        "batched": spec.batched,
        "unbatched_reason": spec.unbatched_reason,
        "call_ms": {str(rows): round(1000 * s, 3) for rows, s in target.batcher.curve.expected_below(sys.maxsize)},
        "kinds": {name: kind.describe() for name, kind in target.kinds.items()},
        "front": None if spec.front is None else spec.front._asdict(),
        "passes": target.passes,
    }


def _tensor(tensor: TensorSpec) -> dict[str, Any]:
    """`{"name", "dtype" (TensorFlow's number), "shape"}`; -1 means an unknown size."""
    shape = None if tensor.shape is None else [-1 if size is None else size for size in tensor.shape]
    return {"name": tensor.name, "dtype": tensor.enum, "shape": shape}
