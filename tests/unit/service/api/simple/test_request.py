"""How the strings of an STS request are decoded, at any depth."""

from __future__ import annotations

from typing import Any

import pytest

from darkroom.service.api.simple.request import _decode_texts
from darkroom.service.errors import CodecError
from darkroom.service.predict.codec import MAX_DEPTH


@pytest.mark.parametrize("depth", [MAX_DEPTH + 2, 5000])
def test_texts_nested_too_deep_are_refused_by_their_input(depth: int) -> None:
    deep: Any = "eA=="
    for _ in range(depth):
        deep = [deep]
    with pytest.raises(CodecError, match="number: is nested too deep"):
        _decode_texts(deep, "number")


def test_texts_as_deep_as_a_tensor_has_dimensions_are_decoded() -> None:
    deep: Any = "eA=="
    for _ in range(MAX_DEPTH):
        deep = [deep]
    found = _decode_texts(deep, "number")
    for _ in range(MAX_DEPTH):
        assert isinstance(found, list)
        (found,) = found
    assert found == b"x"
