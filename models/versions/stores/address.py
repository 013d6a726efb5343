"""The address of a model in an object store, as an operator types it. It imports no library of stores."""

from __future__ import annotations

import re
from importlib.util import find_spec
from urllib.parse import urlsplit

SCHEMES = ("s3", "gs", "az", "https", "http")
ARCHIVES = (".tar.gz", ".tgz", ".tar")
_ADDRESS = re.compile(r"([A-Za-z][\w+.-]*)://")


def is_address(text: str) -> bool:
    """Whether a text is an address of some kind, and no path."""
    return _ADDRESS.match(text) is not None


def is_archive(address: str) -> bool:
    """Whether an address names an archive, and no prefix."""
    return address.endswith(ARCHIVES)


def check_address(address: str) -> str:
    """The address, without a slash at its end.

    Raises:
        ValueError: nothing can be served from there; the message says why, and does not repeat the address.
    """
    parts = urlsplit(address)
    if parts.scheme not in SCHEMES:
        raise ValueError("must be a folder of this machine, or an address with s3://, gs://, az:// or https://")
    if not parts.netloc:
        raise ValueError("names no bucket" if parts.scheme in SCHEMES[:3] else "names no host")
    if parts.query or parts.fragment:
        raise ValueError("must have no ? and no #: a signed address ends, credentials are given as docs/models.md says")
    if parts.username is not None:
        raise ValueError("must have no credentials: they are given as docs/models.md says")
    if parts.scheme in {"http", "https"} and not is_archive(parts.path):
        raise ValueError(f"must end with {', '.join(ARCHIVES[:-1])} or {ARCHIVES[-1]}: a web server lists no folders")
    if find_spec("obstore") is None:
        raise ValueError("needs the package obstore: pip install 'darkroom[stores]'")
    return address.rstrip("/")
