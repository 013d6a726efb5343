"""Who may ask what: basic auth with one password, bearer tokens out of a file, each with its scopes."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import time
from enum import Enum, auto
from typing import TYPE_CHECKING

from darkroom.service.config.tokens import read_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from darkroom.service.config.settings import Settings
    from darkroom.service.config.tokens import Scope, Token

_log = logging.getLogger("darkroom.service")
CHECK_PERIOD_S = 1.0  # guess: how often the file of the tokens is looked at, and only while somebody asks
CHALLENGE = {"WWW-Authenticate": 'Basic realm="darkroom", Bearer realm="darkroom"'}


class Standing(Enum):
    """How a caller stands to what it asks."""

    WELCOME = auto()
    STRANGER = auto()  # no credentials, or wrong ones
    OUT_OF_SCOPE = auto()  # known, but not for this


class Auth:
    """The credentials of one server; without any, everybody is welcome.

    A password is compared in constant time. A token is looked up by its SHA-256: who doesn't know the token can't
    choose the digest, so the time of the look-up tells nothing; and it is 256 random bits, so a fast hash is enough.

    Args:
        password: the user and the password of basic auth.
        tokens_file: bearer tokens as `service/config/tokens.py` writes them; read again within a second of its change.
        clock: in seconds, for that second.

    Attributes:
        is_on: whether callers are asked who they are.
    """

    def __init__(
        self,
        *,
        password: tuple[str, str] | None = None,
        tokens_file: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._digest = None if password is None else _digest(":".join(password).encode())
        self._tokens_file = tokens_file
        self._tokens: Mapping[str, Token] = {}
        self._stamp: tuple[int, int, int] | None = None
        self._checked_s = clock()
        self.is_on = password is not None or tokens_file is not None
        self.reload()

    def standing(self, authorization: str | None, scope: Scope) -> Standing:
        """How the caller with this `Authorization` header stands to what `scope` covers."""
        if not self.is_on:
            return Standing.WELCOME
        kind, _, credentials = (authorization or "").partition(" ")
        if kind.lower() == "bearer":
            return self._token_standing(credentials.strip(), scope)
        is_welcome = self._digest is not None and _is_basic(kind, credentials, self._digest)
        return Standing.WELCOME if is_welcome else Standing.STRANGER

    def reload(self) -> None:
        """Reads the tokens again; a file that can't be read leaves those that there were, and says so in the log."""
        if self._tokens_file is None:
            return
        try:
            found = self._tokens_file.stat()
            self._stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
            self._tokens = {token.digest: token for token in read_tokens(self._tokens_file)}
        except (OSError, ValueError) as err:
            _log.error("tokens can't be read; the old ones stay", extra={"fields": {"reason": str(err)}})
        else:
            _log.info("tokens are read", extra={"fields": {"tokens": len(self._tokens)}})

    def _token_standing(self, text: str, scope: Scope) -> Standing:
        self._follow_file()
        token = self._tokens.get(hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest())
        if token is None:
            return Standing.STRANGER
        return Standing.WELCOME if scope in token.scopes else Standing.OUT_OF_SCOPE

    def _follow_file(self) -> None:
        """Reads the tokens again if their file has changed."""
        now = self._clock()
        if self._tokens_file is None or now - self._checked_s < CHECK_PERIOD_S:
            return
        self._checked_s = now
        try:
            found = self._tokens_file.stat()
        except OSError:
            return  # being replaced, or gone: the old tokens stay until there is a file again
        if (found.st_mtime_ns, found.st_size, found.st_ino) != self._stamp:
            self.reload()


def auth_of(settings: Settings) -> Auth:
    """The credentials that the settings name."""
    password = (settings.auth_username, settings.auth_password.get_secret_value())
    is_basic = settings.enable_auth and bool(password[1])
    return Auth(password=password if is_basic else None, tokens_file=settings.auth_tokens_file)


def _is_basic(kind: str, credentials: str, digest: bytes) -> bool:
    """Whether basic credentials are the right ones; takes the same time wherever they are wrong."""
    try:
        given = base64.b64decode(credentials, validate=True)
    except (binascii.Error, ValueError):
        given = b""
    return hmac.compare_digest(_digest(given), digest) and kind.lower() == "basic"


def _digest(credentials: bytes) -> bytes:
    """Equal lengths for the comparison, whatever was sent."""
    return hashlib.sha256(credentials).digest()
