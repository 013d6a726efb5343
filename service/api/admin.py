"""The operator's routes: load, unload, label, traffic. They need credentials, or a server that only its own machine can reach."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from darkroom.service.config.tokens import Scope
from darkroom.service.config.traffic import TrafficRule
from darkroom.service.errors import CodecError, Forbidden, quote
from darkroom.service.http.middleware import json_response
from darkroom.service.predict import codec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sanic.request import Request
    from sanic.response import HTTPResponse

    from darkroom.service.config.settings import Settings
    from darkroom.service.http.middleware import App
    from darkroom.service.parts import Darkroom

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


def add_admin_routes(app: App, darkroom: Darkroom) -> None:
    """Adds `GET /admin/models`, `POST /admin/models/NAME/load|unload` and the labels and the traffic of models."""
    repository, settings = darkroom.manager, darkroom.settings

    async def index(request: Request) -> HTTPResponse:
        """Every known version with its state and its error."""
        check_operator(settings, request.headers)
        return json_response([state._asdict() for state in repository.index()])

    async def load(request: Request, name: str) -> HTTPResponse:
        """Loads new, failed and changed versions; answers when they are served."""
        check_operator(settings, request.headers)
        await darkroom.peers.load(unquote(name))
        return await index(request)

    async def unload(request: Request, name: str) -> HTTPResponse:
        """Unloads the model until it is loaded again; answers when its memory is free."""
        check_operator(settings, request.headers)
        await darkroom.peers.unload(unquote(name))
        return await index(request)

    async def label(request: Request, name: str) -> HTTPResponse:
        """Replaces the labels of a model by `{"stable": 1, "canary": 2}`."""
        check_operator(settings, request.headers)
        labels = _labels(request.body)
        await darkroom.peers.label(unquote(name), labels)
        return json_response(labels)

    async def traffic(request: Request, name: str) -> HTTPResponse:
        """The rule of a model, the share of each version now, and what is amiss; null without a rule. PUT sets it first."""
        check_operator(settings, request.headers)
        model = unquote(name)
        if request.method == "PUT":
            rule = _rule(request.body)
            repository.check_rule(model, rule)
            await darkroom.peers.direct(model, rule)
        return json_response(repository.describe_traffic(model))

    darkroom.middleware.route(app, "GET", "/admin/models/<name:str>/traffic", traffic, scope=Scope.ADMIN)
    darkroom.middleware.route(app, "PUT", "/admin/models/<name:str>/traffic", traffic, scope=Scope.ADMIN)
    darkroom.middleware.route(app, "GET", "/admin/models", index, scope=Scope.ADMIN)
    darkroom.middleware.route(app, "POST", "/admin/models/<name:str>/load", load, scope=Scope.ADMIN)
    darkroom.middleware.route(app, "POST", "/admin/models/<name:str>/unload", unload, scope=Scope.ADMIN)
    darkroom.middleware.route(app, "PUT", "/admin/models/<name:str>/labels", label, scope=Scope.ADMIN)


def check_operator(settings: Settings, headers: Mapping[str, str]) -> None:
    """Returns if the request is the operator's: it has credentials, or only this machine can reach the server.

    A page of another origin can make a browser send requests, with the browser's stored credentials or from this machine.
    The header `Origin` reveals such a page. The header `Host` reveals a page whose own name was bound to 127.0.0.1.

    Raises:
        Forbidden: neither; the message says what is needed.
    """
    host = headers.get("host", "")
    origin = headers.get("origin")
    if not settings.has_auth and settings.host not in LOOPBACK:
        raise Forbidden("loading and unloading is off: it needs --enable_auth, --auth_tokens_file or --host=127.0.0.1")
    is_foreign = origin is not None and urlsplit(origin).netloc != host
    if is_foreign or not (settings.has_auth or urlsplit(f"//{host}").hostname in LOOPBACK):
        raise Forbidden("loading and unloading is off for pages of other origins")


def check_grpc_operator(settings: Settings, metadata: Mapping[str, str]) -> None:
    """As `check_operator`, for a gRPC call."""
    check_operator(settings, {**metadata, "host": metadata.get(":authority", "")})


def _labels(body: bytes) -> dict[str, int]:
    if not isinstance(fields := codec.parse_json(body), dict):
        raise CodecError('expected an object of labels, as {"stable": 1}')
    for label, version in fields.items():
        if type(version) is not int:
            raise CodecError(f"{quote(label)}: expected the number of a version")
    return fields


def _rule(body: bytes) -> TrafficRule | None:
    try:
        return TrafficRule.of(said) if (said := codec.parse_json(body)) != {} else None
    except ValueError as err:
        raise CodecError(str(err)) from err
