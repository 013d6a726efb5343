"""The `darkroom` command: `serve`, `export`, `profile`, `check` and `token`."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING

from darkroom.models.runtime import memory
from darkroom.service.cli.check import DESCRIPTION as CHECK
from darkroom.service.cli.check import add_check_flags
from darkroom.service.cli.export import DESCRIPTION, add_export_flags, run_export
from darkroom.service.cli.profile import DESCRIPTION as PROFILE
from darkroom.service.cli.profile import add_profile_flags
from darkroom.service.config.machine import raise_open_files
from darkroom.service.config.model_config import BadSettingsError
from darkroom.service.config.settings import Settings, add_flags, settings_from_flags
from darkroom.service.config.tokens import DESCRIPTION as TOKEN
from darkroom.service.config.tokens import add_token_flags
from darkroom.service.telemetry.logs import set_up_logs
from darkroom.service.version import story
from darkroom.service.workers.peers import WorkerHandles

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from darkroom.service.server import Server
    from darkroom.service.workers.supervisor import Workers

_log = logging.getLogger("darkroom.service")
# How long the event loop may keep the interpreter from an engine's thread that has an answer to hand over; Python's own
# is 5 ms. Measured on the digits model with 64 and 256 connections, in turns: 5,200 and 5,600 requests/s, and with this
# 6,200 and 6,900.
SWITCH_INTERVAL_S = 0.0001
# Objects made and not yet gone before the collector looks for cycles. Python's own 700 are passed by the requests that
# are on their way. Measured on the digits model with 64 connections, in six turns: 1.09 times the requests. No cycle
# holds a body: with no collection at all, 1,920 requests of 1 MB by either lane, refused ones too, left nothing.
YOUNG_OBJECTS = 10_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the process's exit status: 0 done, 1 it failed, 2 it was asked wrongly."""
    parsed = _parser().parse_args(arguments)
    try:
        status: int = parsed.run(parsed)
    except BadSettingsError as err:
        print("darkroom: these settings can't be served:", *err.problems, sep="\n  ", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="darkroom", description="Serves TensorFlow image models over HTTP, batched, every caller its own answer."
    )
    parser.add_argument("--version", action="version", version=story())
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    serve = commands.add_parser(
        "serve",
        help="serve models over HTTP",
        description="Serves models over HTTP. Every flag is also an environment variable: --max_queue_images is "
        "DARKROOM_MAX_QUEUE_IMAGES; the flag wins. Stop it with Ctrl-C or SIGTERM: it answers what it accepted first.",
    )
    add_flags(serve)
    serve.add_argument("--worker", dest="place", default=None, help=argparse.SUPPRESS)  # what --workers starts
    serve.set_defaults(run=_serve)
    export = commands.add_parser(
        "export",
        help="build a SavedModel that takes pictures",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_export_flags(export)
    export.set_defaults(run=run_export)
    profile = commands.add_parser(
        "profile",
        help="find the settings that suit a model on this machine",
        description=PROFILE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_profile_flags(profile)
    check = commands.add_parser(
        "check",
        help="say what a SavedModel wants, and run one request",
        description=CHECK,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_check_flags(check)
    token = commands.add_parser("token", help="make a bearer token for --auth_tokens_file", description=TOKEN)
    add_token_flags(token)
    return parser


def _serve(parsed: argparse.Namespace) -> int:
    """`darkroom serve`."""
    settings = settings_from_flags(parsed)
    _ = settings.models  # a config file that can't be read stops the start here, with its problems
    place = None if parsed.place is None else WorkerHandles.parse(parsed.place)
    set_up_logs(settings.effective_log_level, settings.log_format, worker=place and place.number)
    raise_open_files()
    if place is None:
        _log.info("settings that differ from the defaults", extra={"fields": settings.changed()})
        allocator = {"allocator": "jemalloc"} if memory.is_jemalloc() else {"allocator": "system", "hint": memory.HINT}
        _log.info("memory", extra={"fields": allocator})
        _log.debug("all settings", extra={"fields": settings.redacted()})
    if place is None and settings.workers > 1:
        return asyncio.run(_run_workers(settings))
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.set_threshold(YOUNG_OBJECTS)
    import uvloop  # noqa: PLC0415 - only serving needs it

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run_server(settings, place))


async def _run_server(settings: Settings, place: WorkerHandles | None) -> int:
    """Serves in this process."""
    from darkroom.service.server import Server  # noqa: PLC0415 - Sanic takes 0.3 s to import; --help need not wait for it

    server = Server(settings, place=place)
    _hear_signals(server, reload=server.darkroom.auth.reload, leave=lambda: None)
    try:
        await server.run()
    except OSError as err:
        return _cannot_listen(settings, err)
    if server.failure is not None:
        if place is None:
            print(f"darkroom: no model could be loaded:\n  {server.failure}", file=sys.stderr)
        return 1
    return 0


async def _run_workers(settings: Settings) -> int:
    """Serves in several processes, each started by this one's own command line."""
    from darkroom.service.workers.supervisor import Workers  # noqa: PLC0415 - as above

    workers = Workers(settings, [sys.executable, *sys.orig_argv[1:]])
    _hear_signals(workers, reload=workers.reload, leave=workers.kill)
    try:
        return await workers.run()
    except OSError as err:
        return _cannot_listen(settings, err)


def _cannot_listen(settings: Settings, error: OSError) -> int:
    """Says so; returns the exit status."""
    print(f"darkroom: can't listen on {settings.host}:{settings.port}: {error.strerror}", file=sys.stderr)
    return 1


def _hear_signals(server: Server | Workers, *, reload: Callable[[], None], leave: Callable[[], None]) -> None:
    """Stops `server` by the first signal; by the second the process ends at once, after `leave`."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if server.is_stopping:
            _log.warning("second signal: leaving at once")
            leave()
            os._exit(1)
        server.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, reload)


if __name__ == "__main__":
    sys.exit(main())
