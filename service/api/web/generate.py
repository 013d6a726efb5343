"""Generated clients, as in STS: an example body, and a program that sends it to the address of this request."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

from sanic.response import HTTPResponse

from darkroom.service.api.web.clients import LANGUAGES, example_json, write_client
from darkroom.service.errors import CodecError, quote
from darkroom.service.http.middleware import json_response
from darkroom.service.serving.registry import DEFAULT_SIGNATURE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sanic.request import Request

    from darkroom.service.http.middleware import App
    from darkroom.service.parts import Darkroom
    from darkroom.service.serving.registry import Registry
    from darkroom.service.serving.servable import Target

DEFAULT_LANGUAGE = "bash"
# A valid Host header. It is written into a program, so it must not contain anything that ends a string.
_HOST = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?")
_NOT_KEPT = {"Cache-Control": "no-store"}  # it contains the address of the request


def add_client_routes(app: App, darkroom: Darkroom) -> None:
    """Adds `/v1/models/NAME/gen_json` and `/v1/models/NAME/gen_client`; both take `signature_name`."""
    registry, middleware = darkroom.registry, darkroom.middleware

    async def gen_json(request: Request, name: str) -> HTTPResponse:
        """A body of `POST /` that the model answers."""
        await darkroom.manager.lazy_models.ensure(unquote(name))
        return json_response(example_json(_find(registry, unquote(name), request)), headers=_NOT_KEPT)

    async def gen_client(request: Request, name: str) -> HTTPResponse:
        """A program in `language`, by default bash; `json` is the body alone."""
        await darkroom.manager.lazy_models.ensure(unquote(name))
        target = _find(registry, unquote(name), request)
        language = request.args.get("language", DEFAULT_LANGUAGE)
        if language == "json":
            return json_response(example_json(target), headers=_NOT_KEPT)
        if language not in LANGUAGES:
            raise CodecError(f"language: expected one of {', '.join([*LANGUAGES, 'json'])}, got {quote(language)}")
        program = write_client(language, target, _address(request), is_guarded=not darkroom.auth.allows(None))
        return HTTPResponse(
            program, 200, _NOT_KEPT | {"X-Content-Type-Options": "nosniff"}, "text/plain; charset=utf-8"
        )

    middleware.route(app, "GET", "/v1/models/<name:str>/gen_json", gen_json)
    middleware.route(app, "GET", "/v1/models/<name:str>/gen_client", gen_client)


def _find(registry: Registry, name: str, request: Request) -> Target:
    """The signature that the query names; by default the default signature or, if there is none, the first.

    Raises:
        UnknownModel, UnknownVersion, UnknownSignature: there is none.
    """
    names: Sequence[str] = tuple(registry.version(name))
    usual = DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in names else names[0]
    return registry.find(name, signature=request.args.get("signature_name", usual))


def _address(request: Request) -> str:
    """The URL of `POST /` at the address of this request: its Host header, and the scheme that a proxy reports.

    Raises:
        CodecError: the Host header is missing, or is not a host with or without a port.
    """
    host = request.headers.get("host", "")
    if _HOST.fullmatch(host) is None:
        raise CodecError(f"Host: expected a host with or without a port, got {quote(host)}")
    scheme = request.headers.get("x-forwarded-proto", request.scheme)
    return f"{'https' if scheme == 'https' else 'http'}://{host}/"
