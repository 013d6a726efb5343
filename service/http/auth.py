"""Authentication: basic auth with one password, and bearer tokens from a file, each with its scopes."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import time
from enum import Enum, auto
from typing import TYPE_CHECKING

from darkroom.service.config.tokens import Scope, read_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from darkroom.service.config.settings import Settings
    from darkroom.service.config.tokens import Token

_log = logging.getLogger("darkroom.service")
CHECK_PERIOD_S = 1.0  # guess: how often the tokens file is checked, and only when a token is used
CHALLENGE = {"WWW-Authenticate": 'Basic realm="darkroom", Bearer realm="darkroom"'}


class Access(Enum):
    """Whether a client may do what it asks for."""

    ALLOWED = auto()
    UNAUTHENTICATED = auto()  # no credentials, or wrong ones
    OUT_OF_SCOPE = auto()  # a valid token whose scopes do not cover this


class Auth:
    """The credentials of one server; without any, every client is allowed.

    A password is compared in constant time. A token is looked up by its SHA-256. A client that does not know the token
    cannot choose the digest, so the time of the look-up reveals nothing. A token is 256 random bits, so a fast hash is enough.

    Args:
        password: the user and the password of basic auth.
        tokens_file: bearer tokens as `service/config/tokens.py` writes them; read again within a second after a change.
        clock: measures that second.

    Attributes:
        is_on: whether clients need credentials.
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

    def access(self, authorization: str | None, scope: Scope) -> Access:
        """Whether the client with this `Authorization` header may do what `scope` covers."""
        if not self.is_on:
            return Access.ALLOWED
        kind, _, credentials = (authorization or "").partition(" ")
        if kind.lower() == "bearer":
            self._follow_file()
            digest = hashlib.sha256(credentials.strip().encode(errors="surrogateescape")).hexdigest()
            token = self._tokens.get(digest)
            if token is None:
                return Access.UNAUTHENTICATED
            return Access.ALLOWED if scope in token.scopes else Access.OUT_OF_SCOPE
        try:
            given = base64.b64decode(credentials, validate=True)
        except (binascii.Error, ValueError):
            given = b""
        # It takes the same time wherever they differ.
        is_right = self._digest is not None and hmac.compare_digest(_digest(given), self._digest)
        return Access.ALLOWED if is_right and kind.lower() == "basic" else Access.UNAUTHENTICATED

    def allows(self, authorization: str | None) -> bool:
        """Whether the client with this `Authorization` header may predict."""
        return self.access(authorization, Scope.PREDICT) is Access.ALLOWED

    def reload(self) -> None:
        """Reads the tokens again; if the file cannot be read, it keeps the old ones and logs why."""
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

    def _follow_file(self) -> None:
        """Reads the tokens again if their file has changed."""
        now = self._clock()
        if self._tokens_file is None or now - self._checked_s < CHECK_PERIOD_S:
            return
        self._checked_s = now
        try:
            found = self._tokens_file.stat()
        except OSError:
            return  # being replaced, or gone: the old tokens stay until the file is back
        if (found.st_mtime_ns, found.st_size, found.st_ino) != self._stamp:
            self.reload()


def auth_of(settings: Settings) -> Auth:
    """The credentials that the settings name, as an `Auth`."""
    password = (settings.auth_username, settings.auth_password.get_secret_value())
    is_basic = settings.enable_auth and bool(password[1])
    return Auth(password=password if is_basic else None, tokens_file=settings.auth_tokens_file)


def _digest(credentials: bytes) -> bytes:
    """The SHA-256, so that both sides of a comparison have the same length."""
    return hashlib.sha256(credentials).digest()
