"""The count of files and calls on a request's path."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from loadtest.experiments.request_path import Called, CallRecorder, main, predictor_part, report, typical

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

SOURCES = {
    "service/lane.py": "from rows import rows\nclass FastLane:\n"
    "    def data_received(self, data):\n        write([rows(each) for each in data])\n"
    "    def connection_lost(self):\n        pass\n",
    "models/rows.py": "def rows(each):\n    return each\n",
    "lib/asyncio/events.py": "def write(data):\n    pass\n",
}


def called(*names: str) -> list[Called]:
    return [Called(f"service/{name.partition('.')[0].lower()}.py", name) for name in names]


def test_calls_count_from_the_arrival_to_the_write_in_every_thread_that_starts_then(tmp_path: Path) -> None:
    space: dict[str, object] = {"__name__": "a request's path"}
    for name, text in reversed(SOURCES.items()):
        exec(compile(text.replace("from rows import rows\n", ""), str(tmp_path / name), "exec"), space)  # noqa: S102 - ours
    recorder = CallRecorder(tmp_path.resolve())

    def run() -> None:
        lane = space["FastLane"]()  # type: ignore[operator]  # the class above
        lane.connection_lost()
        for data in ("ab", "c"):
            lane.data_received(data)
        lane.connection_lost()

    run()
    with recorder.recording():
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    functions = [[call for call in calls if call.is_function] for calls in recorder.requests]
    received = Called("service/lane.py", "FastLane.data_received")
    assert functions == [
        [received, *[Called("models/rows.py", "rows")] * 2],
        [received, Called("models/rows.py", "rows")],
    ]


def test_the_predictors_part_ends_where_the_lane_has_the_reply() -> None:
    calls = called(
        "FastLane.data_received", "Predictor.begin", "Request.read", "Rows.__len__", "FastLane._reply", "Log.sign"
    )
    assert [call.name for call in predictor_part(calls)] == ["Predictor.begin", "Request.read", "Rows.__len__"]
    assert predictor_part(called("FastLane.data_received")) == []


def test_a_typical_request_has_the_most_frequent_number_of_calls() -> None:
    short, long = called("A.a"), called("A.a", "B.b")
    assert typical([short, long, long]) == long


def test_comprehensions_are_told_apart_from_functions() -> None:
    calls = called("Predictor.begin", "Predictor.begin.<locals>.<listcomp>", "Rows.key.<locals>.<genexpr>")
    told = report([calls, calls])
    assert "to transport.write: 1 calls in 1 files (batching 0, models 0, service 1); 3 with comprehensions" in told
    assert "calls of 2 requests: 1 to 1" in told


def test_a_real_server_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--warm_up=3", "--counted=2", "--calls"]) == 0
    told = capsys.readouterr().out
    assert "FastLane.data_received" in told
    assert "Predictor." in told
    assert "EchoEngine.run" in told
