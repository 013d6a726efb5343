"""The addresses under /v1/: which model, version and act a path names. TensorFlow Serving's grammar; pure functions.

The words of a path may be in any case; names and acts are taken as they are, and names may be %-encoded.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote

from models.errors import quote
from service.errors import CodecError

MAX_VERSION = (1 << 63) - 1  # versions are int64 in TensorFlow Serving

_MODELS = "(?i:/v1/models)"
_WHICH = "/(?P<model>[^/:]+)(?:(?i:/versions/)(?P<version>[0-9]+)|(?i:/labels/)(?P<label>[^/:]+))?"
_ACT = re.compile(f"{_MODELS}{_WHICH}:(?P<act>predict|classify|regress)")
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
        return Address(unquote(name), None, None, "labels", "/v1/models/NAME/labels")
    return None


def _address(found: re.Match[str], act: str, suffix: str) -> Address:
    model, version, label = found.group("model", "version", "label")
    which = "/versions/VERSION" if version else "/labels/LABEL" if label else ""
    return Address(
        unquote(model),
        None if version is None else _number(version),
        None if label is None else unquote(label),
        act,
        f"/v1/models/NAME{which}{suffix}",
    )


def _number(version: str) -> int:
    digits = version.lstrip("0") or "0"
    if len(digits) > 19 or int(digits) > MAX_VERSION:
        raise CodecError(f"Failed to convert version: {quote(version)} to numeric.")
    return int(digits)
