"""Logs: text on a terminal, else one JSON object per line. They never contain an image or a secret."""

from __future__ import annotations

import io
import json
import logging
import os
import select
import socket
import stat
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import orjson

if TYPE_CHECKING:
    from typing import TextIO


class NeverWaits(io.TextIOBase):
    """Text for an open file; writing to it neither waits nor fails, so that no reader of the logs can stop the server.

    What can't be written at once (the pipe is full or closed, the disk is full) is dropped. The next text that can be
    written is preceded by the number of texts that were dropped.
    """

    encoding = "utf-8"

    def __init__(self, file: int) -> None:
        super().__init__()
        self._named = file
        kind = os.fstat(file).st_mode
        self._socket = socket.socket(fileno=os.dup(file)) if stat.S_ISSOCK(kind) else None
        self._file = file
        if stat.S_ISFIFO(kind) or stat.S_ISCHR(kind):
            # Opened again, because O_NONBLOCK on the same opening would also hold for other processes that write to it.
            with suppress(OSError):
                self._file = os.open(f"/proc/self/fd/{file}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        self._line = ""  # not yet written, since its end has not come
        self._dropped = 0
        self._is_torn = False  # the last text was written in part

    def write(self, text: str) -> int:
        """Writes whole lines, or drops what can't be written now. Returns the length of the text in either case."""
        self._line += text
        if "\n" in text or len(self._line) > select.PIPE_BUF:
            self.flush()
        return len(text)

    def flush(self) -> None:
        """Writes what does not end in a line end, too."""
        if not self._line:
            return
        data, self._line = self._line.encode(errors="backslashreplace"), ""
        if self._dropped:
            words = "lines of the log were dropped: it was full, or its reader too slow"
            data = b"\n" * self._is_torn + f"darkroom: {self._dropped} {words}\n".encode() + data
        written = self._put(data)
        if written == len(data):
            self._dropped, self._is_torn = 0, False
        else:
            self._dropped += 1
            self._is_torn |= written > 0

    def _put(self, data: bytes) -> int:
        """Writes as many bytes as can be written without waiting, and returns their number."""
        written = 0
        with suppress(OSError):
            while written < len(data):
                if self._socket is not None:
                    written += self._socket.send(data[written:], socket.MSG_DONTWAIT)
                elif self._file != self._named or select.select((), (self._file,), (), 0)[1]:
                    written += os.write(self._file, data[written : written + select.PIPE_BUF])
                else:
                    break
        return written

    def close(self) -> None:
        """Closes what it opened itself; the file that it was made for stays open."""
        if not self.closed:
            if self._socket is not None:
                self._socket.close()
            if self._file != self._named:
                os.close(self._file)
        super().close()

    def writable(self) -> bool:
        """True."""
        return True

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self._named)

    def fileno(self) -> int:
        """The open file that it was made for."""
        return self._named


def never_wait_for_readers() -> None:
    """Replaces this process's stdout and stderr by `NeverWaits`; those that are closed are opened as /dev/null.

    A closed descriptor would otherwise be the next connection's, and TensorFlow would write its messages to a client.
    """
    for file in range(3):
        try:
            os.fstat(file)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
    sys.stdout, sys.stderr = NeverWaits(1), NeverWaits(2)


class JsonLines(logging.Formatter):
    """Formats a record as one JSON line: time (UTC), level, logger, message, its `fields`, the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, also if the message contains line ends."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(line, default=str).decode()
        except TypeError:  # text with surrogates, from bytes of a client that are not UTF-8
            return json.dumps(line, default=str)


class Text(logging.Formatter):
    """Formats a record for people: time, level if above info, message, fields."""

    def format(self, record: logging.LogRecord) -> str:
        """`12:34:56 message key=value`."""
        at = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        fields = "".join(f" {name}={value}" for name, value in getattr(record, "fields", {}).items())
        trace = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return f"{at} {level}{record.getMessage()}{fields}{trace}"


class WorkerNumber(logging.Filter):
    """Adds the worker's number to the fields of every record."""

    def __init__(self, worker: int) -> None:
        super().__init__()
        self._worker = {"worker": worker}

    def filter(self, record: logging.LogRecord) -> bool:
        """Adds the number; drops no record."""
        record.fields = self._worker | getattr(record, "fields", {})
        return True


def set_up_logs(
    level: str, style: Literal["auto", "text", "json"], stream: TextIO, *, worker: int | None = None
) -> None:
    """Sends all logs of this process to `stream`; those of libraries from level warning on.

    Args:
        level: the least important level that is logged.
        style: auto is text on a terminal, JSON lines elsewhere.
        stream: where to write.
        worker: the number of this worker, if it is one of several.
    """
    is_text = style == "text" or (style == "auto" and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Text() if is_text else JsonLines())
    if worker is not None:
        handler.addFilter(WorkerNumber(worker))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("darkroom").setLevel(level.upper())
    logging.getLogger("darkroom.access").setLevel(logging.INFO)  # --access_log says what it logs
    for name in ("sanic.root", "sanic.server", "sanic.error", "sanic.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
        logging.getLogger(name).setLevel(logging.WARNING)
