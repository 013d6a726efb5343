"""The `darkroom` command: `serve`, `export`, `profile`, `check` and `token`."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import re
import signal
import sys
from contextlib import suppress
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

from darkroom.models.runtime import memory
from darkroom.service.cli.signals import stop_on_signals
from darkroom.service.config.machine import connections_within, raise_open_files, usable_cores
from darkroom.service.config.model_config import BadSettingsError
from darkroom.service.config.settings import Settings, add_flags, kubernetes_names, settings_from_flags
from darkroom.service.telemetry.logs import never_wait_for_readers, set_up_logs
from darkroom.service.telemetry.version import version_line
from darkroom.service.workers.peers import WorkerHandles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

_log = logging.getLogger("darkroom.service")
# How long the event loop may hold the interpreter lock while an engine's thread waits for it with an answer. CPython's
# default is 5 ms. Measured on the digits model with 64 and 256 connections, in turns: 5,200 and 5,600 requests/s with
# the default, 6,200 and 6,900 with this value.
SWITCH_INTERVAL_S = 0.0001
# Generation-0 GC threshold. CPython's default of 700 is exceeded by the requests in flight alone, so the collector would
# run constantly. Measured on the digits model with 64 connections, in six turns: 1.09 times the requests. No cycle
# holds a body: with no collection at all, 1,920 requests of 1 MB in either lane, refused ones too, left nothing behind.
GC_THRESHOLD = 10_000
# Guesses: what an ordered stop may take beyond its drain, in one process and of all workers. The first leaves the stop
# within Kubernetes' 30 s; the second is longer than the supervisor waits for its workers.
END_S, WORKERS_END_S = 4.0, 15.0
# Each is a module beside this one.
OTHER_COMMANDS = {
    "export": "build a SavedModel that takes images",
    "profile": "find the settings that suit a model on this machine",
    "check": "describe a SavedModel and run a request",
    "token": "make a bearer token for --auth_tokens_file",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. Returns the exit status: 0 success, 1 failure, 2 wrong settings or arguments."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parsed, unknown = _parser(arguments).parse_known_args(arguments)
    if unknown:
        parsed.parser.error(no_flag(unknown[0], re.findall(r"--(\w+)", parsed.parser.format_help())))
    return run(lambda: parsed.run(parsed))


def no_flag(argument: str, known: Iterable[str]) -> str:
    """What is said of an argument that a command does not have: the flag that may be meant."""
    near = get_close_matches(argument.lstrip("-").partition("=")[0], list(known), 1)
    what = "flag" if argument.startswith("-") else "argument"
    return f"there is no {what} {argument[:80]!r}" + (f"; is --{near[0]} meant?" if near else "")


def run(command: Callable[[], int]) -> int:
    """The exit status of a command; wrong settings are printed, and are status 2."""
    try:
        return command()
    except BadSettingsError as err:
        print("darkroom: these settings can't be served:", *err.problems, sep="\n  ", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of these arguments. Only a command that they name is imported, for its flags: numpy alone takes 0.2 s."""
    parser = argparse.ArgumentParser(
        prog="darkroom",
        description="Serves TensorFlow image models over HTTP. Batches requests; every caller gets its own answer.",
    )
    parser.add_argument("--version", action="version", version=version_line())
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    serving = commands.add_parser(
        "serve",
        usage="darkroom serve [-h] [--SETTING=VALUE ...]",
        help="serve models over HTTP",
        description="Serves models over HTTP. Every flag is also an environment variable: --max_queue_images is "
        "DARKROOM_MAX_QUEUE_IMAGES; the flag wins. Ctrl-C or SIGTERM stops it after it has answered what it accepted.",
    )
    add_flags(serving)
    serving.add_argument("--worker", dest="handles", default=None, help=argparse.SUPPRESS)  # the supervisor sets it
    serving.set_defaults(parser=serving, run=lambda parsed: serve(settings_from_flags(parsed), parsed.handles))
    for name, summary in OTHER_COMMANDS.items():
        command_parser = commands.add_parser(name, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter)
        if name in arguments:
            command = import_module(f"darkroom.service.cli.{name}")
            command_parser.description = command.DESCRIPTION
            command.add_flags(command_parser)
            command_parser.set_defaults(parser=command_parser, run=command.run)
    return parser


def serve(settings: Settings, given_handles: str | None, *, notes: Mapping[str, str] | None = None) -> int:
    """Serves with these settings until it is told to stop.

    Args:
        settings: of the server.
        given_handles: what the supervisor gave to this worker; None: this process is the server, or the supervisor.
        notes: logged at the start, by flag.
    """
    # Process 1 of a container has no default action, so SIGTERM would be ignored until the server handles it.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    handles = None if given_handles is None else WorkerHandles.parse(given_handles)
    never_wait_for_readers()
    set_up_logs(settings.effective_log_level, settings.log_format, sys.stderr, worker=handles and handles.number)
    _ = settings.models  # a bad config file stops the start here, with all its problems
    open_files = raise_open_files()
    if handles is None:
        for flag, note in (notes or {}).items():
            _log.info(f"--{flag} {note}")
        _log.info("settings that differ from the defaults", extra={"fields": settings.changed()})
        allocator = {"allocator": "jemalloc"} if memory.is_jemalloc() else {"allocator": "system", "hint": memory.HINT}
        _log.info("memory", extra={"fields": allocator})
        _log.debug("all settings", extra={"fields": settings.redacted()})
        if injected := kubernetes_names(os.environ):
            _log.info(
                "variables that Kubernetes injects for a Service are no settings",
                extra={"fields": {"ignored": injected}},
            )
    settings = _held_connections(settings, open_files, is_said=handles is None)
    if handles is None and _has_workers(settings):
        return asyncio.run(_run_workers(settings))
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.set_threshold(GC_THRESHOLD)
    import uvloop  # noqa: PLC0415 - only serving needs it

    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    return _leave(runner.run(_run_server(settings, handles)))


def _has_workers(settings: Settings) -> bool:
    """Whether a supervisor is started: there are several workers, or --workers=auto may find that several pay."""
    if settings.workers != "auto":
        return settings.workers > 1
    alone = "" if usable_cores() > 1 else "there is one core"
    if settings.grpc_port == 0:  # each would pick a port of its own
        alone = "--grpc_port=0 is for one process"
    if alone:
        _log.info("--workers=auto", extra={"fields": {"workers": 1, "reason": alone}})
    return not alone


def _leave(status: int) -> NoReturn:
    """Ends the process at once. Python's own end would wait for its threads, and an engine call may never return."""
    with suppress(OSError, ValueError):  # a log that nobody reads
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _held_connections(settings: Settings, open_files: int, *, is_said: bool) -> Settings:
    """The settings with at most as many connections as this process may have; `is_said`: the log tells of a change."""
    connections = connections_within(settings.max_connections, open_files)
    if connections == settings.max_connections:
        return settings
    if is_said:
        fields = {"max_connections": connections, "open_files": open_files}
        message = "--max_connections is held below the limit on open files; raise that limit (ulimit -Hn) for more"
        _log.warning(message, extra={"fields": fields})
    return settings.model_copy(update={"max_connections": connections})


async def _run_server(settings: Settings, handles: WorkerHandles | None) -> int:
    """Serves in this process."""
    from darkroom.service.server import Server  # noqa: PLC0415 - Sanic takes 0.3 s to import; --help need not wait for it

    server = Server(settings, handles=handles)
    stop_on_signals(server, within_s=_stop_s(settings) + END_S)
    try:
        await server.run()
    except OSError as err:
        return _cannot_listen(settings, err)
    if server.failure is not None and handles is None:
        print(f"darkroom: no model could be loaded:\n  {server.failure}", file=sys.stderr)
    return server.exit_status


async def _run_workers(settings: Settings) -> int:
    """Serves in workers, each started with the command line of this one."""
    from darkroom.service.workers.supervisor import Supervisor  # noqa: PLC0415 - as above

    supervisor = Supervisor(settings, [sys.executable, *sys.orig_argv[1:]])
    stop_on_signals(supervisor, within_s=_stop_s(settings) + WORKERS_END_S, on_end=supervisor.kill)
    try:
        return await supervisor.run()
    except OSError as err:
        return _cannot_listen(settings, err)


def _stop_s(settings: Settings) -> float:
    """The longest that an ordered stop may take, but for the end of the threads and connections."""
    return (settings.drain_delay_ms + settings.drain_timeout_ms) / 1000


def _cannot_listen(settings: Settings, error: OSError) -> int:
    """Prints why the server can't listen; returns the exit status."""
    address = error.filename or f"{settings.host}:{settings.port}"
    print(f"darkroom: can't listen on {address}: {error.strerror}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
