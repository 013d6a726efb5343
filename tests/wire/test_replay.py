"""What was recorded of Simple TensorFlow Serving, asked again: every answer is the same, or better as specified."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from darkroom.models.engines.open import load_model
from tests import savedmodels
from tests.serving import running
from tests.wire.replay import DATA, Outcome, read_better, read_exchanges, replay, table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from darkroom.models.engine import LoadedModel

pytestmark = pytest.mark.slow  # eight models are loaded, in both lanes

EXCHANGES = read_exchanges()
BETTER = read_better()
GUARDED = {"enable_auth": True, "auth_username": "u", "auth_password": "p"}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Outcome]]:
    """Every exchange against servers set up as the recorded ones were: CORS on, models that are the same or alike."""
    folder = tmp_path_factory.mktemp("models")
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(running(*models, enable_cors=True, **settings))
            for name, (models, settings) in _set_ups(folder).items()
        }
        yield [
            replay(
                exchange,
                servers[exchange["server"]].url,
                BETTER.get(exchange["name"]),
                is_exact="deep" in exchange["name"],
            )
            for exchange in EXCHANGES
        ]


def _set_ups(folder: Path) -> dict[str, tuple[list[LoadedModel], dict[str, Any]]]:
    """The models and the settings of each recorded server."""
    template = savedmodels.keys_and_features(folder / "template")
    linear = savedmodels.linear(folder / "linear")
    deep = DATA / "deep_image_model" / "1"

    def load(path: Path, name: str = "default", version: int = 1) -> LoadedModel:
        return load_model(path, name=name, version=version)

    estimator = savedmodels.estimator(folder / "estimator", floats=1)
    return {
        "deep_image": ([load(deep)], {}),
        "template": ([load(template), load(template, version=2)], {}),
        "estimator": ([load(estimator)], {}),
        "config": (
            [
                *(load(template, version=version) for version in (1, 2)),
                load(deep, "deep_image_model"),
                load(linear, "distributed_tensorflow_model"),
            ],
            {},
        ),
        "auth": ([load(template, version=version) for version in (1, 2)], GUARDED),
    }


def test_no_exchange_is_answered_in_a_way_that_is_neither_the_same_nor_better(outcomes: list[Outcome]) -> None:
    print(table(outcomes))  # noqa: T201 - the table is what this test is for: `pytest -s` shows it
    assert [each for each in outcomes if each.verdict == "different"] == []
    assert len(outcomes) == len(EXCHANGES) > 160


def test_every_better_answer_is_of_an_exchange_and_says_why() -> None:
    assert BETTER.keys() <= {exchange["name"] for exchange in EXCHANGES}
    assert all(better["why"] for better in BETTER.values())
