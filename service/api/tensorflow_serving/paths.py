"""Parses the paths under /v1/ by TensorFlow Serving's grammar, and finds what they name. Pure functions.

The fixed words of a path may be in upper or lower case. Names and methods are case-sensitive; names may be %-encoded.
"""

from __future__ import annotations

import re
from itertools import product
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

from darkroom.models.errors import UnknownLabel, UnknownModel, UnknownVersion, quote
from darkroom.service.errors import CodecError, NotFound

if TYPE_CHECKING:
    from collections.abc import Mapping

    from darkroom.service.serving.registry import Registry
    from darkroom.service.serving.servable import Target

ANY = "/<rest:(?P<rest>(?i:v1)/.*)>"  # Sanic's router cannot match words in any case, so one route takes every path
MALFORMED = "/v1/"  # what metrics name a path that is none of ROUTES

_MODEL, _WHICHES = "/v1/models/NAME", ("", "/versions/VERSION", "/labels/LABEL")
_ACTS = ("predict", "classify", "regress")
ROUTES = (
    *(("POST", f"{_MODEL}{which}:{act}") for act, which in product(_ACTS, _WHICHES)),
    *(("GET", f"{_MODEL}{which}{what}") for what, which in product(("", "/metadata"), _WHICHES)),
    ("GET", "/v1/models"),
    ("GET", f"{_MODEL}/labels"),
)  # method and template

MAX_VERSION = (1 << 63) - 1  # versions are int64 in TensorFlow Serving

_MODELS = "(?i:/v1/models)"
_WHICH = "/(?P<model>[^/:]+)(?:(?i:/versions/)(?P<version>[0-9]+)|(?i:/labels/)(?P<label>[^/:]+))?"
_ACT = re.compile(f"{_MODELS}{_WHICH}:(?P<act>{'|'.join(_ACTS)})")
_STATUS = re.compile(f"{_MODELS}{_WHICH}(?P<act>(?i:/metadata))?")
_LISTS = re.compile(f"{_MODELS}(?:/(?P<model>[^/:]+)(?i:/labels))?")


class Address(NamedTuple):
    """What a path names; `version` and `label` are None if the path leaves the choice to the server."""

    model: str
    version: int | None
    label: str | None
    act: str  # predict, classify, regress; status, metadata; models, labels
    template: str  # the path with its names in capitals, as in metrics and documents


def posted(path: str) -> Address | None:
    """The address of a POST; None if TensorFlow Serving calls the path malformed.

    Raises:
        CodecError: the version is no int64.
    """
    found = _ACT.fullmatch(path)
    if found is None:
        return None
    act = found["act"]
    return _address(found, act, f":{act}")


def read(path: str) -> Address | None:
    """The address of a GET; None if TensorFlow Serving calls the path malformed.

    Raises:
        CodecError: the version is no int64.
    """
    if found := _STATUS.fullmatch(path):
        return _address(found, "metadata", "/metadata") if found["act"] else _address(found, "status", "")
    if found := _LISTS.fullmatch(path):
        name = found["model"]
        if name is None:
            return Address("", None, None, "models", "/v1/models")
        return Address(unquote(name), None, None, "labels", f"{_MODEL}/labels")
    return None


def version_of(registry: Registry, address: Address) -> int | None:
    """The version that an address names by its number or its label; None for the latest.

    Raises:
        CodecError: no version has this label.
    """
    if address.label is None:
        return address.version
    try:
        return registry.labelled(address.model, address.label)
    except (UnknownModel, UnknownLabel) as err:
        raise CodecError(f"Unrecognized servable version label: {quote(address.label)}") from err


def lookup(registry: Registry, address: Address, headers: Mapping[str, str] | None = None) -> dict[str, Target]:
    """The signatures of the version that an address names; if it names none, see `Registry.version`.

    Raises:
        NotFound, CodecError: there is no such model or version, or no such label.
        NotReady: no version of the model is served now.
    """
    version = version_of(registry, address)
    try:
        return registry.version(address.model, version, headers)
    except (UnknownModel, UnknownVersion) as err:
        name = quote(address.model)
        which = f"Latest({name})" if version is None else f"Specific({name}, {version})"
        raise NotFound(f"Servable not found for request: {which}") from err


def malformed(method: str, path: str) -> CodecError:
    """The error for a path that is none of ROUTES."""
    return CodecError(f"Malformed request: {method} {quote(path)}")


def _address(found: re.Match[str], act: str, suffix: str) -> Address:
    model, version, label = found.group("model", "version", "label")
    digits = (version or "").lstrip("0") or "0"
    if len(digits) > 19 or int(digits) > MAX_VERSION:
        raise CodecError(f"Failed to convert version: {quote(version)} to numeric.")
    which = "/versions/VERSION" if version else "/labels/LABEL" if label else ""
    return Address(
        unquote(model),
        None if version is None else int(digits),
        None if label is None else unquote(label),
        act,
        f"{_MODEL}{which}{suffix}",
    )
