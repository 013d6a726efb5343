"""Background tasks: each has a name, is started again when it ends by an exception, and tells when it keeps failing."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Coroutine
    from typing import Any

    from prometheus_client.core import Metric

_log = logging.getLogger("darkroom.service")
FIRST_RETRY_S = 0.5  # guess: soon enough that nobody misses the task; doubled at each failure
MAX_RETRY_S = 30.0  # guess: a task that has failed for minutes will hardly succeed a second later
REPEATED = 3  # guess: a task that failed so often in a row does not recover by itself; the server is then not ready
STEADY_S = 60.0  # guess: a run that lasted this long was a success, so the failures before it no longer count


class Tasks:
    """The background tasks of one server. On the event loop.

    A task is a function that runs for ever. If it raises, the log has the traceback, `failures` counts it, and it is
    started again after a wait that doubles with each failure in a row. If it returns, it is over.

    Args:
        failures: counts the failures of each task, by name.
    """

    def __init__(self, failures: Counter[str]) -> None:
        self._failures = failures
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._failed: dict[str, str] = {}  # the tasks that keep failing, with the kind of the last exception

    @property
    def trouble(self) -> str:
        """Which tasks keep failing, and with which exception, for people; empty if none does."""
        return "; ".join(f"task {name} keeps failing ({kind})" for name, kind in self._failed.items())

    def start(self, name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        """Runs `run` until `close`; `name` stands in the log, in the metric and in `trouble`.

        Returns:
            The task. It ends only if `run` returns, or by `close`.
        """
        self._failures[name] += 0  # the series starts at 0, or rate() would not see the first failure
        task = self._tasks[name] = asyncio.get_running_loop().create_task(self._supervise(name, run), name=name)
        return task

    def close(self) -> None:
        """Cancels all tasks; idempotent."""
        for task in self._tasks.values():
            task.cancel()

    async def _supervise(self, name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        loop = asyncio.get_running_loop()
        in_a_row = 0
        while True:
            steady = loop.call_later(STEADY_S, self._failed.pop, name, None)
            started_s = loop.time()
            try:
                await run()
            except Exception as err:  # noqa: BLE001 - whatever a task raises, it is told and the task is started again
                in_a_row = 1 if loop.time() - started_s >= STEADY_S else in_a_row + 1
                wait_s = min(FIRST_RETRY_S * 2 ** (in_a_row - 1), MAX_RETRY_S)
                self._failures[name] += 1
                if in_a_row >= REPEATED:
                    self._failed[name] = type(err).__name__
                fields = {"task": name, "in_a_row": in_a_row, "next_in_s": wait_s}
                _log.error("a background task failed; it is started again", extra={"fields": fields}, exc_info=err)
            else:
                self._failed.pop(name, None)
                return
            finally:
                steady.cancel()
            await asyncio.sleep(wait_s)


def task_failures_family(failures: Counter[str]) -> Metric:
    """The failures of the background tasks, by the name of the task."""
    family = CounterMetricFamily("darkroom_task_failures", "Failures of background tasks.", labels=("task",))
    for task, count in failures.items():
        family.add_metric((task,), count)
    return family
