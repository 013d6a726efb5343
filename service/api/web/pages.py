"""The web pages: models, pictures, live charts, JSON, generated clients, API. Files are read once, at the start."""

from __future__ import annotations

import mimetypes
from importlib.resources import files
from typing import TYPE_CHECKING

from sanic.exceptions import NotFound
from sanic.response import HTTPResponse

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sanic.request import Request

    from darkroom.service.http.middleware import App
    from darkroom.service.parts import Darkroom

PAGES = {
    "/": "index.html",
    "/image_inference": "image_inference.html",
    "/live": "live.html",
    "/json_inference": "json_inference.html",
    "/generate_clients": "generate_clients.html",
    "/docs": "docs.html",
}
# A page may load from and send to its own server only; a picture that the user chose is shown from memory (blob:).
POLICY = (
    "default-src 'self'; img-src 'self' blob:; style-src 'self'; script-src 'self'; base-uri 'none'; form-action 'self'"
)


def add_page_routes(app: App, darkroom: Darkroom) -> None:
    """Adds STS's four pages, those of the API and of the last minutes, and the files that they load from `/web/`."""
    contents = _read_all()

    def answer(name: str) -> HTTPResponse:
        body, content_type = contents[name]
        headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
        return HTTPResponse(body, 200, headers, content_type)

    async def part(_: Request, name: str) -> HTTPResponse:
        """A stylesheet, a script or a sample picture."""
        if name not in contents:
            raise NotFound(f"there is no {name[:80]!r} here")
        return answer(name)

    def page(name: str) -> Callable[[Request], Awaitable[HTTPResponse]]:
        async def show(_: Request) -> HTTPResponse:
            return answer(name)

        return show

    for path, name in PAGES.items():
        darkroom.middleware.route(app, "GET", path, page(name))
    darkroom.middleware.route(app, "GET", "/web/<name:str>", part)


def _read_all() -> dict[str, tuple[bytes, str]]:
    """Every file below html/, assets/ and samples/ and its content type, by name; no name occurs twice."""
    root = files("darkroom.service.api.web")
    folders = [root / "html", root / "assets", root / "samples"]
    found = {}
    for folder in folders:
        for item in folder.iterdir():
            if item.is_dir():
                folders.append(item)
                continue
            kind = mimetypes.guess_type(item.name)[0]
            if kind is not None:
                charset = "; charset=utf-8" if kind.startswith("text/") else ""
                found[item.name] = (item.read_bytes(), kind + charset)
    return found
