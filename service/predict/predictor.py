"""A call: one predict request as a dialect sees it, by whichever lane it came, and the way from there to its reply."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from darkroom.service.predict.form_data import parse_form
from darkroom.service.predict.request import PredictRequest
from darkroom.service.serving.registry import Target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from darkroom.batching.entry import Entry
    from darkroom.service.predict.compression import Compression
    from darkroom.service.predict.form_data import File
    from darkroom.service.predict.request import Reply
    from darkroom.service.serving.lifecycle import Lifecycle

Form: TypeAlias = "tuple[Mapping[str, Sequence[File]], Mapping[str, Sequence[str]]]"  # files and fields, by name


class Call(NamedTuple):
    """What came: `headers` by name in lower case, `query` with the first value of each name."""

    headers: Mapping[str, str]
    body: bytes
    query: Mapping[str, str]

    def form(self) -> Form:
        """The body as form-data.

        Raises:
            CodecError: it isn't.
        """
        return parse_form(self.body, self.headers.get("content-type", ""))


class Route(NamedTuple):
    """Where the calls of one address go.

    Attributes:
        template: the address as metrics tell it.
        read: fills an ask.
        is_sts: STS's clients get 400 where others get 404 or 415.
        sole: gives the one target that every call of this address means, whatever its body says, or None.
    """

    template: str
    read: Callable[[PredictRequest, Call], None]
    is_sts: bool = False
    sole: Callable[[], Target | None] | None = None


class Predictor:
    """Takes calls to their replies, the same for every dialect and every lane."""

    def __init__(self, lifecycle: Lifecycle, compression: Compression, *, timeout_s: float) -> None:
        self._lifecycle = lifecycle
        self._compression = compression
        self._timeout_s = timeout_s
        self._matchers: list[Callable[[str], Route | None]] = []

    def add(self, match: Callable[[str], Route | None]) -> None:
        """Adds a dialect: `match` gives the route of a POST to a path (no query), or None where it isn't its own."""
        self._matchers.append(match)

    def match(self, path: str) -> Route | None:
        """The route of a POST to `path`; None where no dialect predicts there."""
        for match in self._matchers:
            if (route := match(path)) is not None:
                return route
        return None

    def begin(self, route: Route, call: Call, on_reply: Callable[[Reply], None]) -> tuple[PredictRequest, Entry | None]:
        """Reads a call and submits it; `on_reply` is called exactly once, on the loop, perhaps before this returns.

        Returns:
            The ask and what its `withdraw` wants, if the caller leaves.
        """
        ask = PredictRequest(timeout_s=self._timeout_s, is_sts=route.is_sts)
        pack = self._compression.pack
        try:
            self._read(ask, route, call)
            packed = self._compression.packs_answers
            return ask, ask.submit((lambda reply: on_reply(pack(reply, call.headers))) if packed else on_reply)
        except Exception as err:  # noqa: BLE001 - the edge: every exception becomes an answer, by the one table
            on_reply(ask.fail(err))
            return ask, None

    async def answer(self, route: Route, call: Call) -> Reply:
        """`begin` for a coroutine; cancelling it withdraws the request."""
        ask = PredictRequest(timeout_s=self._timeout_s, is_sts=route.is_sts)
        try:
            self._read(ask, route, call)
            return self._compression.pack(await ask.predict(), call.headers)
        except Exception as err:  # noqa: BLE001 - the edge: every exception becomes an answer, by the one table
            return ask.fail(err)

    def _read(self, ask: PredictRequest, route: Route, call: Call) -> None:
        if not self._lifecycle.is_serving:
            self._lifecycle.check_ready()
        headers = call.headers
        if "x-darkroom-deadline-ms" in headers:
            ask.set_deadline(headers["x-darkroom-deadline-ms"])
        if "x-darkroom-priority" in headers:
            ask.set_priority(headers["x-darkroom-priority"])
        if route.sole is not None and (target := route.sole()) is not None:
            ask.refuse_early(target, 1)
        route.read(ask, self._compression.open(call))


def first_values(arguments: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The first value of each query argument or form field."""
    return {name: values[0] for name, values in arguments.items() if values}
