from __future__ import annotations

import os

from loadtest.experiments.memory import KINDS_OF_MEMORY, MemorySize, VariantResult, breakdown, draw_table, size_of

SMAPS = """\
7f0000000000-7f0000001000 r-xp 00000000 fe:00 1  /usr/lib/python/tensorflow/libtensorflow_cc.so.2
Rss:                 100 kB
Pss:                  40 kB
7f0000002000-7f0000003000 r-xp 00000000 fe:00 2  /usr/lib/libc.so.6
Pss:                   3 kB
7f0000004000-7f0000005000 rw-p 00000000 00:00 0  [heap]
Pss:                   5 kB
7f0000006000-7f0000007000 rw-p 00000000 00:00 0
Pss:                   7 kB
Private_Dirty:         7 kB
7f0000008000-7f0000009000 r--p 00000000 fe:00 3  /usr/share/zoneinfo/some file
Pss:                   1 kB
"""


def test_mappings_are_told_apart_by_their_path() -> None:
    found = breakdown(SMAPS.splitlines())
    assert [found[kind] // 1024 for kind in KINDS_OF_MEMORY] == [40, 3, 12, 1]


def test_the_kinds_of_a_process_make_up_its_size() -> None:
    size = size_of(os.getpid())
    assert size.resident >= size.proportional > 0
    assert abs(sum(size.kinds.values()) - size.proportional) < 0.2 * size.proportional


def test_a_line_tells_before_and_after() -> None:
    size = MemorySize(900.0, 800.0, dict.fromkeys(KINDS_OF_MEMORY, 200.0))
    line = draw_table([VariantResult("as it is", size, size, 140.0, 130.0)]).splitlines()[-1]
    assert [cell.strip() for cell in line.strip("|").split("|")][:4] == ["as it is", "800", "800", "900"]
