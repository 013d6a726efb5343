"""The result of a fault: what became of every request, and the verdict, which is computed."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import NamedTuple

from tests.faults.checked_clients import Exchange, Outcome
from tests.faults.fault import Fault
from tests.faults.server import Resources

SPARE_DESCRIPTORS = (
    12  # more than this many open files after a fault are a leak: thread pools open a few when first used
)


class Result(NamedTuple):
    """One row of the table.

    Attributes:
        fault: what was done.
        skipped: why it was not done; empty if it was.
        broken: the promise about the faulty requests that was broken; empty if none was.
        exchanges: every request of the checked clients that ended after the fault began.
        faulty: what became of the fault's own requests.
        gap_s: the longest time without a right answer to anyone.
        recovery_s: from the end of the fault until every client had a right answer; None: it did not come.
        before, after: what the server held.
        is_same_process: the server is the process that it was, so that its resources can be compared.
    """

    fault: Fault
    skipped: str = ""
    broken: str = ""
    exchanges: tuple[Exchange, ...] = ()
    faulty: Counter[str] = Counter()  # noqa: RUF012 - never changed
    gap_s: float = 0.0
    recovery_s: float | None = None
    before: Resources = Resources(0, 0, 0)
    after: Resources = Resources(0, 0, 0)
    is_same_process: bool = True

    def count(self, outcome: Outcome) -> int:
        """How many requests of the checked clients came to this."""
        return sum(exchange.outcome is outcome for exchange in self.exchanges)

    @property
    def refusals(self) -> Counter[int]:
        """The refused requests of the checked clients by status."""
        return Counter(each.status for each in self.exchanges if each.outcome is Outcome.REFUSED)

    @property
    def problems(self) -> list[str]:
        """Every promise that was broken, in words; empty for a fault that passed."""
        if self.skipped:
            return []
        fault = self.fault
        refused = sorted(set(self.refusals) - fault.may_refuse)
        leaked = self.after.descriptors - self.before.descriptors
        found = {
            self.broken: bool(self.broken),
            f"{self.count(Outcome.WRONG)} wrong": self.count(Outcome.WRONG) > 0,
            f"{self.count(Outcome.HUNG)} hung": self.count(Outcome.HUNG) > 0,
            f"{self.count(Outcome.LOST_AFTER)} lost": self.count(Outcome.LOST_AFTER) > 0 and not fault.may_lose,
            f"{self.count(Outcome.LOST_BEFORE)} disconnected": self.count(Outcome.LOST_BEFORE) > 0
            and not (fault.may_lose or fault.may_disconnect),
            f"refused with {refused}": bool(refused),
            "not recovered": self.recovery_s is None,
            f"{leaked} descriptors more": self.is_same_process and leaked > SPARE_DESCRIPTORS,
        }
        return [problem for problem, is_so in found.items() if is_so]

    @property
    def examples(self) -> list[str]:
        """One example of each thing that the clients met and that was not right, for the reader."""
        odd = {(each.outcome, each.status): each for each in self.exchanges if each.outcome is not Outcome.RIGHT}
        return [f"{each.form}: {each.outcome.value} {each.status or ''} {each.said}"[:300] for each in odd.values()]

    @property
    def verdict(self) -> str:
        """`ok`, `skipped` or `BROKEN`, with what was broken."""
        return "skipped" if self.skipped else f"BROKEN: {'; '.join(self.problems)}" if self.problems else "ok"


def longest_gap_s(exchanges: tuple[Exchange, ...], began_s: float, ended_s: float) -> float:
    """The longest time without a right answer between two times."""
    times = [began_s, *(each.ended_s for each in exchanges if each.outcome is Outcome.RIGHT), ended_s]
    return max(later - earlier for earlier, later in pairwise(times))
