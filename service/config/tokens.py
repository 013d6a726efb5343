"""Bearer tokens: `darkroom token` makes one; the file of the server keeps its SHA-256 and what it is good for."""

from __future__ import annotations

import hashlib
import re
import secrets
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from darkroom.service.config.model_config import BadSettingsError

if TYPE_CHECKING:
    import argparse

DESCRIPTION = (
    "Makes a bearer token. The token is printed once, on stdout; the line for the server's --auth_tokens_file, with "
    "its SHA-256, goes to --file, or to stderr. A running server reads the file again once it has changed."
)


class Scope(StrEnum):
    """What a token is good for."""

    PREDICT = "predict"  # predict, and all that tells of the models
    METRICS = "metrics"
    ADMIN = "admin"  # loading, unloading, labels


class Token(NamedTuple):
    """One line of the file: a name for people, its scopes, the SHA-256 of the token in hex."""

    name: str
    scopes: frozenset[Scope]
    digest: str

    def line(self) -> str:
        """As it stands in the file."""
        return f"{self.name} {','.join(sorted(self.scopes))} {self.digest}"


def new_token(name: str, scopes: frozenset[Scope]) -> tuple[str, Token]:
    """A new token as its bearer sends it, 256 random bits, and what the file keeps of it."""
    text = f"darkroom_{secrets.token_urlsafe(32)}"
    return text, Token(name, scopes, hashlib.sha256(text.encode()).hexdigest())


def read_tokens(path: Path) -> tuple[Token, ...]:
    """The tokens of a file: a line each, `NAME SCOPE[,SCOPE] SHA256`; empty lines and those after # are left out.

    Raises:
        OSError: the file can't be read.
        ValueError: a line is none of these; names its number.
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
    """Scopes written with commas between them.

    Raises:
        ValueError: one of them is none; `where` begins the message.
    """
    words = text.split(",")
    if not set(words) <= set(Scope):
        raise ValueError(f"{where}: expected scopes out of {', '.join(Scope)}, got {text[:80]!r}")
    return frozenset(Scope(word) for word in words)


def add_token_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `darkroom token`."""
    parser.add_argument("name", metavar="NAME", help="whose it is; one word, for people who read the file")
    parser.add_argument(
        "--scopes", default="predict", metavar="LIST", help=f"comma-separated: {', '.join(Scope)} [predict]"
    )
    parser.add_argument("--file", type=Path, default=None, metavar="PATH", help="append the line to this file")
    parser.set_defaults(run=run_token)


def run_token(parsed: argparse.Namespace) -> int:
    """`darkroom token`: prints a new token; the line to keep goes to a file or to stderr."""
    if not re.fullmatch(r"[^\s#]{1,64}", parsed.name):
        raise BadSettingsError(["NAME: one word of at most 64 characters, without #"])
    try:
        text, token = new_token(parsed.name, parse_scopes(parsed.scopes, "--scopes"))
        if parsed.file is None:
            print(token.line(), file=sys.stderr)
        else:
            with parsed.file.open("a", encoding="utf-8") as file:
                file.write(token.line() + "\n")
    except (OSError, ValueError) as err:
        raise BadSettingsError([str(err)]) from err
    print(text)
    return 0
