"""The Open Inference Protocol V2 (KServe, Triton, MLServer): health, metadata, infer and the model repository."""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from darkroom.models.errors import InvalidInput
from darkroom.models.versions.policy import AVAILABLE, LOADING, UNLOADING
from darkroom.service.api.admin import check_operator
from darkroom.service.api.open_inference.body import as_object
from darkroom.service.api.open_inference.extensions import as_json, describe_config, statistics_of
from darkroom.service.api.open_inference.request import Infer, find
from darkroom.service.api.open_inference.tensors import DATATYPES
from darkroom.service.config.tokens import Scope
from darkroom.service.errors import NotLoaded, NotReady
from darkroom.service.http.middleware import json_response, predict_response
from darkroom.service.predict import codec
from darkroom.service.predict.request import Route
from darkroom.service.serving.registry import NO_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable

    from sanic.request import Request
    from sanic.response import HTTPResponse

    from darkroom.models.spec import TensorSpec
    from darkroom.service.http.middleware import App
    from darkroom.service.parts import Darkroom
    from darkroom.service.serving.registry import Registry, VersionState

NAME = "/v2/models/<name:str>"
VERSION = "/v2/models/<name:str>/versions/<version:str>"
# The protocol's extensions by Triton's names.
EXTENSIONS = (
    "binary_tensor_data", "classification", "model_configuration", "model_repository", "parameters", "schedule_policy",
    "statistics",
)  # fmt: skip
STATES = {AVAILABLE: "READY", LOADING: "LOADING", UNLOADING: "UNLOADING"}  # all others: UNAVAILABLE
MAX_ROUTES = 256  # guess: models and versions in use at the same time; a scanner cannot fill more


def add_open_inference_routes(app: App, darkroom: Darkroom) -> None:
    """Adds everything under `/v2`."""
    _install_health(app, darkroom)
    _install_models(app, darkroom)
    _install_infer(app, darkroom)
    _install_repository(app, darkroom)


def describe_model(registry: Registry, name: str, version: str | None) -> dict[str, Any]:
    """The metadata of a model: its versions, ascending, and the tensors of the default signature of `version`.

    Raises:
        UnknownModel, UnknownVersion, NotReady: there is none; the message lists what exists.
    """
    spec = find(registry, name, version).spec
    return {
        "name": name,
        "versions": [str(number) for number in registry.versions(name)],
        "platform": "tensorflow_savedmodel",
        "inputs": [_describe_tensor(tensor) for tensor in spec.inputs],
        "outputs": [_describe_tensor(tensor) for tensor in spec.outputs],
    }


def matcher(read: Callable[..., None]) -> Callable[[str], Route | None]:
    """A function from the path of a POST to its route, or to None; `read` is `Infer.read`."""

    @lru_cache(MAX_ROUTES)
    def route(name: str, version: str | None) -> Route:
        template = f"{NAME if version is None else VERSION}/infer"
        return Route(template, partial(read, name=unquote(name), version=version and unquote(version)))

    def match(path: str) -> Route | None:
        if not path.startswith("/v2/models/"):
            return None
        match path.split("/", 7)[3:]:
            case [name, "infer"]:
                return route(name, None)
            case [name, "versions", version, "infer"]:
                return route(name, version)
        return None

    return match


def _install_health(app: App, darkroom: Darkroom) -> None:
    lifecycle, middleware = darkroom.lifecycle, darkroom.middleware

    async def live(_: Request) -> HTTPResponse:
        """Liveness: the process answers, and no engine call runs far longer than it should."""
        if reason := lifecycle.watchdog.reason:
            return json_response({"live": False, "reason": reason}, 503)
        return json_response({"live": True})

    async def ready(_: Request) -> HTTPResponse:
        """Readiness: whether to send requests here; if not, why."""
        if trouble := lifecycle.trouble:
            return json_response({"ready": False, "reason": trouble}, 503)
        return json_response({"ready": True})

    middleware.route(app, "GET", "/v2/health/live", live, scope=None)
    middleware.route(app, "GET", "/v2/health/ready", ready, scope=None)


def _install_models(app: App, darkroom: Darkroom) -> None:
    registry, middleware, lazy_models = darkroom.registry, darkroom.middleware, darkroom.manager.lazy_models

    async def server(_: Request) -> HTTPResponse:
        """The name, the version and the extensions of this server."""
        return json_response({"name": "darkroom", "version": darkroom.version, "extensions": EXTENSIONS})

    async def model(_: Request, name: str, version: str | None = None) -> HTTPResponse:
        """The metadata of a model; a lazy one is loaded for it."""
        await lazy_models.ensure(unquote(name))
        return json_response(describe_model(registry, unquote(name), version and unquote(version)))

    async def model_ready(_: Request, name: str, version: str | None = None) -> HTTPResponse:
        """Whether a version would take a request; the latest if none is named. A lazy model is not loaded for it."""
        darkroom.lifecycle.check_ready()
        _check_model_ready(registry, unquote(name), version and unquote(version))
        return json_response({"name": unquote(name), "ready": True})

    async def config(_: Request, name: str, version: str | None = None) -> HTTPResponse:
        """The configuration of a model, as Triton's extension has it; a lazy one is loaded for it."""
        await lazy_models.ensure(unquote(name))
        return json_response(as_json(describe_config(darkroom, unquote(name), version and unquote(version))))

    async def stats(_: Request, name: str | None = None, version: str | None = None) -> HTTPResponse:
        """Counts and times of one version, of one model's versions, or of all, as Triton's extension has them."""
        found = await statistics_of(darkroom, name and unquote(name), version and unquote(version))
        return json_response({"model_stats": found})

    middleware.route(app, "GET", "/v2", server)
    middleware.route(app, "GET", "/v2/models/stats", stats)
    for path in (NAME, VERSION):
        middleware.route(app, "GET", f"{path}/config", config)
        middleware.route(app, "GET", f"{path}/stats", stats)
        middleware.route(app, "GET", path, model)
        middleware.route(app, "GET", f"{path}/ready", model_ready)


def _check_model_ready(registry: Registry, name: str, version: str | None) -> None:
    """Returns if a version would take a request, be it that the request loads it; raises NotReady of any other."""
    with suppress(NotLoaded):
        if not find(registry, name, version).batcher.is_healthy:
            raise NotReady(f"model {name!r} is not ready")


def _install_infer(app: App, darkroom: Darkroom) -> None:
    match = matcher(Infer(darkroom.registry, darkroom.image_guard).read)
    darkroom.predictor.add(match)

    async def infer(request: Request, name: str, version: str | None = None) -> HTTPResponse:
        """One infer request."""
        middle = "" if version is None else f"/versions/{version}"
        route = match(f"/v2/models/{name}{middle}/infer")
        assert route is not None  # noqa: S101 - Sanic matched the same words
        return await predict_response(darkroom.predictor, route, request)

    for path in (NAME, VERSION):
        darkroom.middleware.route(app, "POST", f"{path}/infer", infer)


def _install_repository(app: App, darkroom: Darkroom) -> None:
    repository, settings = darkroom.manager, darkroom.settings

    async def index(request: Request) -> HTTPResponse:
        """Every known version with its state; with `{"ready": true}`, only those that are served."""
        only_ready = bool(request.body) and as_object(codec.parse_json(request.body), "body").get("ready") is True
        described = [describe_state(state) for state in repository.index()]
        return json_response([state for state in described if not only_ready or state["state"] == "READY"])

    async def load(request: Request, name: str) -> HTTPResponse:
        """Loads new, failed and changed versions; answers when they are served."""
        check_operator(settings, request.headers)
        fields = as_object(codec.parse_json(request.body) if request.body else None, "body")
        if as_object(fields.get("parameters"), "parameters"):  # nothing from a client is written to disk
            raise InvalidInput("parameters: a model is loaded from its own folder; no file or configuration is taken")
        await darkroom.peers.load(unquote(name))
        return json_response({"name": unquote(name), "load": True})

    async def unload(request: Request, name: str) -> HTTPResponse:
        """Unloads the model until it is loaded again; answers when its memory is free."""
        check_operator(settings, request.headers)
        await darkroom.peers.unload(unquote(name))
        return json_response({"name": unquote(name), "unload": True})

    darkroom.middleware.route(app, "POST", "/v2/repository/index", index)
    darkroom.middleware.route(app, "POST", "/v2/repository/models/<name:str>/load", load, scope=Scope.ADMIN)
    darkroom.middleware.route(app, "POST", "/v2/repository/models/<name:str>/unload", unload, scope=Scope.ADMIN)


def _describe_tensor(tensor: TensorSpec) -> dict[str, Any]:
    """`{"name", "datatype", "shape"}`; -1 means an unknown size, and a lone -1 an unknown rank."""
    shape = [-1] if tensor.shape is None else [-1 if size is None else size for size in tensor.shape]
    return {"name": tensor.name, "datatype": DATATYPES[tensor.dtype], "shape": shape}


def describe_state(state: VersionState) -> dict[str, str]:
    """A version's state in the words of the repository extension."""
    number = "" if state.version == NO_VERSION else str(state.version)
    return {
        "name": state.model,
        "version": number,
        "state": STATES.get(state.state, "UNAVAILABLE"),
        "reason": state.message,
    }
