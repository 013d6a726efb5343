"""SIGINT and SIGTERM: an ordered stop of the process, and its end if that takes too long."""

from __future__ import annotations

import asyncio
import os
import select
import signal
from threading import Thread
from typing import TYPE_CHECKING

from darkroom.service.serving.watchdog import EXIT_STUCK, tell

if TYPE_CHECKING:
    from collections.abc import Callable

    from darkroom.service.server import Server
    from darkroom.service.workers.supervisor import Supervisor

EXIT_SECOND = 1  # of a process that got a second signal


def stop_on_signals(
    server: Server | Supervisor,
    *,
    within_s: float,
    on_end: Callable[[], None] = lambda: None,
) -> None:
    """SIGINT or SIGTERM stops `server` in order. A second one, or `within_s` without an end, ends the process at once.

    It also works while the event loop hangs in a call. Python runs the handler of a signal in the main thread, and only
    once that thread is back from the call. But it writes the signal's number to the wakeup file at once; a thread reads
    it there.

    SIGHUP is ignored: nothing needs a signal to be reloaded, and a closed terminal must not end the server.

    Args:
        server: runs on the running loop, in the main thread.
        within_s: the time for the ordered stop.
        on_end: called before the process is ended at once.
    """
    loop = asyncio.get_running_loop()
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)

    def wait() -> None:
        os.read(read_end, 1)
        loop.call_soon_threadsafe(server.stop)
        is_second = bool(select.select([read_end], [], [], within_s)[0])
        text = "second signal" if is_second else f"the server has not stopped within {within_s:g} s of the signal"
        tell(f"{text}; the process ends at once")
        on_end()
        os._exit(EXIT_SECOND if is_second else EXIT_STUCK)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
        signal.siginterrupt(number, False)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.set_wakeup_fd(write_end)
    Thread(target=wait, name="signals", daemon=True).start()
