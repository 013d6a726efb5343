"""Breaks a real server in every way that the groups know, one fault at a time, while checked clients are on it.

    python -m tests.faults                              # every fault: about twenty minutes on two quiet cores
    python -m tests.faults --short                      # the most telling ones: under five minutes
    python -m tests.faults --only clients --only engine/hangs_for_a_while
    python -m tests.faults --list
    python -m tests.faults --soak=30                    # half an hour of swaps, leavers and 1 % poison

Every answer to a good request is compared with what TensorFlow itself says about the picture. The exit status is 1 if a
promise was broken.
"""

from __future__ import annotations

import argparse
import resource
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from loadtest.measure import machine
from tests.faults import report, soak
from tests.faults.groups import clients, engine, files, network, pictures, process
from tests.faults.run import Runner, workshop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.faults.fault import Fault
    from tests.faults.result import Result

GROUPS = [module.GROUP for module in (clients, pictures, engine, files, process, network)]
FAULTS = [fault for group in GROUPS for fault in group.faults]
PAGE = Path("docs/reliability.md")


def chosen(parsed: argparse.Namespace) -> list[Fault]:
    """The faults that the command line names; in a group, those with equal setups follow each other and share a server."""
    only = parsed.only or [""]
    named = [
        fault
        for fault in FAULTS
        if (fault.is_short or not parsed.short)
        and any(name in ("", fault.group, f"{fault.group}/{fault.name}") for name in only)
    ]
    order = list(dict.fromkeys((fault.group, fault.setup) for fault in named))
    return sorted(named, key=lambda fault: order.index((fault.group, fault.setup)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs, shows and writes; returns 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--short", action="store_true", help="only the most telling faults")
    parser.add_argument("--only", action="append", metavar="GROUP[/FAULT]", help="only these; may be repeated")
    parser.add_argument("--list", action="store_true", help="list the faults and end")
    parser.add_argument("--soak", type=float, default=0, metavar="MINUTES", help="run the soak instead, this long")
    parser.add_argument("--out", type=Path, default=Path("build/faults"), help="folder of the results [build/faults]")
    parser.add_argument("--page", action="store_true", help=f"write the table or the plot into {PAGE.parent} too")
    parsed = parser.parse_args(arguments)
    faults = chosen(parsed)
    if parsed.list:
        print(*(f"{fault.group}/{fault.name}: {fault.does}" for fault in faults), sep="\n")
        return 0
    if not faults:
        parser.error(f"no fault is called {' or '.join(parsed.only)}; --list lists them")
    _allow_many_descriptors()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # ends the servers too, as Ctrl-C does
    parsed.out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        _tell("building the models and asking TensorFlow")
        made = workshop(stack)
        if parsed.soak:
            return soak.run(made, minutes=parsed.soak, out=parsed.out, page=PAGE if parsed.page else None, tell=_tell)
        began_s = time.monotonic()
        results: list[Result] = []
        for result in Runner(made, _tell).run(faults):
            results.append(result)
            _show(len(results), len(faults), result)
            text = _write(results, parsed, time.monotonic() - began_s)
    if parsed.page:
        report.put_between_markers(PAGE, text)
    print("\n" + text)
    return 1 if any(result.problems for result in results) else 0


def _write(results: list[Result], parsed: argparse.Namespace, took_s: float) -> str:
    """Writes the table as Markdown and as JSON, after each fault, so that a run that is ended leaves what it found."""
    circumstances = machine.describe() | {"command": "make faults-short" if parsed.short else "make faults"}
    circumstances["took"] = f"{took_s / 60:.1f} minutes"
    text = report.markdown(results, circumstances)
    (parsed.out / "faults.md").write_text(text + "\n", encoding="utf-8")
    (parsed.out / "faults.json").write_text(report.as_json(results, circumstances) + "\n", encoding="utf-8")
    return text


def _show(place: int, count: int, result: Result) -> None:
    """One line for each fault that is over."""
    name = f"{result.fault.group}/{result.fault.name}"
    faulty = ", ".join(f"{word}: {number}" for word, number in result.faulty.items())
    print(f"[{place:3}/{count}] {name:45} {result.verdict} {result.skipped}  {faulty}", flush=True)
    for example in result.examples if result.problems else []:
        print(f"          {example}", flush=True)


def _tell(text: str) -> None:
    """Progress, on a terminal only."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text} … ")
        sys.stderr.flush()


def _allow_many_descriptors() -> None:
    """Two thousand connections take as many descriptors here as there."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
