"""Hypothesis in unit tests: in CI a quarter of the examples that the scheduler's properties get."""

import os

from hypothesis import HealthCheck, settings

# A test takes the profile that is loaded when its file is imported, and tests/property comes first.
if os.environ.get("HYPOTHESIS_PROFILE") == "ci":
    settings.register_profile("unit", max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("unit")
