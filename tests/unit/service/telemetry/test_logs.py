from __future__ import annotations

import io
import json
import logging

import pytest

from darkroom.service.telemetry.logs import JsonLines, Text, set_up_logs


def _record(message: str, **fields: object) -> logging.LogRecord:
    record = logging.LogRecord("darkroom.x", logging.WARNING, __file__, 1, message, None, None)
    record.fields = fields
    return record


def test_a_record_is_one_json_line_whatever_it_holds() -> None:
    line = JsonLines().format(_record('two\nlines and a "quote"', model="m", path=object()))
    assert "\n" not in line
    read = json.loads(line)
    assert read["message"] == 'two\nlines and a "quote"'
    assert read["level"] == "warning"
    assert read["model"] == "m"


def test_bytes_of_a_client_that_are_no_text_are_logged_escaped() -> None:
    line = JsonLines().format(_record("Unknown Expect: \udcff", header="\udcfe"))
    assert line.isascii()
    assert json.loads(line)["message"] == "Unknown Expect: \udcff"


def test_a_record_for_people_begins_with_the_time_and_names_its_level_where_it_matters() -> None:
    text = Text().format(_record("hello", a=1))
    assert text[8:] == " warning: hello a=1"


@pytest.fixture
def _restored() -> object:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.usefixtures("_restored")
def test_a_stream_that_is_no_terminal_gets_json_and_libraries_speak_from_warning_on() -> None:
    stream = io.StringIO()
    set_up_logs("info", "auto", stream)
    logging.getLogger("darkroom.service").info("ours")
    logging.getLogger("somebody").info("theirs")
    logging.getLogger("somebody").warning("loud")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["ours", "loud"]


@pytest.mark.usefixtures("_restored")
def test_a_worker_s_lines_say_which_it_is() -> None:
    stream = io.StringIO()
    set_up_logs("info", "json", stream, worker=2)
    logging.getLogger("darkroom.service").info("one", extra={"fields": {"a": 1}})
    logging.getLogger("sanic.error").warning("other")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["worker"] for line in lines] == [2, 2]
    assert lines[0]["a"] == 1
