from __future__ import annotations

from loadtest.experiments.memory import KINDS_OF_MEMORY, breakdown

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
