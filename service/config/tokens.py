"""Bearer tokens and their file: one line per token, with its scopes and its SHA-256."""

from __future__ import annotations

import hashlib
import re
import secrets
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path


class Scope(StrEnum):
    """What a token permits."""

    PREDICT = "predict"  # predictions, and everything that describes the models
    METRICS = "metrics"
    ADMIN = "admin"  # load, unload and label models


class Token(NamedTuple):
    """One line of the file.

    Attributes:
        name: for people who read the file or the log.
        scopes: what it permits.
        digest: the SHA-256 of the token, in hex.
    """

    name: str
    scopes: frozenset[Scope]
    digest: str

    def line(self) -> str:
        """The line of the file, without its end."""
        return f"{self.name} {','.join(sorted(self.scopes))} {self.digest}"


def new_token(name: str, scopes: frozenset[Scope]) -> tuple[str, Token]:
    """A new token of 256 random bits: the text that its bearer sends, and the line for the file."""
    text = f"darkroom_{secrets.token_urlsafe(32)}"
    return text, Token(name, scopes, hashlib.sha256(text.encode()).hexdigest())


def read_tokens(path: Path) -> tuple[Token, ...]:
    """The tokens of a file of lines `NAME SCOPE[,SCOPE] SHA256`. Empty lines and text after # are ignored.

    Raises:
        OSError: the file can't be read.
        ValueError: a line is wrong; names its number.
    """
    tokens = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 3 or not re.fullmatch(r"[0-9a-f]{64}", words[2]):
            raise ValueError(f"{path}:{number}: expected NAME SCOPE[,SCOPE] and the SHA-256 of a token in hex")
        tokens.append(Token(words[0], parse_scopes(words[1], f"{path}:{number}"), words[2]))
    return tuple(tokens)


def parse_scopes(text: str, where: str) -> frozenset[Scope]:
    """The scopes of a comma-separated list.

    Raises:
        ValueError: there is no such scope; the message starts with `where`.
    """
    words = text.split(",")
    if not set(words) <= set(Scope):
        raise ValueError(f"{where}: expected scopes out of {', '.join(Scope)}, got {text[:80]!r}")
    return frozenset(Scope(word) for word in words)
