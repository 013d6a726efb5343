"""Freed memory goes back to the system."""

import os
from pathlib import Path

import pytest

from darkroom.models.runtime.memory import give_back

MEBIBYTE = 1 << 20


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="only glibc has malloc_trim")
def test_what_was_freed_below_something_that_stays_goes_back_too() -> None:
    pieces = [bytes([1]) * 16_384 for _ in range(6_400)]  # 100 MiB, each below what malloc would map by itself
    last = pieces[-1]
    del pieces
    before = resident_bytes()
    give_back()
    assert resident_bytes() < before - 50 * MEBIBYTE
    assert len(last) == 16_384
