"""Fuzzes the parsers with coverage: `make fuzz`, or a part of it.

    python -m tests.fuzz 60                   # all targets for 60 s together
    python -m tests.fuzz 60 head form         # two of them
    python -m tests.fuzz keep head            # what the runs of a target found, as few files as cover it, into the corpus
    python -m tests.fuzz run head FILE …      # libFuzzer itself on a target; its options begin with a hyphen

Each target is a module of tests/fuzz/targets: `check(data)` raises if a parser broke a promise. It starts from its folder
in tests/fuzz/corpus, and keeps what it finds in build/fuzz. An input that breaks a promise is written there, its path is
in the last lines, and it belongs into the corpus once it is mended: `test_corpus.py` tries the corpus in every test run.
"""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path
from time import monotonic
from typing import NamedTuple

TARGETS = tuple(sorted(path.stem for path in (Path(__file__).parent / "targets").glob("*.py")))
CORPUS = Path(__file__).parent / "corpus"
WORDS = Path(__file__).parent / "words"
FOUND = Path("build/fuzz")
OPTIONS = ("-max_len=4096", "-timeout=25", "-rss_limit_mb=2048", "-print_final_stats=1")
SHOW_EVERY_S = 10.0
_STATUS = re.compile(r"^#(\d+)\s+\w+\s+cov: (\d+) ft: (\d+) corp: (\d+)")


class Score(NamedTuple):
    """What libFuzzer said last of one target: executions, edges, features and inputs of its corpus."""

    executions: int = 0
    edges: int = 0
    features: int = 0
    inputs: int = 0


def main(words: list[str]) -> int:
    """The number of targets with a finding."""
    try:
        import atheris  # noqa: F401, PLC0415  only a look whether it is there
    except ImportError:
        print("fuzzing is skipped: atheris has no wheel for this machine (Linux on x86_64 has)")
        return 0
    if words[:1] == ["run"]:
        return _run(words[1], words[2:])
    if words[:1] == ["keep"]:
        return _keep(words[1])
    seconds, names = int(words[0]), words[1:] or TARGETS
    scores = {name: _fuzz(name, max(1, seconds // len(names))) for name in names}
    print(f"\n{'target':10} {'executions':>10} {'edges':>7} {'features':>9} {'inputs':>7}")
    for name, score in scores.items():
        print(f"{name:10} {score.executions:10} {score.edges:7} {score.features:9} {score.inputs:7}")
    findings = [
        path for name in names for path in sorted((FOUND / name).glob("*-*")) if path.is_file() and _is_real(path)
    ]
    for path in findings:
        print(f"found: {path}   (again: python -m tests.fuzz run {path.parent.name} {path})")
    print(f"{len(findings)} findings")
    return len(findings)


def _fuzz(name: str, seconds: int) -> Score:
    """Runs one target in a process of its own, and shows where it is."""
    found = FOUND / name / "corpus"
    found.mkdir(parents=True, exist_ok=True)
    limits = (f"-max_total_time={seconds}", f"-artifact_prefix={FOUND / name}/", f"-dict={WORDS / name}.txt")
    flags = (*limits, str(found), str(CORPUS / name))
    command = [sys.executable, "-m", "tests.fuzz", "run", name, *OPTIONS, *flags]
    score, shown_s, lines = Score(), monotonic(), []
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, errors="replace"
    ) as process:
        for line in process.stderr or ():
            lines.append(line)
            if status := _STATUS.match(line):
                score = Score(*map(int, status.groups()))
                if monotonic() - shown_s > SHOW_EVERY_S:
                    shown_s = monotonic()
                    print(f"{name}: {score.executions} executions, {score.edges} edges", flush=True)
    if process.returncode:
        print(f"{name} ends with {process.returncode}:\n{''.join(lines[-40:])}", flush=True)
    return score


def _is_real(path: Path) -> bool:
    """Whether an input that took too long does so again; if not, the machine stood still, and the file is removed."""
    if not path.name.startswith("timeout-"):
        return True
    command = [sys.executable, "-m", "tests.fuzz", "run", path.parent.name, *OPTIONS, str(path)]
    is_real = subprocess.run(command, capture_output=True, check=False).returncode != 0
    if not is_real:
        print(f"{path.name} took its time once only")
        path.unlink()
    return is_real


def _run(name: str, flags: list[str]) -> int:
    """Hands this process to libFuzzer, with the project and its parsers instrumented."""
    import atheris  # noqa: PLC0415  only here, since a test looks at this module without it

    with atheris.instrument_imports(include=["darkroom", "multipart"]):
        target = importlib.import_module(f"tests.fuzz.targets.{name}")
    atheris.Setup([name, *flags], target.check)
    atheris.Fuzz()
    return 0


def _keep(name: str) -> int:
    """Adds to a target's corpus the inputs that reach what no other does."""
    return _run(name, ["-merge=1", "-max_len=4096", str(CORPUS / name), str(FOUND / name / "corpus")])


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 1))
