"""`darkroom token`: makes a bearer token and the line for the server's token file."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from darkroom.service.config.model_config import BadSettingsError
from darkroom.service.config.tokens import Scope, new_token, parse_scopes

if TYPE_CHECKING:
    import argparse

DESCRIPTION = """\
Makes a bearer token. The token is printed once, on stdout. The line for the server's --auth_tokens_file, with the
token's SHA-256, goes to --file, or to stderr. A running server reads the file again when it has changed.
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `darkroom token`."""
    parser.add_argument("name", metavar="NAME", help="who gets the token; one word, for people who read the file")
    parser.add_argument(
        "--scopes", default="predict", metavar="LIST", help=f"comma-separated: {', '.join(Scope)} [predict]"
    )
    parser.add_argument("--file", type=Path, default=None, metavar="PATH", help="append the line to this file")


def run(parsed: argparse.Namespace) -> int:
    """Prints a new token; appends its line to a file, or prints it on stderr.

    Raises:
        BadSettingsError: the name or a scope is wrong, or the file can't be written.
    """
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
