"""The addresses under /v1/, in TensorFlow Serving's grammar, and what stands behind them. Pure functions.

The words of a path may be in any case; names and acts are taken as they are, and names may be %-encoded.
"""

from __future__ import annotations

import re
from itertools import product
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

from darkroom.models.errors import UnknownLabel, UnknownModel, UnknownVersion, quote
from darkroom.service.errors import CodecError, NotFound

if TYPE_CHECKING:
    from darkroom.service.serving.registry import Registry, Target

ANY = "/<rest:(?P<rest>(?i:v1)/.*)>"  # Sanic's router knows no words in any case, so that it hands over all of them
MALFORMED = "/v1/"  # as metrics tell what is none of ROUTES

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
    """What a path names; `version` and `label` are None where the path leaves the choice to the server."""

    model: str
    version: int | None
    label: str | None
    act: str  # predict, classify, regress; status, metadata; models, labels
    template: str  # the path with its names in capitals, as metrics and documents tell it


def posted(path: str) -> Address | None:
    """The address of a POST; None where TensorFlow Serving calls it malformed.

    Raises:
        CodecError: a version that is no int64.
    """
    found = _ACT.fullmatch(path)
    if found is None:
        return None
    act = found["act"]
    return _address(found, act, f":{act}")


def read(path: str) -> Address | None:
    """The address of a GET; None where TensorFlow Serving calls it malformed.

    Raises:
        CodecError: a version that is no int64.
    """
    if found := _STATUS.fullmatch(path):
        return _address(found, "metadata", "/metadata") if found["act"] else _address(found, "status", "")
    if found := _LISTS.fullmatch(path):
        name = found["model"]
        if name is None:
            return Address("", None, None, "models", "/v1/models")
        return Address(unquote(name), None, None, "labels", f"{_MODEL}/labels")
    return None


def version_of(catalogue: Registry, address: Address) -> int | None:
    """The version that an address names, by its number or its label; None: the latest.

    Raises:
        CodecError: no version has the label.
    """
    if address.label is None:
        return address.version
    try:
        return catalogue.labelled(address.model, address.label)
    except (UnknownModel, UnknownLabel) as err:
        raise CodecError(f"Unrecognized servable version label: {quote(address.label)}") from err


def lookup(catalogue: Registry, address: Address) -> dict[str, Target]:
    """The signatures of the version that an address names.

    Raises:
        NotFound, CodecError: there is no such model or version, or no such label.
        NotReady: nothing of the model can be asked now.
    """
    version = version_of(catalogue, address)
    try:
        return catalogue.version(address.model, version)
    except (UnknownModel, UnknownVersion) as err:
        name = quote(address.model)
        which = f"Latest({name})" if version is None else f"Specific({name}, {version})"
        raise NotFound(f"Servable not found for request: {which}") from err


def malformed(method: str, path: str) -> CodecError:
    """The error for what is none of ROUTES."""
    return CodecError(f"Malformed request: {method} {quote(path)}")


def _address(found: re.Match[str], act: str, suffix: str) -> Address:
    model, version, label = found.group("model", "version", "label")
    which = "/versions/VERSION" if version else "/labels/LABEL" if label else ""
    return Address(
        unquote(model),
        None if version is None else _number(version),
        None if label is None else unquote(label),
        act,
        f"{_MODEL}{which}{suffix}",
    )


def _number(version: str) -> int:
    digits = version.lstrip("0") or "0"
    if len(digits) > 19 or int(digits) > MAX_VERSION:
        raise CodecError(f"Failed to convert version: {quote(version)} to numeric.")
    return int(digits)
