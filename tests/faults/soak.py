"""The soak: a server for half an hour with swaps of versions, clients that leave, and 1 % poison; what it holds, sampled."""

from __future__ import annotations

import csv
import random
import shutil
import statistics
import threading
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from loadtest.measure import machine
from loadtest.traffic.pictures import json_body, load, raw_body, truncated
from tests.faults import report
from tests.faults.checked_clients import CheckedClients, Outcome
from tests.faults.fault import Setup
from tests.faults.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.run import Workshop

SETUP = Setup(flags=("--warmup_budget_ms=1000", "--max_cache_bytes=50000000", "--cache_dir={folder}/cache"))
SAMPLE_S, SWAP_S = 5.0, 20.0
EARLY_S = 300.0  # the memory after so long is what the memory at the end is compared with; at most a third of the run
GROWTH = 1.03
PLOT = Path("docs/benchmarks/soak.png")
BEGIN, END = "<!-- the soak begins -->", "<!-- the soak ends -->"


class Sample(NamedTuple):
    """What the server held at one moment; `children` prepare a version, and count for nothing here."""

    at_s: float
    memory_mb: float
    descriptors: int
    threads: int
    children: int
    right: int
    swaps: int


class Soak:
    """One run."""

    def __init__(self, stage: Stage, minutes: float) -> None:
        self._stage = stage
        self._length_s = minutes * 60
        self._is_over = threading.Event()
        self._began_s = time.monotonic()
        self.samples: list[Sample] = []
        self.outcomes: Counter[Outcome] = Counter()
        self.swaps = 0
        self.errors: list[str] = []

    def run(self, tell: Callable[[str], None]) -> None:
        """Lasts as long as it was told to."""
        parts = [threading.Thread(target=self._keep, args=(act,)) for act in (self._swap, self._leave, self._poison)]
        for part in parts:
            part.start()
        counted_s = self._began_s
        while (now_s := time.monotonic()) < self._began_s + self._length_s:
            exchanges = [each for each in self._stage.clients.overlapping(counted_s) if each.ended_s < now_s]
            self.outcomes.update(each.outcome for each in exchanges)
            self.errors += [repr(each) for each in exchanges if each.outcome is not Outcome.RIGHT]
            self._stage.clients.forget()
            counted_s = now_s
            self._sample(now_s)
            tell(
                f"soak {(now_s - self._began_s) / 60:.1f} minutes, {self.swaps} swaps, {self.samples[-1].memory_mb:.0f} MB"
            )
            time.sleep(SAMPLE_S)
        self._is_over.set()
        for part in parts:
            part.join()

    def _sample(self, now_s: float) -> None:
        held = self._stage.server.resources_alone()
        self.samples.append(
            Sample(
                round(now_s - self._began_s, 1), *held, len(self._stage.server.children()),
                self.outcomes[Outcome.RIGHT], self.swaps,
            )
        )  # fmt: skip

    def _keep(self, act: Callable[[random.Random], None]) -> None:
        """Repeats one of the disturbances until the run is over; what it finds wrong is told at the end."""
        rng = random.Random(22)
        while not self._is_over.is_set():
            try:
                act(rng)
            except Exception as err:  # noqa: BLE001 - told at the end
                self.errors.append(repr(err))
                self._is_over.wait(1.0)

    def _swap(self, _: random.Random) -> None:
        """The next version comes, is served, and the one before it goes."""
        base, number = self._stage.server.base(), self.swaps + 2
        new = shutil.copytree(self._stage.models["default"], self._stage.folder / str(number))
        (new / "assets.extra" / "number.txt").write_text(f"{number}", encoding="ascii")  # so that no cache has it
        new.rename(base / str(number))
        self._stage.until(
            lambda: self._stage.states().get(str(number), ("", ""))[0] == "AVAILABLE", f"version {number} is served"
        )
        shutil.rmtree(base / str(number - 1))
        self._stage.until(lambda: list(self._stage.states()) == [str(number)], f"version {number} is alone")
        self.swaps += 1
        self._is_over.wait(SWAP_S)

    def _leave(self, rng: random.Random) -> None:
        """A client disconnects somewhere in its request."""
        data = self._stage.bytes_of(json_body(load("digits")))
        with self._stage.connection() as opened, suppress(OSError):
            opened.send(data[: rng.randrange(len(data) + 1)])
        self._is_over.wait(0.1)

    def _poison(self, rng: random.Random) -> None:
        """A picture that the graph cannot decode: one for a hundred good ones."""
        self._stage.ask(raw_body(truncated(rng.choice(load("digits")))), allowed=[400])
        self._is_over.wait(0.5)


class Drift(NamedTuple):
    """How what the server holds at the end compares with what it held early on: medians of samples between swaps."""

    memory: float
    descriptors: float
    threads: float

    @property
    def problems(self) -> list[str]:
        """Which of the promises is broken."""
        found = {
            f"memory grew to {self.memory:.3f} of what it was": self.memory > GROWTH,
            f"{self.descriptors:+.0f} descriptors": self.descriptors != 0,
            f"{self.threads:+.0f} threads": self.threads != 0,
        }
        return [problem for problem, is_so in found.items() if is_so]


def drift(samples: list[Sample]) -> Drift:
    """Compares the end with the time after five minutes, or after a third of a shorter run."""
    quiet = [sample for sample in samples if not sample.children] or samples
    early_s, last_s = min(EARLY_S, samples[-1].at_s / 3), samples[-1].at_s
    width_s = max(60.0, last_s / 10)
    early = [each for each in quiet if early_s <= each.at_s <= early_s + width_s] or quiet[:1]
    late = [each for each in quiet if each.at_s >= last_s - width_s] or quiet[-1:]

    def middle(part: list[Sample], name: str) -> float:
        return float(statistics.median(getattr(sample, name) for sample in part))

    change = partial(lambda name: middle(late, name) - middle(early, name))
    return Drift(middle(late, "memory_mb") / middle(early, "memory_mb"), change("descriptors"), change("threads"))


def run(workshop: Workshop, *, minutes: float, out: Path, page: Path | None, tell: Callable[[str], None]) -> int:
    """Runs the soak, writes samples and plot, and prints; returns 1 if a promise was broken."""
    server = workshop.server(SETUP)
    try:
        server.start()
        with CheckedClients(server.url, workshop.questions) as clients:
            soak = Soak(
                Stage(server, clients, workshop.questions, workshop.models, workshop.new_folder("soak")), minutes
            )
            soak.run(tell)
    finally:
        server.end()
    with (out / "soak.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(Sample._fields)
        writer.writerows(soak.samples)
    found = drift(soak.samples)
    problems = [*soak.errors[:5], *(found.problems)]
    said = ", ".join(f"{count:,} {outcome.value}" for outcome, count in soak.outcomes.items())
    text = (
        f"{minutes:g} minutes, {soak.swaps} swaps: {said}. Memory at the end is {found.memory:.3f} of what it was early on; "
        f"descriptors {found.descriptors:+.0f}, threads {found.threads:+.0f}. Verdict: {'; '.join(problems) or 'ok'}."
    )
    draw(soak.samples, out / "soak.png")
    if page is not None:
        shutil.copy(out / "soak.png", PLOT)
        picture = f"![Memory, open files, threads and answers over the soak]({PLOT.relative_to(page.parent)})"
        notes = "\n".join(f"* {name}: {value}" for name, value in machine.describe().items())
        report.put_between_markers(page, f"{text}\n\n{notes}\n\n{picture}", BEGIN, END)
    print(text)
    return 1 if problems else 0


def draw(samples: list[Sample], path: Path) -> None:
    """Draws memory, descriptors and threads, and answers a second, over time."""
    import matplotlib as mpl  # noqa: PLC0415 - takes half a second, only for drawing

    mpl.use("agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the choice of the backend

    figure, axes = plt.subplots(3, 1, figsize=(7.5, 6.4), sharex=True, layout="constrained")
    minutes = [sample.at_s / 60 for sample in samples]
    quiet = [sample for sample in samples if not sample.children]
    axes[0].plot(minutes, [sample.memory_mb for sample in samples], color="0.7", label="resident MB")
    axes[0].plot([each.at_s / 60 for each in quiet], [each.memory_mb for each in quiet], ".", label="between swaps")
    axes[1].plot(minutes, [sample.descriptors for sample in samples], label="open files")
    axes[1].plot(minutes, [sample.threads for sample in samples], label="threads")
    axes[2].plot(minutes[1:], _rates(samples), label="right answers a second")
    for axis in axes:
        axis.set_ylim(0, 1.15 * axis.get_ylim()[1])
        axis.legend(loc="lower right", frameon=False)
    axes[2].set_xlabel("minutes")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _rates(samples: list[Sample]) -> list[Any]:
    """Right answers a second between two samples."""
    return [
        (later.right - earlier.right) / max(0.001, later.at_s - earlier.at_s) for earlier, later in pairwise(samples)
    ]
