"""What is served, to GET under /v1/: STS's list of models, TensorFlow Serving's status and metadata, class labels."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sanic.response import HTTPResponse

from darkroom.models.errors import UnknownModel, quote
from darkroom.service.api.tensorflow_serving import paths as addresses
from darkroom.service.errors import NotFound
from darkroom.service.http.middleware import json_response
from darkroom.service.serving.registry import DEFAULT_SIGNATURE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from sanic.request import Request

    from darkroom.models.spec import ModelSpec, TensorSpec
    from darkroom.service.api.tensorflow_serving.paths import Address
    from darkroom.service.app import Darkroom
    from darkroom.service.config.settings import Settings
    from darkroom.service.http.middleware import App
    from darkroom.service.serving.registry import Registry, Target, VersionState


def install(app: App, darkroom: Darkroom) -> None:
    """Adds the GETs of `addresses.ROUTES`."""
    catalogue = darkroom.registry
    folders = {} if darkroom.middleware.allows(None) else _folders(darkroom.settings)  # not told to strangers
    answers: dict[str, Callable[[Address], HTTPResponse]] = {
        "models": lambda _: json_response([describe_model(catalogue, name, folders) for name in catalogue.models()]),
        "status": lambda address: json_response(_status(catalogue, address, folders)),
        "metadata": lambda address: _metadata(addresses.lookup(catalogue, address)),
        "labels": lambda address: json_response(_labels(catalogue, address.model)),
    }

    async def read(request: Request, rest: str) -> HTTPResponse:  # noqa: ARG001 - Sanic hands over what it matched
        """One model, or all of them."""
        address = addresses.read(request.path)
        if address is None:
            request.ctx.template = addresses.MALFORMED
            raise addresses.malformed(request.method, request.path)
        request.ctx.template = address.template
        return answers[address.act](address)

    darkroom.middleware.route(app, "GET", addresses.ANY, read)


def _folders(settings: Settings) -> dict[str, str]:
    """Where each model's versions lie, by its name."""
    return {entry.name: str(entry.base_path) for entry in settings.models}


def _status(catalogue: Registry, address: Address, folders: Mapping[str, str]) -> dict[str, Any]:
    """The state of the version that the address names; of a whole model all of them, and STS's description."""
    name, version = address.model, addresses.version_of(catalogue, address)
    if version is None:
        return describe_model(catalogue, name, folders)
    states = [_describe_state(state) for state in catalogue.states(name) if state.version == version]
    if not states:
        raise NotFound(f"Could not find version {version} of model {quote(name)}")
    return {"model_version_status": states}


def _labels(catalogue: Registry, name: str) -> list[str]:
    """The class names of the latest version, in their order; empty where the model ships none."""
    _check_known(catalogue, name)
    return list(next(iter(catalogue.version(name).values())).model.labels)


def _check_known(catalogue: Registry, name: str) -> None:
    try:
        catalogue.versions(name)
    except UnknownModel as err:
        raise NotFound(f"Could not find any versions of model {quote(name)}") from err


def _metadata(targets: dict[str, Target]) -> HTTPResponse:
    """The signatures of one version, in TensorFlow Serving's words and in its layout, to the space."""
    model = next(iter(targets.values())).model
    spec = {"name": model.name, "signature_name": "", "version": str(model.version)}
    signatures = {"signature_def": _signature_defs(model)}
    parts = (json.dumps(part, indent=1, ensure_ascii=False) for part in (spec, signatures))
    text = '{{\n"model_spec":{}\n,\n"metadata": {{"signature_def": {}\n}}\n}}\n'.format(*parts)
    return HTTPResponse(text, 200, {}, "application/json")


def _signature_defs(model: ModelSpec) -> dict[str, Any]:
    return {
        name: {
            "inputs": _tensor_infos(spec.inputs),
            "outputs": _tensor_infos(spec.outputs),
            "method_name": spec.method_name,
            "defaults": {},
        }
        for name, spec in model.signatures.items()
    }


def _tensor_infos(tensors: Iterable[TensorSpec]) -> dict[str, Any]:
    """`TensorInfo` protobufs as TensorFlow Serving prints them: every field, 64-bit numbers as strings."""
    infos = {}
    for tensor in tensors:
        sizes = [-1 if size is None else size for size in tensor.shape or ()]
        shape = {"dim": [{"size": str(size), "name": ""} for size in sizes], "unknown_rank": tensor.shape is None}
        infos[tensor.name] = {"dtype": tensor.enum_name, "tensor_shape": shape, "name": tensor.source}
    return infos


def describe_model(catalogue: Registry, name: str, folders: Mapping[str, str]) -> dict[str, Any]:
    """STS's description of a model, with what it had no word for: state, wire, batching and passes of each signature.

    `folders` has the model's path, where it may be told; else its name stands there.

    Raises:
        NotFound: there is none of that name.
    """
    _check_known(catalogue, name)
    versions = catalogue.versions(name)
    targets = versions[max(versions)] if versions else {}
    first = targets.get(DEFAULT_SIGNATURE) or next(iter(targets.values()), None)
    return {
        "model_name": name,
        "model_base_path": folders.get(name, name),
        "model_version_list": [str(version) for version in versions],
        "model_signature": _describe_tensors(first) if first else None,
        "platform": "TensorFlow",
        "signatures": {key: _describe_signature(target) for key, target in targets.items()},
        "model_version_status": [_describe_state(state) for state in catalogue.states(name)],
    }


def _describe_state(state: VersionState) -> dict[str, Any]:
    """One version in TensorFlow Serving's words."""
    status = {"error_code": "UNKNOWN" if state.message else "OK", "error_message": state.message}
    return {"version": str(state.version), "state": state.state, "status": status}


def _describe_tensors(target: Target) -> dict[str, list[dict[str, Any]]]:
    """Inputs and outputs in STS's words."""
    spec = target.spec
    return {"inputs": [_tensor(tensor) for tensor in spec.inputs], "outputs": [_tensor(t) for t in spec.outputs]}


def _describe_signature(target: Target) -> dict[str, Any]:
    """What a caller should know of one signature."""
    spec = target.spec
    return {
        **_describe_tensors(target),
        "image_input": spec.image_input,
        "formats": sorted(spec.formats),
        "batched": spec.batched,
        "unbatched_reason": spec.unbatched_reason,
        "passes": target.passes,
    }


def _tensor(tensor: TensorSpec) -> dict[str, Any]:
    """`{"name", "dtype" (TensorFlow's number), "shape"}`; -1 stands for an unknown size."""
    shape = None if tensor.shape is None else [-1 if size is None else size for size in tensor.shape]
    return {"name": tensor.name, "dtype": tensor.enum, "shape": shape}
