"""The OpenAPI document; the page that shows it is one of `service/web/pages.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from darkroom.service.api.openapi import document
from darkroom.service.http.middleware import json_response

if TYPE_CHECKING:
    from sanic.request import Request
    from sanic.response import HTTPResponse

    from darkroom.service.app import Darkroom
    from darkroom.service.http.middleware import App


def install(app: App, darkroom: Darkroom) -> None:
    """Adds `/openapi.json`."""

    async def openapi(_: Request) -> HTTPResponse:
        """The document, with the models that are served at the moment."""
        return json_response(document(darkroom.registry, darkroom.version, has_auth=darkroom.settings.has_auth))

    darkroom.middleware.route(app, "GET", "/openapi.json", openapi)
