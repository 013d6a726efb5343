"""Signals that come while the event loop hangs in a call that no signal ends."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

HANGS = """
import asyncio, ctypes, os, sys
from types import SimpleNamespace
from darkroom.service.cli.signals import stop_on_signals

async def main():
    server = SimpleNamespace(stop=lambda: None)
    stop_on_signals(server, within_s=float(sys.argv[1]), on_end=lambda: os.write(1, b"freed"))
    os.write(1, b"hangs ")
    ctypes.CDLL(None).read(os.pipe()[0], ctypes.create_string_buffer(1), 1)

asyncio.run(main())
"""


@pytest.mark.parametrize(("numbers", "within_s", "status"), [("T", 0.05, 70), ("I", 0.05, 70), ("TI", 600, 1)])
def test_the_process_ends_within_the_limit_or_at_a_second_signal(numbers: str, within_s: float, status: int) -> None:
    with subprocess.Popen([sys.executable, "-c", HANGS, str(within_s)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(6) == b"hangs "
        for number in numbers:
            process.send_signal({"T": signal.SIGTERM, "I": signal.SIGINT}[number])
        assert process.wait(60) == status
        assert process.stdout.read() == b"freed"
