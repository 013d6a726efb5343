"""What surrounds every route on Sanic's request path: authentication, error answers, and the headers of every answer."""

from __future__ import annotations

import logging
import re
import time
from typing import TYPE_CHECKING, Any, TypeAlias

from sanic.exceptions import MethodNotAllowed, PayloadTooLarge, RequestTimeout, SanicException
from sanic.response import HTTPResponse

from darkroom.models.errors import quote
from darkroom.service.config.tokens import Scope
from darkroom.service.errors import ERROR_HEADER, describe, http_code, judge, shorten
from darkroom.service.http.auth import CHALLENGE, Access
from darkroom.service.http.connection import Connection
from darkroom.service.http.request_head import MAX_HEAD_BYTES
from darkroom.service.http.request_log import CLIENT_LEFT
from darkroom.service.predict import codec
from darkroom.service.predict.call import Call, first_values, joined

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import SimpleNamespace

    from sanic import Sanic
    from sanic.config import Config
    from sanic.request import Request

    from darkroom.service.config.settings import Settings
    from darkroom.service.http.auth import Auth
    from darkroom.service.http.request_log import RequestLog
    from darkroom.service.predict.request import Predictor, Route
    from darkroom.service.serving.lifecycle import Lifecycle


App: TypeAlias = "Sanic[Config, SimpleNamespace]"

_log = logging.getLogger("darkroom.service")
UNROUTED = "unrouted"  # what metrics call the path of a request that no route took
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})


class Middleware:
    """Wraps every handler: checks credentials, counts and signs each answer, turns exceptions into JSON."""

    def __init__(self, settings: Settings, request_log: RequestLog, lifecycle: Lifecycle, auth: Auth) -> None:
        self._settings = settings
        self._request_log = request_log
        self._lifecycle = lifecycle
        self._auth = auth

    def install(self, app: App) -> None:
        """Answers in JSON where no route took the request: 404, 405, 408, 413 and our own mistakes."""
        app.exception(Exception)(self._unrouted)

    def route(self, app: App, method: str, path: str, handler: Any, *, scope: Scope | None = Scope.PREDICT) -> None:
        """Adds a route, and HEAD along with GET, for clients whose credentials cover `scope`; None: for everybody.

        A handler of many paths sets `request.ctx.template` to the one that it served. Without it, metrics name `path`.
        """

        async def handle(request: Request, **named: str) -> HTTPResponse:
            started_s = self._request_log.enter()
            response = None
            try:
                response = await self._answer(request, handler, named, scope)
                self._finish(request, response, getattr(request.ctx, "template", path), started_s)
                if scope is Scope.ADMIN:  # no page of another origin changes anything here
                    response.headers.pop("Access-Control-Allow-Origin", None)
                return response
            finally:
                template = getattr(request.ctx, "template", path)
                _record(self._request_log, request, template, response, started_s=started_s)

        methods = ["GET", "HEAD"] if method == "GET" else [method]
        app.add_route(handle, path, methods=methods, name=re.sub(r"\W", "_", f"{method}{path}"))

    async def _answer(self, request: Request, handler: Any, named: dict[str, str], scope: Scope | None) -> HTTPResponse:
        """The handler's answer, or the refusal of a client that may not ask."""
        if scope is not None:
            access = self._auth.access(request.headers.get("authorization"), scope)
            if access is Access.UNAUTHENTICATED:
                return HTTPResponse("Need basic auth to request the resources", 401, dict(CHALLENGE), "text/plain")
            if access is Access.OUT_OF_SCOPE:
                text = f"this token's scopes don't cover this: it takes {scope}"
                return _error_response(request, text, http_code(403), 403)
        try:
            return await handler(request, **named)  # type: ignore[no-any-return] # the handlers' own types say it
        except Exception as err:  # noqa: BLE001 - the edge's handler: every exception becomes an answer, by the one table
            return self._refuse(request, err)

    def _refuse(self, request: Request, error: Exception) -> HTTPResponse:
        """The JSON answer to an exception."""
        if isinstance(error, SanicException):
            headers = {name: value for name, value in (error.headers or {}).items() if name.lower() != "content-length"}
            status, text = self._explain(error)
            return _error_response(request, text, http_code(status), status, headers)
        verdict = judge(error)
        response = _error_response(request, describe(error), verdict.code, verdict.status)
        if verdict.status == 500:
            self._request_log.sign("", request.headers, response.headers)
            fields = {"request_id": response.headers["X-Request-Id"]}
            _log.error("a request failed", extra={"fields": fields}, exc_info=error)
        return response

    def _explain(self, error: SanicException) -> tuple[int, str]:
        """The status and the message of Sanic's own refusal; the message names the limit and its flag."""
        text = quote(str(error)) or type(error).__name__  # some of them contain what the client sent
        if isinstance(error, PayloadTooLarge):
            if "header" in text:
                return 431, f"the request line and the headers are over {MAX_HEAD_BYTES} bytes"
            return 413, f"the body is over --max_body_bytes={self._settings.max_body_bytes}"
        if isinstance(error, RequestTimeout):
            return 408, f"the request was not whole within --read_timeout_ms={self._settings.read_timeout_ms:g}"
        return error.status_code, shorten(text)

    def _unrouted(self, request: Request, error: Exception) -> HTTPResponse:
        """The answer where Sanic itself failed; all are counted as one route, so that a scanner cannot fill the metrics."""
        started_s = time.monotonic()
        if request.method == "OPTIONS" and isinstance(error, MethodNotAllowed):
            response = self._options(request, error)
        else:
            response = self._refuse(request, error)
        is_last = getattr(request.stream, "keep_alive", True) is False
        if is_last and response.status in {400, 408, 413, 431} and (connection := _connection(request)) is not None:
            connection.leave_unread()
        self._finish(request, response, UNROUTED, started_s)
        self._request_log.enter()
        _record(self._request_log, request, UNROUTED, response, started_s=started_s)
        return response

    def _options(self, request: Request, error: MethodNotAllowed) -> HTTPResponse:
        """The methods that a path takes; with --enable_cors also the answer to a browser's preflight request."""
        allowed = ", ".join(sorted({"OPTIONS", *(error.allowed_methods or ())}))
        headers = {"Allow": allowed}
        if self._settings.enable_cors and "access-control-request-method" in request.headers:
            headers["Access-Control-Allow-Methods"] = allowed
            headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type"
        return HTTPResponse(b"", 200, headers, "text/plain; charset=utf-8")

    def _finish(self, request: Request, response: HTTPResponse, template: str, started_s: float) -> None:
        """Adds the headers that every answer carries, and the error code that every error answer carries."""
        headers = response.headers
        if "X-Request-Id" not in headers:
            self._request_log.sign(template, request.headers, headers)
        if "Server-Timing" not in headers:
            headers["Server-Timing"] = f"total;dur={(time.monotonic() - started_s) * 1000:.3f}"
        if response.status >= 400 and ERROR_HEADER not in headers:
            headers[ERROR_HEADER] = http_code(response.status)
        if (connection := _connection(request)) is not None:
            connection.release()
        if self._lifecycle.is_draining and request.stream is not None:
            request.stream.keep_alive = False  # type: ignore[attr-defined] # Sanic writes the header and closes


def _connection(request: Request) -> Connection | None:
    """The connection that a request came by; None under another server than ours."""
    protocol = getattr(request.stream, "protocol", None)
    return protocol if isinstance(protocol, Connection) else None


def _record(
    request_log: RequestLog, request: Request, route: str, response: HTTPResponse | None, *, started_s: float
) -> None:
    """Records a request; an unknown method is recorded as "other", so that a scanner cannot fill the metrics.

    No response: the client left.
    """
    request_log.leave(
        route,
        request.method if request.method in _METHODS else "other",
        CLIENT_LEFT if response is None else response.status,
        started_s,
        asked=request.headers,
        headers={} if response is None else response.headers,
        received=len(request.body or b""),
        sent=0 if response is None else len(response.body or b""),
        client=request.ip,
        request=getattr(request.ctx, "predict", None),
    )


def _error_response(
    request: Request, text: str, code: str, status: int, headers: Mapping[str, str] | None = None
) -> HTTPResponse:
    """An error in JSON. Under /v1/ its body is exactly TensorFlow Serving's, so only the header has the code."""
    body = {"error": text}
    if not request.raw_url.lower().startswith(b"/v1/"):
        body["code"] = code
    return json_response(body, status, {**(headers or {}), ERROR_HEADER: code})


def json_response(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> HTTPResponse:
    """A JSON answer."""
    return HTTPResponse(codec.dump_json(value), status, dict(headers or {}), "application/json")


def text_response(text: str, status: int = 200) -> HTTPResponse:
    """A plain text answer."""
    return HTTPResponse(text, status, {}, "text/plain; charset=utf-8")


async def predict_response(predictor: Predictor, route: Route, request: Request) -> HTTPResponse:
    """The answer to a predict request; the request log finds what it took at `request.ctx.predict`."""
    reply = await predictor.answer(route, call_of(request), lambda made: setattr(request.ctx, "predict", made))
    return HTTPResponse(joined(reply.body), reply.status, reply.headers, reply.content_type)


def call_of(request: Request) -> Call:
    """The parts of Sanic's request that a dialect reads."""
    headers, body = request.headers, request.body
    return Call(headers, body, first_values(request.args))
