"""Simple TensorFlow Serving's dialect: `POST /`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from darkroom.service.api.simple.request import Simple
from darkroom.service.http.middleware import predict_response
from darkroom.service.predict.request import Route

if TYPE_CHECKING:
    from sanic.request import Request
    from sanic.response import HTTPResponse

    from darkroom.service.http.middleware import App
    from darkroom.service.parts import Darkroom


def add_simple_routes(app: App, darkroom: Darkroom) -> None:
    """Adds `POST /`."""
    route = Route("/", Simple(darkroom.registry, darkroom.image_guard).read, is_sts=True, is_for_any_model=True)
    darkroom.predictor.add(lambda path: route if path == "/" else None)

    async def predict(request: Request) -> HTTPResponse:
        """One predict request, in whichever form its images come."""
        return await predict_response(darkroom.predictor, route, request)

    darkroom.middleware.route(app, "POST", "/", predict)
