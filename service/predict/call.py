"""What goes into a predict request and what comes out of it: `Call`, `Reply`, `Rendered`. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from darkroom.service.predict.form_data import parse_form

if TYPE_CHECKING:
    from collections.abc import Sequence

    from darkroom.service.predict.form_data import File

AnswerBody: TypeAlias = "bytes | list[bytes | memoryview]"  # of an answer; a large one in pieces, sent as they are
Form: TypeAlias = "tuple[Mapping[str, Sequence[File]], Mapping[str, Sequence[str]]]"  # files and fields, by name


class Call(NamedTuple):
    """An HTTP predict request as a dialect sees it, whether it came by the fast lane or by Sanic's request path.

    Attributes:
        headers: by name in lower case.
        body: the whole body.
        query: the first value of each query argument.
    """

    headers: Mapping[str, str]
    body: bytes
    query: Mapping[str, str]

    def form(self) -> Form:
        """The body as form-data.

        Raises:
            CodecError: the body is not form-data.
        """
        return parse_form(self.body, self.headers.get("content-type", ""))


class Reply(NamedTuple):
    """The answer to a predict request: its status, its body, and the headers that explain it."""

    status: int
    body: AnswerBody
    headers: dict[str, str]
    content_type: str = "application/json"


class Rendered(NamedTuple):
    """What a renderer returns when the body alone is not enough: it adds headers and sets the content type."""

    body: AnswerBody
    headers: dict[str, str]
    content_type: str


def joined(body: AnswerBody) -> bytes:
    """An answer's body as one; copies one of pieces."""
    return body if isinstance(body, bytes) else b"".join(body)


def body_size(body: AnswerBody) -> int:
    """The bytes of an answer's body."""
    return len(body) if isinstance(body, bytes) else sum(map(len, body))


def first_values(arguments: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The first value of each query argument or form field."""
    return {name: values[0] for name, values in arguments.items() if values}
