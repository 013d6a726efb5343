"""Simple TensorFlow Serving's dialect: `POST /`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from darkroom.service.api.simple.request import Simple
from darkroom.service.http.middleware import call_of, reply_response
from darkroom.service.predict.predictor import Route

if TYPE_CHECKING:
    from sanic.request import Request
    from sanic.response import HTTPResponse

    from darkroom.service.app import Darkroom
    from darkroom.service.http.middleware import App


def install(app: App, darkroom: Darkroom) -> None:
    """Adds `POST /`."""
    read = Simple(darkroom.registry, darkroom.image_guard).read
    route = Route("/", read, is_sts=True, sole=lambda: darkroom.registry.sole)
    darkroom.predictor.add(lambda path: route if path == "/" else None)

    async def predict(request: Request) -> HTTPResponse:
        """One predict request, whichever way the pictures come."""
        return reply_response(await darkroom.predictor.answer(route, call_of(request)))

    darkroom.middleware.route(app, "POST", "/", predict)
