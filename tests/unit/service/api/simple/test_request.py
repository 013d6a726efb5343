"""What STS's clients send, where no other test looks."""

from __future__ import annotations

from typing import Any

import pytest

from darkroom.service.api.simple import request as simple_body
from darkroom.service.errors import CodecError
from darkroom.service.predict.codec import MAX_DEPTH


@pytest.mark.parametrize("depth", [MAX_DEPTH + 2, 5000])
def test_texts_nested_too_deep_are_refused_by_their_input(depth: int) -> None:
    deep: Any = "eA=="
    for _ in range(depth):
        deep = [deep]
    with pytest.raises(CodecError, match="number: is nested too deep"):
        simple_body._decode_texts(deep, "number")


def test_texts_as_deep_as_a_tensor_has_dimensions_are_decoded() -> None:
    deep: Any = "eA=="
    for _ in range(MAX_DEPTH):
        deep = [deep]
    found = simple_body._decode_texts(deep, "number")
    for _ in range(MAX_DEPTH):
        assert isinstance(found, list)
        (found,) = found
    assert found == b"x"
