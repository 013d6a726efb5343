"""Depths of hypothesis, picked by HYPOTHESIS_PROFILE: `fast`, the default, `ci`, and `mutants`, which is the same each time."""

import os
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, Phase, settings

if TYPE_CHECKING:
    import pytest

# A failing example must not depend on the speed of the machine, so there is no deadline an example.
settings.register_profile("fast", max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
# For `make mutants`: a mutant that lives must live each time, and one that dies need not be explained.
settings.register_profile(
    "mutants",
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))


def pytest_collection_modifyitems(items: list["pytest.Item"]) -> None:
    """For mutants the properties come last: whatever a quicker test finds is found sooner."""
    if os.environ.get("HYPOTHESIS_PROFILE") == "mutants":
        items.sort(key=lambda item: "property" in item.path.parts)
