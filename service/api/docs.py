"""The OpenAPI document; the page that shows it is one of `service/api/web.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.edge import json_response
from service.openapi import document

if TYPE_CHECKING:
    from sanic.request import Request
    from sanic.response import HTTPResponse

    from service.app import Darkroom
    from service.edge import App


def install(app: App, darkroom: Darkroom) -> None:
    """Adds `/openapi.json`."""

    async def openapi(_: Request) -> HTTPResponse:
        """The document, with the models that are served at the moment."""
        return json_response(document(darkroom.catalogue, darkroom.version, has_auth=darkroom.settings.has_auth))

    darkroom.edge.route(app, "GET", "/openapi.json", openapi)
