"""Mutation testing: `make mutants`, or a part of it.

    python -m tests.mutants                          # what has no result yet, for an hour at most; run it again to go on
    python -m tests.mutants batching/driver          # these modules, from the start
    python -m tests.mutants --report                 # the last results again

mutmut makes the mutants and runs the tests on them; the configuration is in pyproject.toml. The results are in mutants/.
`make mutants` installs it first; by hand: pip install --require-hashes -r requirements/mutants.txt
A survivor is a mutant that no test has noticed. equivalent.txt lists those that none can notice, each with the reason.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

LIMIT_S = float(os.environ.get("MUTANTS_SECONDS", "3600"))
GOAL = 0.95  # of the mutants that are not equivalent
EQUIVALENT = Path(__file__).parent / "equivalent.txt"
CAUGHT = frozenset({"killed", "timeout", "segfault"})
UNKNOWN = frozenset({"not checked", "check was interrupted by user", "skipped"})


class Mutant(NamedTuple):
    """One mutant by what it changes, since numbers change with every edit."""

    function: str
    before: str
    after: str


def main(words: list[str]) -> int:
    """0 if enough mutants are caught; 2 without mutmut."""
    if {"-h", "--help"} & set(words):
        print(__doc__)
        return 0
    if find_spec("mutmut") is None:
        print("mutmut is not installed: pip install --require-hashes -r requirements/mutants.txt", file=sys.stderr)
        return 2
    only = [f"darkroom.{word.strip('/').replace('/', '.')}*" for word in words if not word.startswith("-")]
    if "--report" not in words:
        _run_mutmut(only)
    return _report(only)


def equivalents(text: str) -> dict[Mutant, str]:
    """The reasons in a text of blocks: the function, `- ` its line, one or more `+ ` mutants of it, and the reason."""
    found: dict[Mutant, str] = {}
    for block in text.split("\n\n"):
        function, *lines = [line for line in block.splitlines() if not line.startswith("#")] or [""]
        before = " ".join(line[2:].strip() for line in lines if line.startswith("- "))
        reason = " ".join(line for line in lines if line[:2] not in {"- ", "+ "})
        found |= {Mutant(function, before, line[2:].strip()): reason for line in lines if line.startswith("+ ")}
    return found


def _run_mutmut(only: list[str]) -> None:
    """Runs mutmut in one process, so that the machine stays of use, and with properties that are the same each time."""
    environment = {**os.environ, "HYPOTHESIS_PROFILE": "mutants"}
    command = ["nice", "-n", "15", str(Path(sys.executable).parent / "mutmut"), "run", "--max-children", "1", *only]
    with subprocess.Popen(command, env=environment) as process:
        try:
            process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            print(f"\nstopped after {LIMIT_S:.0f} s; run it again to go on")
            process.send_signal(signal.SIGINT)


def _report(only: list[str]) -> int:
    """Lists the survivors without a reason, and prints the score."""
    from fnmatch import fnmatch  # noqa: PLC0415

    from mutmut.mutation.data import SourceFileMutationData  # noqa: PLC0415  a test looks at this module without mutmut
    from mutmut.stats import status_by_exit_code  # noqa: PLC0415
    from mutmut.utils.file_utils import walk_mutatable_files  # noqa: PLC0415

    known, caught, total, kept = equivalents(EQUIVALENT.read_text(encoding="utf-8")), 0, 0, 0
    for path in sorted(walk_mutatable_files()):
        data = SourceFileMutationData(path=path)
        with suppress(FileNotFoundError):
            data.load()
        for name, code in data.exit_code_by_key.items():
            status = status_by_exit_code[code]
            if status in UNKNOWN or (only and not any(fnmatch(name, pattern) for pattern in only)):
                continue
            total += 1
            if status in CAUGHT:
                caught += 1
                continue
            mutant, diff = _mutant(name, path)
            if mutant in known:
                kept += 1
            else:
                print(f"\n{name}: {status}\n{diff}")
    score = caught / max(1, total - kept)
    print(
        f"{caught} of {total} caught, {kept} are equivalent, {total - caught - kept} survive: {score:.3f} (goal {GOAL})"
    )
    return int(score < GOAL)


def _mutant(name: str, path: Path) -> tuple[Mutant, str]:
    """What a mutant changes, and its diff."""
    from mutmut.mutation.diff_apply import get_diff_for_mutant  # noqa: PLC0415
    from mutmut.utils.format_utils import get_module_from_key, orig_function_and_class_names_from_key  # noqa: PLC0415

    diff = get_diff_for_mutant(name, path=path)
    lines = [line for line in diff.splitlines() if line[:3] not in {"---", "+++"}]
    before, after = (" ".join(line[1:].strip() for line in lines if line.startswith(sign)) for sign in "-+")
    function, of_class = orig_function_and_class_names_from_key(name)
    module = get_module_from_key(name).removeprefix("darkroom.")
    shown = "\n".join(line for line in lines if not line.startswith("@@"))
    return Mutant(".".join(filter(None, (module, of_class, function))), before, after), shown


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
