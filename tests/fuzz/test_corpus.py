"""What fuzzing has found, tried again without the fuzzer."""

from importlib import import_module

import pytest

from tests.fuzz.__main__ import CORPUS, TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_of_the_corpus_breaks_a_promise(name: str) -> None:
    check = import_module(f"tests.fuzz.targets.{name}").check
    inputs = sorted((CORPUS / name).iterdir())
    assert inputs
    for path in inputs:
        check(path.read_bytes())
