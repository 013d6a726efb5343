"""Logs: text on a terminal, else one JSON object per line. They never contain an image or a secret."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import orjson

if TYPE_CHECKING:
    from typing import TextIO


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
    level: str, style: Literal["auto", "text", "json"], stream: TextIO = sys.stderr, *, worker: int | None = None
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
    for name in ("sanic.root", "sanic.server", "sanic.error", "sanic.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
        logging.getLogger(name).setLevel(logging.WARNING)
