"""Models that fail, hang, dawdle or eat memory: the models beside them are answered meanwhile."""

from __future__ import annotations

import json
import signal
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from loadtest.traffic.pictures import RequestBody
from tests.faults.fault import OVERLOAD, Broken, Group, Setup, memory_groups

if TYPE_CHECKING:
    from tests.faults.stage import Said, Stage

MODELS = ("default", "spin", "raises", "nan", "few_rows", "hungry")
LIMITS = ("--engine_timeout_ms=5000", "--engine_kill_ms=600000")  # long enough for good calls on a busy machine
GROUP = Group("engine", Setup(MODELS, LIMITS))
KILLS = ("--engine_timeout_ms=3000", "--engine_kill_ms=4000")
FOREVER = 2**31 - 1
EXIT_STUCK = 70


def ask(stage: Stage, model: str, rows: list[list[float]], *, name: str = "x", allowed: tuple[int | str, ...]) -> Said:
    """Sends rows of numbers to a model."""
    text = json.dumps({"model_name": model, "data": {name: rows}})
    return stage.ask(RequestBody("application/json", text.encode(), ()), allowed=allowed)


def spin(stage: Stage, turns: int, *, allowed: tuple[int | str, ...]) -> Said:
    """Makes an engine call of so many turns of a loop."""
    return ask(stage, "spin", [[turns]], name="turns", allowed=allowed)


def turns_of(stage: Stage, seconds: float) -> int:
    """How many turns take about so long on this machine now."""
    began_s = time.monotonic()
    spin(stage, 5_000, allowed=(200,))
    return min(FOREVER, max(5_000, int(5_000 * seconds / (time.monotonic() - began_s))))


def fed(stage: Stage, megabytes: int, *, allowed: tuple[int | str, ...]) -> Said:
    """Makes an engine call that needs so much memory."""
    return ask(stage, "hungry", [[megabytes]], name="megabytes", allowed=allowed)


@GROUP.fault(short=True)
def raises(stage: Stage) -> None:
    """A model whose graph raises for some rows: 200 requests, half of them with such a row, merged with good ones."""
    good, bad = [[1.0, 2.0, 3.0, 4.0]], [[1.0, -2.0, 3.0, 4.0]]

    def check() -> None:
        said = ask(stage, "raises", good, allowed=(200,))
        if json.loads(said.body) != {"y": [[2.0, 4.0, 6.0, 8.0]]}:
            raise Broken(f"a wrong answer: {said.body[:200]!r}")

    stage.together([check, partial(ask, stage, "raises", bad, allowed=(400,))] * 100)


@GROUP.fault()
def not_a_number(stage: Stage) -> None:
    """A model that answers NaN and Infinity: written as null, which JSON has; rows beside them are right."""
    said = ask(stage, "nan", [[-1.0, 0.0, 1.0, 1.0], [1.0] * 4], allowed=(200,))
    if json.loads(said.body) != {"y": [[None, None, 0.0, 0.0], [0.0] * 4]}:
        raise Broken(f"a wrong answer: {said.body[:200]!r}")


@GROUP.fault()
def too_few_rows(stage: Stage) -> None:
    """A model that gives fewer rows than it was given: served one request at a time, with TensorFlow's own answer."""

    def check(first: float) -> None:
        said = ask(stage, "few_rows", [[1.0] * 4, [first] * 4], allowed=(200,))
        if json.loads(said.body) != {"y": [[1.0] * 4] + [[first] * 4] * (first > 0)}:
            raise Broken(f"a wrong answer: {said.body[:200]!r}")

    stage.together([partial(check, 2.0), partial(check, -2.0)] * 50)


@GROUP.fault(short=True)
def hangs_for_a_while(stage: Stage) -> None:
    """A call of another model takes 15 s where 5 s are allowed: it gets 504, the server is not ready until it returns."""
    spin(stage, turns_of(stage, 15.0), allowed=(504, 200))
    stage.wait_for_clients()
    stage.until(stage.server.is_ready, "ready once the call has returned")


@GROUP.fault(short=True)
def ten_times_slower(stage: Stage) -> None:
    """Calls of another model suddenly take 10 times and 1,000 times as long as before, below the limit."""
    spin(stage, 1_000, allowed=(200,))
    for turns in (10_000, turns_of(stage, 0.5)):
        stage.together([partial(spin, stage, turns, allowed=(200, 429, 504))] * 4)


@GROUP.fault(short=True, setup=Setup(("default", "spin"), KILLS), may_lose=True, may_refuse={503, 504})
def hangs_for_ever(stage: Stage) -> None:
    """A call never returns: its caller gets 504, the process ends with 70 after the second limit, and is started again."""
    spin(stage, FOREVER, allowed=(504, "closed"))
    if (status := stage.server.wait_ended()) != EXIT_STUCK:
        raise Broken(f"it ended with {status} instead of {EXIT_STUCK}")
    stage.server.start()


@GROUP.fault(setup=Setup(("default", "spin"), (*KILLS, "--workers=2")), may_lose=True, may_refuse={503, 504})
def hangs_for_ever_in_a_worker(stage: Stage) -> None:
    """The same with two workers: the one with the call is replaced, the other one serves."""
    before = set(stage.server.children())
    spin(stage, FOREVER, allowed=(504, "closed"))
    stage.until(lambda: not before <= set(stage.server.children()), "the worker has ended")
    stage.until(lambda: stage.ready_workers() == 2, "two workers are ready again")


@GROUP.fault(setup=Setup(("default", "spin"), KILLS), may_lose=True, may_refuse={503, 504})
def hangs_on_the_loop(stage: Stage) -> None:
    """200 quick calls, so that a model counts as light and may run on the event loop; then a call that never returns."""
    for _ in range(200):
        spin(stage, 1, allowed=(200,))
    spin(stage, FOREVER, allowed=(504, 503, "closed"))
    stage.server.wait_ended()
    stage.server.start()


@GROUP.fault(short=True, setup=Setup(("default", "hungry")), may_refuse={429, 503, 504})
def out_of_memory(stage: Stage) -> None:
    """A call asks for 2,000 TB and is refused as out of memory. Without jemalloc everybody waits 10 s with it."""
    fed(stage, FOREVER, allowed=(503,))
    fed(stage, 50, allowed=(200,))


@GROUP.fault(
    setup=Setup(("default", "hungry"), prefix=("prlimit", "--as=12000000000")),
    may_lose=True,
    may_refuse={429, 503, 504},
)
def out_of_memory_by_address_space(stage: Stage) -> None:
    """The same where the process may map 12 GB only, and a call asks for 20 GB; TensorFlow may crash at the call after it."""
    fed(stage, 20_000, allowed=(503,))
    fed(stage, 50, allowed=(200, "closed"))
    with suppress(TimeoutError):
        stage.server.wait_ended(5.0)
        stage.server.start()


@GROUP.fault(
    setup=Setup(("default", "hungry"), LIMITS, limits=(("memory", "memory.limit_in_bytes", "1600000000"),)),
    may_lose=True,
    may_refuse={503},
    needs=(memory_groups,),
)
def out_of_memory_by_the_kernel(stage: Stage) -> None:
    """A container of 1.6 GB, and a call that fills 4 GB: the kernel kills the process, and it is started again."""
    fed(stage, 4_000, allowed=("closed", 503))
    if stage.server.wait_ended() != -signal.SIGKILL:
        raise Broken("the kernel did not kill it")
    stage.server.start()


@GROUP.fault(may_lose=True, may_refuse=OVERLOAD)
def aborts(stage: Stage) -> None:
    """SIGABRT, as a failed CHECK inside TensorFlow raises it: what is in flight is lost; it is started again."""
    stage.server.send(signal.SIGABRT)
    stage.server.wait_ended()
    stage.server.start()


@GROUP.fault(setup=Setup(flags=("--workers=2",)), may_lose=True, may_refuse={503})
def segmentation_fault_in_a_worker(stage: Stage) -> None:
    """SIGSEGV in one of two workers: its requests are lost, the supervisor replaces it, the other one serves."""
    stage.hurt_worker(signal.SIGSEGV)
