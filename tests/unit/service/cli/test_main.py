"""The command line of `darkroom`: what it does not know is named with what may be meant."""

from __future__ import annotations

import pytest

from darkroom.service.cli.main import main


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["serve", "--model_repositry=x"], "there is no flag '--model_repositry=x'; is --model_repository meant?"),
        (["serve", "model/digits"], "there is no argument 'model/digits'"),
        (["token", "me", "--scops=predict"], "there is no flag '--scops=predict'; is --scopes meant?"),
    ],
)
def test_an_unknown_flag_is_named_with_the_one_that_may_be_meant(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    told = capsys.readouterr().err
    assert (ended.value.code, words in told) == (2, True), told
    assert told.startswith(f"usage: darkroom {arguments[0]} ")
