"""The edge around every route: request id, auth, metrics, JSON errors, the access log."""

from __future__ import annotations

import logging
import re
import secrets
import time
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from sanic.exceptions import MethodNotAllowed, PayloadTooLarge, RequestTimeout, SanicException
from sanic.response import HTTPResponse

from models.errors import quote
from service import codec
from service.auth import CHALLENGE, Standing
from service.call import Call
from service.connection import Connection
from service.errors import MAX_QUOTED_CHARS, describe, judge
from service.head import MAX_HEAD_BYTES
from service.tokens import Scope

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import SimpleNamespace

    from sanic import Sanic
    from sanic.config import Config
    from sanic.request import Request

    from service.ask import Reply
    from service.auth import Auth
    from service.lifecycle import Lifecycle
    from service.metrics import Metrics
    from service.settings import Settings

App: TypeAlias = "Sanic[Config, SimpleNamespace]"

_log = logging.getLogger("darkroom.service")
_access = logging.getLogger("darkroom.access")
MAX_REQUEST_ID_CHARS = 128
CLIENT_LEFT = 499  # before it was answered, as nginx writes it


class RequestIds:
    """Ids for requests that bring none: eight random hex digits a process, then a number; cheaper than a UUID."""

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(4)
        self._numbers = count(1)

    def of(self, given: str | None) -> str:
        """The client's own id where it is short printable ASCII, else a new one."""
        if given and len(given) <= MAX_REQUEST_ID_CHARS and given.isascii() and given.isprintable():
            return given
        return f"{self._prefix}-{next(self._numbers):x}"


class Seen(NamedTuple):
    """One answered request as metrics and access log tell it; `route` is the template, never the raw path."""

    route: str
    method: str
    code: int
    started_s: float
    request_bytes: int
    response_bytes: int
    client: str


class Edge:
    """Wraps every handler: asks who calls, counts and explains each answer, turns exceptions into JSON."""

    def __init__(self, settings: Settings, metrics: Metrics, lifecycle: Lifecycle, auth: Auth) -> None:
        self._settings = settings
        self._metrics = metrics
        self._lifecycle = lifecycle
        self._auth = auth
        self._ids = RequestIds()
        self._has_access_log = settings.access_log
        self._cors = {"Access-Control-Allow-Origin": "*"} if settings.enable_cors else {}

    def install(self, app: App) -> None:
        """Makes JSON answers of what no route took: 404, 405, 408, 413 and our own mistakes."""
        app.exception(Exception)(self._unrouted)

    def route(self, app: App, method: str, path: str, handler: Any, *, scope: Scope | None = Scope.PREDICT) -> None:
        """Adds a route, HEAD along with GET, for callers whose credentials cover `scope`; None: for everybody.

        A handler of many addresses says in `request.ctx.template` which one it served; else metrics tell `path`.
        """

        async def handle(request: Request, **named: str) -> HTTPResponse:
            started_s = self.enter()
            code, size = CLIENT_LEFT, 0
            try:
                response = await self._answer(request, handler, named, scope)
                code, size = response.status, len(response.body or b"")
                self._finish(request, response, started_s)
                if scope is Scope.ADMIN:
                    response.headers.pop("Access-Control-Allow-Origin", None)  # no page of elsewhere changes anything
                return response
            finally:
                self.leave(_seen(request, getattr(request.ctx, "template", path), code, started_s, size))

        methods = ["GET", "HEAD"] if method == "GET" else [method]
        app.add_route(handle, path, methods=methods, name=re.sub(r"\W", "_", f"{method}{path}"))

    def allows(self, authorization: str | None) -> bool:
        """Whether a caller with this `Authorization` may predict."""
        return self._auth.standing(authorization, Scope.PREDICT) is Standing.WELCOME

    def enter(self) -> float:
        """A request is there, whole: returns when, for `leave`."""
        self._metrics.http_in_flight += 1
        return time.monotonic()

    def leave(self, seen: Seen) -> None:
        """A request that entered is answered, or its caller has left (`CLIENT_LEFT`)."""
        self._metrics.http_in_flight -= 1
        self._count(seen)

    def headers(self, given_id: str | None) -> dict[str, str]:
        """What every answer carries besides its times; `given_id` is the client's `X-Request-Id`."""
        return {"X-Request-Id": self._ids.of(given_id), **self._cors}

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
        self._count(_seen(request, "unrouted", response.status, started_s, len(response.body or b"")))
        return response

    def _options(self, request: Request, error: MethodNotAllowed) -> HTTPResponse:
        """Which methods a path takes; with --enable_cors also what a browser asks before it calls from another page."""
        allowed = ", ".join(sorted({"OPTIONS", *(error.allowed_methods or ())}))
        headers = {"Allow": allowed}
        if self._cors and "access-control-request-method" in request.headers:
            headers["Access-Control-Allow-Methods"] = allowed
            headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type"
        return HTTPResponse(b"", 200, headers, "text/plain; charset=utf-8")

    def _finish(self, request: Request, response: HTTPResponse, started_s: float) -> None:
        """The headers that every answer carries."""
        headers = response.headers
        headers.update(self.headers(request.headers.get("x-request-id")))
        if "Server-Timing" not in headers:
            headers["Server-Timing"] = f"total;dur={(time.monotonic() - started_s) * 1000:.3f}"
        if (connection := _connection(request)) is not None:
            connection.release()
        if self._lifecycle.is_draining and request.stream is not None:
            request.stream.keep_alive = False  # type: ignore[attr-defined] # Sanic writes the header and closes

    def _count(self, seen: Seen) -> None:
        route, method, code, started_s, received, sent, client = seen
        duration_s = time.monotonic() - started_s
        self._metrics.http_ended(
            route, method, code, duration_s=duration_s, request_bytes=received, response_bytes=sent
        )
        if self._has_access_log:
            fields = {"route": route, "method": method, "code": code, "duration_ms": round(duration_s * 1000, 3)}
            fields |= {"request_bytes": received, "response_bytes": sent, "client": client}
            _access.info("request", extra={"fields": fields})


def _connection(request: Request) -> Connection | None:
    """The connection that a request came by; None under another server than ours."""
    protocol = getattr(request.stream, "protocol", None)
    return protocol if isinstance(protocol, Connection) else None


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})


def _seen(request: Request, route: str, code: int, started_s: float, size: int) -> Seen:
    """What Sanic's request was; a method that nobody knows is "other", so that a scanner can't fill the metrics."""
    method = request.method if request.method in _METHODS else "other"
    return Seen(route, method, code, started_s, len(request.body or b""), size, request.ip)


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


def first_values(arguments: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The first value of each query argument or form field."""
    return {name: values[0] for name, values in arguments.items() if values}
