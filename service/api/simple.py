"""Simple TensorFlow Serving's dialect: `POST /`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.api.simple_body import Simple
from service.call import Route
from service.edge import call_of, reply_response

if TYPE_CHECKING:
    from sanic.request import Request
    from sanic.response import HTTPResponse

    from service.app import Darkroom
    from service.edge import App


def install(app: App, darkroom: Darkroom) -> None:
    """Adds `POST /`."""
    read = Simple(darkroom.catalogue, darkroom.door).read
    route = Route("/", read, is_sts=True, sole=lambda: darkroom.catalogue.sole)
    darkroom.predictor.add(lambda path: route if path == "/" else None)

    async def predict(request: Request) -> HTTPResponse:
        """One predict request, whichever way the pictures come."""
        return reply_response(await darkroom.predictor.answer(route, call_of(request)))

    darkroom.edge.route(app, "POST", "/", predict)
