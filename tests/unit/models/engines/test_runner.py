"""The runner's threads: every batch is answered once, every part with its own rows, whatever the engine does."""

import math
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from queue import SimpleQueue
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.models.engine import Engine, PassReport
from darkroom.models.engines.fakes import ECHO, BrokenEngine, EchoEngine, FailingEngine, ScreeningEngine, SlowEngine
from darkroom.models.engines.runner import (
    FOLDED_ROWS,
    INLINE_S,
    MAX_INLINE_PIXELS,
    NEVER_AGAIN_S,
    InlineRule,
    Runner,
    RunReport,
)
from darkroom.models.errors import InvalidInput, OutOfMemory, PredictFailed
from darkroom.models.rows import Rows
from darkroom.models.spec import SignatureSpec

LIMIT_S = 60.0


class Desk:
    """A runner and the reports that it gave."""

    def __init__(self, engine: Engine, threads: int = 1) -> None:
        self.runner = Runner(engine, threads=threads)
        self.reports: SimpleQueue[RunReport] = SimpleQueue()

    def run(self, parts: Sequence[tuple[Rows, int, int]], padding: int = 0) -> RunReport:
        self.runner.start(parts, padding, self.reports.put)
        return self.reports.get(timeout=LIMIT_S)


@pytest.fixture(scope="module")
def echo() -> Iterator[Desk]:
    desk = Desk(EchoEngine())
    yield desk
    desk.runner.close()


def pictures(*names: bytes) -> Rows:
    return Rows({"images": list(names)})


def results(report: RunReport) -> list[Rows]:
    assert report.error is None
    assert report.results is not None
    return report.results


def digests(rows: Rows) -> list[int]:
    return np.asarray(rows.columns["digest"]).tolist()  # type: ignore[no-any-return]


class Counts:
    """An engine that notes how many rows each call had, and answers with a column of `rows` rows."""

    passes: tuple[PassReport, ...] = ()

    def __init__(self, spec: SignatureSpec = ECHO, *, extra: int = 0) -> None:
        self.spec = spec
        self.calls: list[int] = []
        self._extra = extra

    def run(self, rows: Rows) -> Rows:
        self.calls.append(len(rows))
        return Rows({"y": np.zeros(len(rows) + self._extra)})

    def close(self) -> None: ...


@given(
    st.lists(st.tuples(st.lists(st.binary(max_size=8), min_size=1, max_size=6), st.data()), min_size=1, max_size=5),
    st.integers(0, 4),
)
@settings(deadline=None)
def test_each_part_gets_the_outputs_that_it_asks_for_of_its_own_rows(
    echo: Desk, requests: list[tuple[list[bytes], st.DataObject]], padding: int
) -> None:
    parts, expected = [], []
    for names, data in requests:
        start = data.draw(st.integers(0, len(names) - 1))
        stop = data.draw(st.integers(start + 1, len(names)))
        asked = data.draw(st.sets(st.sampled_from(("digest", "length"))))
        parts.append((pictures(*names).asking(sorted(asked), shares=True), start, stop))
        every = {"digest": [*map(crc32, names[start:stop])], "length": [*map(len, names[start:stop])]}
        expected.append({name: every[name] for name in sorted(asked or every)})
    assert len({rows.key for rows, _, _ in parts}) == 1
    answers = results(echo.run(parts, padding))
    columns = [{name: np.asarray(each).tolist() for name, each in answer.columns.items()} for answer in answers]
    assert columns == expected
    assert [len(answer) for answer in answers] == [stop - start for _, start, stop in parts]


def test_padding_is_fed_and_not_answered() -> None:
    engine = Counts()
    desk = Desk(engine)
    answers = results(desk.run([(pictures(b"a", b"b"), 0, 2), (pictures(b"c"), 0, 1)], padding=5))
    assert engine.calls == [8]
    assert [len(answer) for answer in answers] == [2, 1]
    desk.runner.close()


def test_a_whole_payload_alone_reaches_the_engine_as_it_is() -> None:
    seen: list[Rows] = []

    class Sees(EchoEngine):
        def run(self, rows: Rows) -> Rows:
            seen.append(rows)
            return super().run(rows)

    desk = Desk(Sees())
    payload = pictures(b"a", b"b")
    desk.run([(payload, 0, 2)])
    desk.runner.close()
    assert seen == [payload]


@pytest.mark.parametrize("extra", [-1, 1])
@pytest.mark.parametrize("padding", [0, 2])
def test_an_output_with_another_number_of_rows_than_were_fed_is_put_down_to_a_row(extra: int, padding: int) -> None:
    desk = Desk(Counts(extra=extra))
    report = desk.run([(pictures(b"a", b"b"), 0, 2)], padding)
    desk.runner.close()
    assert report.results is None
    assert isinstance(report.error, InvalidInput)  # so the batch is halved until that row is alone
    assert f"{2 + padding + extra} rows for {2 + padding}" in str(report.error)


def test_an_unbatched_signature_may_answer_with_any_number_of_rows() -> None:
    spec = SignatureSpec("s", ECHO.inputs, ECHO.outputs, batched=False, unbatched_reason="it sums")
    desk = Desk(Counts(spec, extra=-2))
    (answer,) = results(desk.run([(pictures(b"a", b"b", b"c"), 0, 3)]))
    desk.runner.close()
    assert np.asarray(answer.columns["y"]).shape == (1,)
    assert (len(answer), answer.aligned) == (3, False)


def test_rows_that_are_not_aligned_get_their_answer_as_it_comes() -> None:
    desk = Desk(Counts(extra=3))
    (answer,) = results(desk.run([(Rows({"images": [b"a", b"b"]}, aligned=False), 0, 2)]))
    desk.runner.close()
    assert np.asarray(answer.columns["y"]).shape == (5,)
    assert len(answer) == 2


def test_rows_folded_into_one_run_in_pieces_and_are_answered_in_their_order(echo: Desk) -> None:
    rows = pictures(*(str(n).encode() for n in range(2 * FOLDED_ROWS + 3)))
    desk = Desk(counts := Counts())
    desk.run([(rows.fold(), 0, 1)])
    desk.runner.close()
    assert counts.calls == [FOLDED_ROWS, FOLDED_ROWS, 3]
    (answer,) = results(echo.run([(rows.fold(), 0, 1)]))
    (alone,) = results(echo.run([(rows, 0, len(rows))]))
    assert digests(answer) == digests(alone)


def test_rows_folded_into_one_that_get_another_number_of_answers_fail() -> None:
    desk = Desk(Counts(extra=1))
    report = desk.run([(pictures(b"a", b"b").fold(), 0, 1)])
    desk.runner.close()
    assert isinstance(report.error, PredictFailed)


@pytest.mark.parametrize("error", [InvalidInput("bad row"), OutOfMemory("full"), PredictFailed("broken")])
def test_a_models_error_is_reported_as_it_is(error: Exception) -> None:
    desk = Desk(BrokenEngine(EchoEngine(), error))
    assert desk.run([(pictures(b"a"), 0, 1)]).error is error
    desk.runner.close()


@pytest.mark.parametrize("error", [ZeroDivisionError("oops"), SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_any_other_exception_fails_the_batch_and_the_thread_lives_on(error: BaseException) -> None:
    broken = BrokenEngine(EchoEngine(), error)
    desk = Desk(broken)
    for _ in range(2):
        report = desk.run([(pictures(b"a"), 0, 1)])
        assert isinstance(report.error, PredictFailed)
        assert report.error.__cause__ is error
    desk.runner.close()


def test_parts_that_cannot_be_joined_are_an_error_and_not_silence() -> None:
    desk = Desk(EchoEngine())
    report = desk.run([(pictures(b"a"), 0, 1), (Rows({"other": [b"b"]}), 0, 1)])
    assert isinstance(report.error, PredictFailed)
    desk.runner.close()


def test_a_callback_that_raises_does_not_end_the_thread() -> None:
    desk = Desk(EchoEngine())

    def refuse(_: RunReport) -> None:
        raise RuntimeError("the loop is closed")

    desk.runner.start([(pictures(b"a"), 0, 1)], 0, refuse)
    assert results(desk.run([(pictures(b"b"), 0, 1)]))
    desk.runner.close()


def test_threads_run_batches_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=LIMIT_S)
    desk = Desk(SlowEngine(EchoEngine(), float, sleep=lambda _: both.wait()), threads=2)
    for _ in range(2):
        desk.runner.start([(pictures(b"a"), 0, 1)], 0, desk.reports.put)
    assert all(results(desk.reports.get(timeout=LIMIT_S)) for _ in range(2))
    desk.runner.close()


class Witness:
    """An echo that notes which thread ran each picture, and waits before it answers one named `gate`."""

    passes: tuple[PassReport, ...] = ()

    def __init__(self) -> None:
        self.spec = ECHO
        self.seen: list[tuple[bytes, int]] = []
        self.gate = threading.Event()
        self._echo = EchoEngine()

    def run(self, rows: Rows) -> Rows:
        (name,) = rows.columns["images"]
        self.seen.append((name, threading.get_ident()))
        if name == b"gate":
            assert self.gate.wait(LIMIT_S)
        return self._echo.run(rows)

    def close(self) -> None: ...


def test_lone_batches_all_run_in_the_thread_that_was_busy_last_while_others_are_idle() -> None:
    witness = Witness()
    desk = Desk(witness, threads=4)
    idle = desk.runner._queue._idle  # whether a thread waits can be seen nowhere else
    for n in range(10):
        end_s = time.monotonic() + LIMIT_S
        while len(idle) < 4 and time.monotonic() < end_s:
            time.sleep(0.001)
        desk.run([(pictures(b"%d" % n), 0, 1)])
    assert len({thread for _, thread in witness.seen}) == 1
    desk.runner.close()


def test_what_waits_for_a_thread_keeps_its_order() -> None:
    witness = Witness()
    desk = Desk(witness)
    for name in (b"gate", b"a", b"b", b"c"):
        desk.runner.start([(pictures(name), 0, 1)], 0, desk.reports.put)
    witness.gate.set()
    found = [digests(results(desk.reports.get(timeout=LIMIT_S))[0]) for _ in range(4)]
    assert found == [[crc32(name)] for name in (b"gate", b"a", b"b", b"c")]
    desk.runner.close()


def test_close_answers_what_was_handed_over_and_ends_the_threads() -> None:
    desk = Desk(EchoEngine(), threads=2)
    for _ in range(20):
        desk.runner.start([(pictures(b"a"), 0, 1)], 0, desk.reports.put)
    desk.runner.close()
    desk.runner.close()
    assert desk.reports.qsize() == 20
    with pytest.raises(RuntimeError, match="closed"):
        desk.runner.start([(pictures(b"a"), 0, 1)], 0, desk.reports.put)


def test_durations_are_of_the_monotonic_clock_and_add_up() -> None:
    before_s = time.monotonic()
    desk = Desk(FailingEngine(EchoEngine(), lambda picture: picture == b"guilty"))
    good, bad = desk.run([(pictures(b"a"), 0, 1)]), desk.run([(pictures(b"guilty"), 0, 1)])
    after_s = time.monotonic()
    desk.runner.close()
    for report in (good, bad):
        spent_s = report.collate_s + report.execute_s + report.split_s
        assert before_s <= report.started_s <= report.started_s + spent_s <= after_s
        assert min(report.collate_s, report.execute_s, report.split_s) >= 0
    assert isinstance(bad.error, InvalidInput)


def screening(*, guilty: bytes = b"bad", spec: SignatureSpec = ECHO) -> Desk:
    return Desk(ScreeningEngine(EchoEngine(spec), lambda name: name == guilty))


def test_the_guilty_rows_of_a_failed_batch_are_named_by_their_place_in_it() -> None:
    desk = screening()
    report = desk.run([(pictures(b"x", b"bad", b"a"), 1, 3), (pictures(b"bad"), 0, 1), (pictures(b"b"), 0, 1)])
    assert isinstance(report.error, InvalidInput)
    assert list(report.guilty) == [0, 2]
    assert all(isinstance(fault, InvalidInput) for fault in report.guilty.values())
    desk.runner.close()


def test_the_repeats_of_padding_are_never_guilty() -> None:
    desk = screening()
    assert list(desk.run([(pictures(b"a", b"bad"), 0, 2)], padding=2).guilty) == [1]
    desk.runner.close()


def test_a_single_row_an_unbatched_signature_and_a_good_batch_are_not_screened() -> None:
    desk = screening()
    assert desk.run([(pictures(b"bad"), 0, 1)]).guilty == {}
    assert desk.run([(pictures(b"a", b"b"), 0, 2)]).guilty == {}
    desk.runner.close()
    unbatched = screening(spec=replace(ECHO, batched=False))
    assert unbatched.run([(pictures(b"a", b"bad"), 0, 2)]).guilty == {}
    unbatched.runner.close()


def test_a_batch_that_failed_by_no_clients_fault_is_not_screened() -> None:
    class Breaks(ScreeningEngine):
        def run(self, rows: Rows) -> Rows:
            raise OutOfMemory(f"{len(rows)} rows")

    desk = Desk(Breaks(EchoEngine(), lambda _: True))
    assert desk.run([(pictures(b"a", b"b"), 0, 2)]).guilty == {}
    desk.runner.close()


def test_a_screen_that_fails_leaves_the_batchs_own_error() -> None:
    class Blind(ScreeningEngine):
        def screen(self, rows: Rows) -> list[InvalidInput | None]:
            raise ZeroDivisionError(f"{len(rows)} rows")

    desk = Desk(Blind(EchoEngine(), lambda name: name == b"bad"))
    report = desk.run([(pictures(b"a", b"bad"), 0, 2)])
    assert isinstance(report.error, InvalidInput)
    assert report.guilty == {}
    desk.runner.close()


class Place(EchoEngine):
    """Notes in which thread its calls ran, and by which way."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[tuple[str, int]] = []

    def run(self, rows: Rows) -> Rows:
        self.places.append(("run", threading.get_ident()))
        return super().run(rows)

    def run_inline(self, rows: Rows) -> Rows:
        self.places.append(("run_inline", threading.get_ident()))
        return super().run(rows)


def small(*names: bytes) -> Rows:
    return Rows({"images": list(names)}, pixels=784)


def test_an_inline_batch_is_over_when_start_returns_and_no_thread_saw_it() -> None:
    engine = Place()
    runner = Runner(engine, devices={"cpu:0": engine}, lone_s=INLINE_S / 10)
    reports: list[RunReport] = []
    runner.start([(small(b"a", b"b"), 0, 2), (small(b"c"), 0, 1)], 1, reports.append)
    runner.close()
    assert [digests(piece) for piece in results(reports[0])] == [[crc32(b"a"), crc32(b"b")], [crc32(b"c")]]
    assert reports[0].device == "cpu:0"
    assert engine.places == [("run_inline", threading.get_ident())]


def test_a_large_picture_goes_to_the_thread_even_where_the_engine_is_quick() -> None:
    engine = Place()
    runner = Runner(engine, lone_s=INLINE_S / 10)
    reports: SimpleQueue[RunReport] = SimpleQueue()
    runner.start([(Rows({"images": [b"a"]}, pixels=MAX_INLINE_PIXELS + 1), 0, 1)], 0, reports.put)
    assert reports.get(timeout=LIMIT_S).error is None
    runner.close()
    assert [way for way, _ in engine.places] == ["run"]
    assert engine.places[0][1] != threading.get_ident()


def test_with_several_devices_nothing_is_run_inline() -> None:
    engines = {"cpu:0": Place(), "cpu:1": Place()}
    runner = Runner(engines["cpu:0"], devices=engines, lone_s=INLINE_S / 10)
    reports: SimpleQueue[RunReport] = SimpleQueue()
    runner.start([(small(b"a"), 0, 1)], 0, reports.put)
    assert reports.get(timeout=LIMIT_S).error is None
    runner.close()
    ran = [place for engine in engines.values() for place in engine.places]
    assert [way for way, _ in ran] == ["run"]
    assert ran[0][1] != threading.get_ident()


def test_an_inline_batch_that_fails_is_reported_like_any_other() -> None:
    runner = Runner(FailingEngine(EchoEngine(), lambda _: True), lone_s=INLINE_S / 10)
    reports: list[RunReport] = []
    runner.start([(small(b"a"), 0, 1)], 0, reports.append)
    runner.close()
    assert isinstance(reports[0].error, InvalidInput)


QUICK_S = INLINE_S / 10


def part(count: int = 1, pixels: int = 784) -> tuple[Rows, int, int]:
    return Rows({"images": [b"x"] * count}, pixels=pixels), 0, count


def test_few_small_pictures_for_a_quick_engine_are_run_inline() -> None:
    rule = InlineRule(QUICK_S)
    assert rule.allows([part(), part(4)], 5)
    assert not rule.allows([part(), part(4)], 6), "padding takes time as well"


def test_a_large_picture_is_not_run_inline_nor_are_many_small_ones_together() -> None:
    rule = InlineRule(QUICK_S)
    assert rule.allows([part(pixels=MAX_INLINE_PIXELS)], 0)
    assert not rule.allows([part(pixels=MAX_INLINE_PIXELS + 1)], 0)
    assert not rule.allows([part(pixels=MAX_INLINE_PIXELS), part(pixels=1)], 0)


def test_pictures_of_unknown_size_are_not_run_inline() -> None:
    assert not InlineRule(QUICK_S).allows([part(), part(pixels=0)], 0)


def test_nothing_is_run_inline_for_a_slow_engine_however_often_it_is_asked() -> None:
    for slow in (InlineRule(math.inf), InlineRule(2 * INLINE_S)):
        assert not any(slow.allows([part()], 0) for _ in range(10_000))


def test_larger_batches_are_run_inline_as_rows_turn_out_cheaper_together() -> None:
    rule = InlineRule(QUICK_S)
    assert not rule.allows([part(40)], 0)
    for _ in range(50):
        rule.learn(10, 10 * INLINE_S / 50)
    assert rule.allows([part(40)], 0)
    assert not rule.allows([part(60)], 0)


def test_one_interruption_changes_little_and_a_bad_spell_is_forgotten() -> None:
    rule = InlineRule(QUICK_S)
    rule.learn(1, NEVER_AGAIN_S)
    assert rule.allows([part(8)], 0)
    for _ in range(100):
        rule.learn(1, NEVER_AGAIN_S)
    assert not rule.allows([part()], 0)
    assert any(rule.allows([part()], 0) for _ in range(10_000))


def test_after_one_call_that_held_the_loop_up_for_long_nothing_is_run_inline_again() -> None:
    rule = InlineRule(QUICK_S)
    assert rule.allows([part()], 0)
    rule.learn(1, 2 * NEVER_AGAIN_S)
    for _ in range(10_000):
        rule.learn(1, 1e-6)
        assert not rule.allows([part()], 0)


@given(st.lists(st.tuples(st.integers(1, 64), st.floats(1e-6, 10)), max_size=50))
def test_the_expected_time_of_a_row_stays_within_the_measured_ones(calls: list[tuple[int, float]]) -> None:
    rule = InlineRule(QUICK_S)
    for rows, seconds in calls:
        rule.learn(rows, seconds)
    quickest = min([QUICK_S, *(seconds / rows for rows, seconds in calls)])
    assert not rule.allows([part(int(INLINE_S / quickest) + 2)], 0)
