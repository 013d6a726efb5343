"""The edge around every route of Sanic's: who calls, what becomes of an exception, what every answer carries."""

from __future__ import annotations

import logging
import re
import time
from typing import TYPE_CHECKING, Any, TypeAlias

from sanic.exceptions import MethodNotAllowed, PayloadTooLarge, RequestTimeout, SanicException
from sanic.response import HTTPResponse

from darkroom.models.errors import quote
from darkroom.service.config.tokens import Scope
from darkroom.service.errors import MAX_QUOTED_CHARS, describe, judge
from darkroom.service.http.auth import CHALLENGE, Standing
from darkroom.service.http.connection import Connection
from darkroom.service.http.request_head import MAX_HEAD_BYTES
from darkroom.service.http.request_log import CLIENT_LEFT
from darkroom.service.predict import codec
from darkroom.service.predict.predictor import Call, first_values

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import SimpleNamespace

    from sanic import Sanic
    from sanic.config import Config
    from sanic.request import Request

    from darkroom.service.config.settings import Settings
    from darkroom.service.http.auth import Auth
    from darkroom.service.http.request_log import RequestLog
    from darkroom.service.predict.request import Reply
    from darkroom.service.serving.lifecycle import Lifecycle


App: TypeAlias = "Sanic[Config, SimpleNamespace]"

_log = logging.getLogger("darkroom.service")


class Middleware:
    """Wraps every handler: asks who calls, counts and explains each answer, turns exceptions into JSON."""

    def __init__(self, settings: Settings, visits: RequestLog, lifecycle: Lifecycle, auth: Auth) -> None:
        self._settings = settings
        self._visits = visits
        self._lifecycle = lifecycle
        self._auth = auth

    def install(self, app: App) -> None:
        """Makes JSON answers of what no route took: 404, 405, 408, 413 and our own mistakes."""
        app.exception(Exception)(self._unrouted)

    def route(self, app: App, method: str, path: str, handler: Any, *, scope: Scope | None = Scope.PREDICT) -> None:
        """Adds a route, HEAD along with GET, for callers whose credentials cover `scope`; None: for everybody.

        A handler of many addresses says in `request.ctx.template` which one it served; else metrics tell `path`.
        """

        async def handle(request: Request, **named: str) -> HTTPResponse:
            started_s = self._visits.enter()
            code, size = CLIENT_LEFT, 0
            try:
                response = await self._answer(request, handler, named, scope)
                code, size = response.status, len(response.body or b"")
                self._finish(request, response, started_s)
                if scope is Scope.ADMIN:
                    response.headers.pop("Access-Control-Allow-Origin", None)  # no page of elsewhere changes anything
                return response
            finally:
                template = getattr(request.ctx, "template", path)
                _tell(self._visits.leave, request, template, code, started_s=started_s, sent=size)

        methods = ["GET", "HEAD"] if method == "GET" else [method]
        app.add_route(handle, path, methods=methods, name=re.sub(r"\W", "_", f"{method}{path}"))

    def allows(self, authorization: str | None) -> bool:
        """Whether a caller with this `Authorization` may predict."""
        return self._auth.standing(authorization, Scope.PREDICT) is Standing.WELCOME

    async def _answer(self, request: Request, handler: Any, named: dict[str, str], scope: Scope | None) -> HTTPResponse:
        """The handler's answer, or the refusal of a caller who may not ask."""
        if scope is not None:
            standing = self._auth.standing(request.headers.get("authorization"), scope)
            if standing is Standing.STRANGER:
                return HTTPResponse("Need basic auth to request the resources", 401, dict(CHALLENGE), "text/plain")
            if standing is Standing.OUT_OF_SCOPE:
                return json_response({"error": f"this token's scopes don't cover this: it takes {scope}"}, 403)
        try:
            return await handler(request, **named)  # type: ignore[no-any-return] # the handlers' own types say it
        except Exception as err:  # noqa: BLE001 - the edge's handler: every exception becomes an answer, by the one table
            return self._refuse(err)

    def _refuse(self, error: Exception) -> HTTPResponse:
        """The JSON answer to an exception."""
        if isinstance(error, SanicException):
            headers = {name: value for name, value in (error.headers or {}).items() if name.lower() != "content-length"}
            status, text = self._words(error)
            return json_response({"error": text}, status, headers)
        status = judge(error).status
        if status == 500:
            _log.error("a request failed", exc_info=error)
        return json_response({"error": describe(error)}, status)

    def _words(self, error: SanicException) -> tuple[int, str]:
        """Sanic's own refusals, with the limit and its flag named."""
        text = quote(str(error)) or type(error).__name__  # what a client sent stands in some of them
        if isinstance(error, PayloadTooLarge):
            if "header" in text:
                return 431, f"the request line and the headers are over {MAX_HEAD_BYTES} bytes"
            return 413, f"the body is over --max_body_bytes={self._settings.max_body_bytes}"
        if isinstance(error, RequestTimeout):
            return 408, f"the request was not whole within --read_timeout_ms={self._settings.read_timeout_ms:g}"
        return error.status_code, text if len(text) <= MAX_QUOTED_CHARS else f"{text[:MAX_QUOTED_CHARS]}…"

    def _unrouted(self, request: Request, error: Exception) -> HTTPResponse:
        """What Sanic itself could not serve, counted under one route so that a scanner can't fill the metrics."""
        started_s = time.monotonic()
        if request.method == "OPTIONS" and isinstance(error, MethodNotAllowed):
            response = self._options(request, error)
        else:
            response = self._refuse(error)
        if response.status in {408, 413} and (connection := _connection(request)) is not None:
            connection.leave_unread()
        self._finish(request, response, started_s)
        sent = len(response.body or b"")
        _tell(self._visits.note, request, "unrouted", response.status, started_s=started_s, sent=sent)
        return response

    def _options(self, request: Request, error: MethodNotAllowed) -> HTTPResponse:
        """Which methods a path takes; with --enable_cors also what a browser asks before it calls from another page."""
        allowed = ", ".join(sorted({"OPTIONS", *(error.allowed_methods or ())}))
        headers = {"Allow": allowed}
        if self._settings.enable_cors and "access-control-request-method" in request.headers:
            headers["Access-Control-Allow-Methods"] = allowed
            headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type"
        return HTTPResponse(b"", 200, headers, "text/plain; charset=utf-8")

    def _finish(self, request: Request, response: HTTPResponse, started_s: float) -> None:
        """The headers that every answer carries."""
        headers = response.headers
        self._visits.sign(headers, request.headers.get("x-request-id"))
        if "Server-Timing" not in headers:
            headers["Server-Timing"] = f"total;dur={(time.monotonic() - started_s) * 1000:.3f}"
        if (connection := _connection(request)) is not None:
            connection.release()
        if self._lifecycle.is_draining and request.stream is not None:
            request.stream.keep_alive = False  # type: ignore[attr-defined] # Sanic writes the header and closes


def _connection(request: Request) -> Connection | None:
    """The connection that a request came by; None under another server than ours."""
    protocol = getattr(request.stream, "protocol", None)
    return protocol if isinstance(protocol, Connection) else None


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})


def _tell(tell: Callable[..., None], request: Request, route: str, code: int, *, started_s: float, sent: int) -> None:
    """Tells of a request; a method that nobody knows is "other", so that a scanner can't fill the metrics."""
    method = request.method if request.method in _METHODS else "other"
    tell(route, method, code, started_s, received=len(request.body or b""), sent=sent, client=request.ip)


def json_response(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> HTTPResponse:
    """A JSON answer."""
    return HTTPResponse(codec.dump_json(value), status, dict(headers or {}), "application/json")


def text_response(text: str, status: int = 200) -> HTTPResponse:
    """A plain text answer."""
    return HTTPResponse(text, status, {}, "text/plain; charset=utf-8")


def reply_response(reply: Reply) -> HTTPResponse:
    """The answer to a predict request."""
    return HTTPResponse(reply.body, reply.status, reply.headers, reply.content_type)


def call_of(request: Request) -> Call:
    """What a dialect wants to know of Sanic's request."""
    headers, body = request.headers, request.body
    return Call(headers, body, first_values(request.args))
