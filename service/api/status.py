"""What is served: the models, their signatures, versions and labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from service.catalogue import DEFAULT_SIGNATURE
from service.edge import json_response

if TYPE_CHECKING:
    from sanic.request import Request
    from sanic.response import HTTPResponse

    from models.spec import TensorSpec
    from service.app import Darkroom
    from service.catalogue import Catalogue, Target
    from service.edge import App
    from service.states import VersionState


def install(app: App, darkroom: Darkroom) -> None:
    """Adds `GET /v1/models`, `/v1/models/NAME` and `/v1/models/NAME/labels`."""
    catalogue = darkroom.catalogue

    async def models(_: Request) -> HTTPResponse:
        """Every model, as STS lists them."""
        return json_response([describe_model(catalogue, name) for name in catalogue.models()])

    async def model(_: Request, name: str) -> HTTPResponse:
        """One model."""
        return json_response(describe_model(catalogue, name))

    async def labels(_: Request, name: str) -> HTTPResponse:
        """The labels of the latest version, in class order; empty where the model ships none."""
        targets = catalogue.version(name)
        return json_response(list(next(iter(targets.values())).model.labels))

    darkroom.edge.route(app, "GET", "/v1/models", models)
    darkroom.edge.route(app, "GET", "/v1/models/<name:str>", model)
    darkroom.edge.route(app, "GET", "/v1/models/<name:str>/labels", labels)


def describe_model(catalogue: Catalogue, name: str) -> dict[str, Any]:
    """STS's description of a model, with what it had no word for: state, wire, batching and passes of each signature.

    Raises:
        UnknownModel: there is none of that name.
    """
    versions = catalogue.versions(name)
    targets = versions[max(versions)] if versions else {}
    first = targets.get(DEFAULT_SIGNATURE) or next(iter(targets.values()), None)
    return {
        "model_name": name,
        "model_base_path": name,  # the folder is not told to strangers
        "model_version_list": [str(version) for version in versions],
        "model_signature": _describe_tensors(first) if first else None,
        "platform": "tensorflow",
        "signatures": {key: _describe_signature(target) for key, target in targets.items()},
        "model_version_status": [_describe_state(state) for state in catalogue.states.of(name)],
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
