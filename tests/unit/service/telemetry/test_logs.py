from __future__ import annotations

import io
import json
import logging
import os
import socket
from typing import TYPE_CHECKING

import pytest

from darkroom.service.telemetry.logs import JsonLines, NeverWaits, Text, set_up_logs

if TYPE_CHECKING:
    from pathlib import Path


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


@pytest.mark.parametrize("kind", ["pipe", "socket", "denied"])
def test_a_reader_that_stands_still_stops_nobody_and_is_told_how_much_it_missed(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = [end.detach() for end in socket.socketpair()] if kind == "socket" else os.pipe()
    if kind == "denied":  # /proc/self/fd/2 of another user's pipe can't be opened
        monkeypatch.setattr(os, "open", lambda *_: (_ for _ in ()).throw(PermissionError()))
    stream = NeverWaits(ends[1])
    assert not stream.isatty()
    for _ in range(5_000):
        print("x" * 999, file=stream, flush=True)
    os.set_blocking(ends[0], False)
    got = b""
    while len(data := _read(ends[0])):
        got += data
    print("again", file=stream)
    while len(data := _read(ends[0])):
        got += data
    assert 0 < got.count(b"x" * 999) < 5_000
    before, after = got.split(b"darkroom: ")
    assert before.endswith(b"\n")
    dropped, words = after.split(b" ", 1)
    assert int(dropped) >= 5_000 - got.count(b"x" * 999)
    assert words == b"lines of the log were dropped: it was full, or its reader too slow\nagain\n"
    stream.close()
    for end in ends:
        os.close(end)


def _read(end: int) -> bytes:
    try:
        return os.read(end, 1 << 20)
    except BlockingIOError:
        return b""


@pytest.mark.parametrize("where", ["/dev/full", "/dev/null", "closed pipe", "file"])
def test_writing_a_log_never_fails(where: str, tmp_path: Path) -> None:
    if where == "closed pipe":
        reader, end = os.pipe()
        os.close(reader)
    else:
        end = os.open(tmp_path / "log" if where == "file" else where, os.O_RDWR | os.O_CREAT, 0o600)
    stream = NeverWaits(end)
    assert [stream.write("a\n"), stream.write("\udcff\n"), stream.writable()] == [2, 2, True]
    assert (tmp_path / "log").exists() == (where == "file")
    if where == "file":
        assert (tmp_path / "log").read_bytes() == b"a\n\\udcff\n"
    stream.close()
    os.close(end)
