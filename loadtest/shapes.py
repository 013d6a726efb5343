"""Shapes of a Locust run: users arrive in steps or as a spike. Pass this file with the locustfile and choose by --shape.

locust -f loadtest/locustfile.py,loadtest/shapes.py --host http://127.0.0.1:8500 --users 64 --run-time 2m --shape spike
"""
# Locust is Any to mypy (pyproject.toml):
# mypy: disable-error-code="untyped-decorator,misc"

from argparse import ArgumentParser
from typing import Any

from locust import LoadTestShape, events

from loadtest.stages import SHAPES, users_at

DEFAULT_LENGTH_S = 120.0
SPAWN_RATE = 100.0  # users a second, so that a step is steep


@events.init_command_line_parser.add_listener
def add_flags(parser: ArgumentParser) -> None:
    """Adds the flag --shape to Locust's own."""
    parser.add_argument("--shape", choices=sorted(SHAPES), default="step", env_var="LOADTEST_SHAPE", help="of the run")


class Shape(LoadTestShape):
    """Runs as many users as the shape has at this time, --users at most, until --run-time is over."""

    use_common_options = True  # otherwise Locust removes --users and --run-time

    def tick(self) -> tuple[int, float] | None:
        """Returns the number of users and their spawn rate; None ends the run."""
        options: Any = self.runner.environment.parsed_options
        length_s = options.run_time or DEFAULT_LENGTH_S
        users = users_at(options.shape, self.get_run_time(), length_s=length_s, most=options.num_users or 1)
        return None if users is None else (users, SPAWN_RATE)
