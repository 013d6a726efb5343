"""The errors list the names that exist, and quote at most 256 bytes of what a client sent."""

import pytest

from darkroom.models.errors import ModelError, UnknownModel, UnknownSignature, UnknownVersion, quote

LONG = "\u00e4" * 10_000


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UnknownModel("x", ["cats", "dogs"]), "unknown model 'x'; there are: cats, dogs"),
        (UnknownModel("x"), "unknown model 'x'; there are: none"),
        (UnknownVersion("cats", 3, [1, 2]), "model 'cats' has no version 3; there are: 1, 2"),
        (UnknownSignature("x", ["serving_default"]), "unknown signature 'x'; there are: serving_default"),
    ],
)
def test_an_unknown_name_is_answered_with_those_that_exist(error: ModelError, message: str) -> None:
    assert str(error) == message


@pytest.mark.parametrize("error", [UnknownModel(LONG), UnknownVersion("m", LONG), UnknownSignature(LONG)])
def test_a_long_name_is_cut(error: ModelError) -> None:
    assert len(str(error).encode()) < 350


def test_a_quotation_is_one_printable_line_of_at_most_256_bytes() -> None:
    assert quote("a\nb\x00c\u202e") == "a b c "
    assert len(quote(LONG).encode()) == 256
    assert quote("\ud800") == " "
