"""The `tensorflow_model_server` command: TensorFlow Serving's flags and files, as settings of this server.

Every flag of its release 2.20 is taken, or has no effect and the log says so, or is refused. Settings of this server are
flags too, where TensorFlow Serving has no flag of that name.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from darkroom.batching.limits import Limits
from darkroom.service.cli.main import no_flag, run, serve
from darkroom.service.config.model_config import BadSettingsError
from darkroom.service.config.settings import PREFIX, Settings, add_flags, read_settings
from darkroom.service.telemetry.version import version_line, version_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DESCRIPTION = """Serves models as TensorFlow Serving's command of this name does: gRPC on --port, REST on --rest_api_port.
Takes the flags of its release 2.20, and the settings of `darkroom serve` that have other names."""
_KINDS = {int: "a whole number", float: "a number", bool: "true or false"}
_BOOLS = {"true": True, "1": True, "false": False, "0": False}
_EMPTY: tuple[object, ...] = ("", False, 0)  # what leaves a flag as if it were not given


class StartPlan:
    """What the flags become.

    Attributes:
        settings: by name, as text.
        notes: what the log says, for each flag or value that does not have the effect of its name.
        origins: the flag that each of these settings comes from.
        problems: why the server can't be started so; empty if it can.
    """

    def __init__(self) -> None:
        self.settings: dict[str, str] = {}
        self.session: dict[str, Any] = {}
        self.notes: dict[str, str] = {}
        self.origins: dict[str, str] = {}
        self.problems: list[str] = []

    def read(self, flag: str, message: str, path: str) -> Any:
        """The message in a file of protobuf text; None if there is a problem with it."""
        from darkroom.service.config.protobuf import parse_text  # noqa: PLC0415 - protobuf, only for such a file

        try:
            return parse_text(message, Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as err:
            self.problems.append(f"--{flag}: {path}: {err.strerror if isinstance(err, OSError) else err}")
            return None


class Flag(NamedTuple):
    """A flag of TensorFlow Serving: its kind, what happens, in words, and the function that makes it happen."""

    kind: type[str | int | float | bool]
    words: str
    act: Callable[[str, Any, StartPlan], None]


def _becomes(setting: str, factor: float = 1) -> Callable[[str, Any, StartPlan], None]:
    """The value is that of a setting, times `factor` if it is a number."""

    def act(_: str, value: Any, plan: StartPlan) -> None:
        plan.settings[setting] = str(value if factor == 1 else value * factor).lower()

    return act


def _becomes_path(setting: str) -> Callable[[str, Any, StartPlan], None]:
    """The value is a path, or empty: then the flag is as if it were not given."""
    return lambda _, value, plan: plan.settings.update({setting: value} if value else {})


def _positive(setting: str) -> Callable[[str, Any, StartPlan], None]:
    """The value is that of a setting if it is more than 0; 0 leaves the choice to the server."""
    return lambda _, value, plan: plan.settings.update({setting: str(value)} if value > 0 else {})


def _unused(flag: str, value: Any, plan: StartPlan) -> None:
    plan.notes[flag] = f"{str(value).lower()} has no effect: {FLAGS[flag].words.partition('no effect: ')[2]}"


def _refused(flag: str, value: Any, plan: StartPlan) -> None:
    if value not in _EMPTY:
        plan.problems.append(f"--{flag}: {FLAGS[flag].words.partition('refused: ')[2]}")


def _port(_: str, value: int, plan: StartPlan) -> None:
    if value:
        plan.settings["grpc_port"] = str(value)
    else:
        plan.settings.pop("grpc_port", None)


def _rest_port(flag: str, value: int, plan: StartPlan) -> None:
    if value:
        plan.settings["port"] = str(value)
    else:
        plan.problems.append(f"--{flag}: 0 is refused: HTTP has the health and the metrics; choose a port")


def _poll(flag: str, value: int, plan: StartPlan) -> None:
    if value < 0:
        plan.problems.append(f"--{flag}: must be 0 or more")
    plan.settings["reload_models"] = str(value > 0).lower()
    if value > 0:
        plan.settings["reload_interval_ms"] = str(value * 1000)


def _tags(flag: str, value: str, plan: StartPlan) -> None:
    if value != "serve":
        plan.problems.append(f"--{flag}: only 'serve' can be served, not {value[:80]!r}")


def _precision(flag: str, value: str, plan: StartPlan) -> None:
    if value == "bfloat16":
        plan.settings["precision"] = "bf16"
    elif value:
        plan.problems.append(f"--{flag}: only 'bfloat16' can be served, not {value[:80]!r}")


def _gpu_fraction(_: str, value: float, plan: StartPlan) -> None:
    if value:
        plan.session["per_process_gpu_memory_fraction"] = value


def _monitoring(flag: str, value: str, plan: StartPlan) -> None:
    config = plan.read(flag, "tensorflow.serving.MonitoringConfig", value) if value else None
    if config is not None and (path := config.prometheus_config.path):
        plan.settings["metrics_path"] = path


def _session_config(flag: str, value: str, plan: StartPlan) -> None:
    config = plan.read(flag, "tensorflow.ConfigProto", value) if value else None
    if config is None:
        return
    for field, setting in (("intra_op_parallelism_threads", "intra"), ("inter_op_parallelism_threads", "inter")):
        if threads := getattr(config, field):
            plan.settings.setdefault(f"{setting}_op_threads", str(threads))
    for owner, field in (
        (config, "allow_soft_placement"),
        (config, "log_device_placement"),
        (config.gpu_options, "allow_growth"),
        (config.gpu_options, "per_process_gpu_memory_fraction"),
    ):
        if given := getattr(owner, field):
            plan.session.setdefault(field, given)


def _batching(flag: str, value: str, plan: StartPlan) -> None:
    given = plan.read(flag, "tensorflow.serving.BatchingParameters", value) if value else None
    if given is None:
        return
    number = {
        field: getattr(given, field).value if given.HasField(field) else None
        for field in ("max_batch_size", "max_execution_batch_size", "max_enqueued_batches", "batch_timeout_micros")
    }
    sizes = list(given.allowed_batch_sizes)
    limits = Limits()
    batch = number["max_execution_batch_size"] or number["max_batch_size"] or (sizes[-1] if sizes else None)
    queue = None
    if number["max_enqueued_batches"] is not None:
        queue = max(1, number["max_enqueued_batches"]) * (number["max_batch_size"] or batch or limits.max_batch_images)
    elif batch is not None and batch > limits.max_queue_images:
        queue = batch
    linger = number["batch_timeout_micros"]
    became = {
        "max_batch_images": batch,
        "allowed_batch_sizes": ",".join(map(str, sizes)) or None,
        "max_queue_images": queue,
        "batch_linger_ms": None if linger is None else f"{linger / 1000:g}",
    }
    plan.settings |= {name: str(made) for name, made in became.items() if made is not None}
    says = [f"--{name}={made}" for name, made in became.items() if made is not None]
    plan.notes[flag] = f"becomes {', '.join(says) or 'nothing'}" + _batching_rest(given, linger)


def _batching_rest(given: Any, linger_us: int | None) -> str:
    """What is said of the fields of a BatchingParameters that become no setting."""
    rest = []
    if linger_us:
        rest.append("batch_timeout_micros: without it a batch leaves as soon as the engine is free, which is faster")
    if given.HasField("num_batch_threads"):
        rest.append("num_batch_threads has no effect: the warm-up measures --max_inflight_batches")
    if given.HasField("enable_large_batch_splitting") or given.HasField("max_execution_batch_size"):
        rest.append("requests larger than a batch are always split")
    if given.pad_variable_length_inputs:
        rest.append("pad_variable_length_inputs has no effect: requests of other shapes never share a batch")
    if given.HasField("thread_pool_name"):
        rest.append("thread_pool_name has no effect")
    return "".join(f"; {each}" for each in rest)


# In this order, which counts where two flags become one setting: the last wins.
FLAGS: dict[str, Flag] = {
    "port": Flag(int, "`--grpc_port` [8500]; 0: no gRPC", _port),
    "grpc_socket_path": Flag(str, "refused: gRPC listens on a TCP port only", _refused),
    "rest_api_port": Flag(int, "`--port` [8501]; 0 is refused, since HTTP has the health and the metrics", _rest_port),
    "rest_api_num_threads": Flag(int, "no effect: one event loop serves all connections; see `--workers`", _unused),
    "rest_api_timeout_in_ms": Flag(
        int, "`--request_timeout_ms` [30000], of gRPC calls without a deadline too", _becomes("request_timeout_ms")
    ),
    "rest_api_enable_cors_support": Flag(bool, "`--enable_cors`", _becomes("enable_cors")),
    "enable_batching": Flag(
        bool, "no effect: requests always share batches where that is proven to be invisible", _unused
    ),
    "allow_version_labels_for_unavailable_models": Flag(
        bool, "no effect: a label may always name a version that is not served yet", _unused
    ),
    "batching_parameters_file": Flag(
        str,
        "`--max_batch_images`, `--allowed_batch_sizes`, `--max_queue_images`, `--batch_linger_ms`; see below",
        _batching,
    ),
    "enable_per_model_batching_parameters": Flag(
        bool, "no effect: batching_params.pbtxt is not read; each signature's batch size is measured", _unused
    ),
    "model_config_file": Flag(str, "`--model_config_file`", _becomes_path("model_config_file")),
    "model_config_file_poll_wait_seconds": Flag(
        int, "`--model_config_poll_ms`; a file that is wrong changes nothing", _becomes("model_config_poll_ms", 1000)
    ),
    "model_name": Flag(str, "`--model_name` [`$MODEL_NAME`, or default]", _becomes("model_name")),
    "model_base_path": Flag(
        str,
        "`--model_base_path` [`$MODEL_BASE_PATH/$MODEL_NAME`]; a folder of this machine, or `s3://`, `gs://`, `az://`, `https://`",
        _becomes_path("model_base_path"),
    ),
    "num_load_threads": Flag(
        int, "no effect: large versions are loaded one at a time, a small one beside them, off the event loop", _unused
    ),
    "num_unload_threads": Flag(int, "no effect: versions are unloaded off the event loop", _unused),
    "max_num_load_retries": Flag(
        int, "no effect: a version that fails is tried again, after 10 s to 15 minutes", _unused
    ),
    "load_retry_interval_micros": Flag(int, "no effect: each wait is twice the last, from 10 s to 15 minutes", _unused),
    "file_system_poll_wait_seconds": Flag(
        int, "`--reload_interval_ms` [1000]; 0: `--reload_models=false`; less is refused", _poll
    ),
    "flush_filesystem_caches": Flag(bool, "no effect: files are mapped or read once", _unused),
    "tensorflow_session_parallelism": Flag(int, "`--intra_op_threads`", _positive("intra_op_threads")),
    "tensorflow_session_config_file": Flag(
        str,
        "`--session_config` and the threads: `allow_soft_placement`, `log_device_placement`, `gpu_options` with "
        "`allow_growth` and `per_process_gpu_memory_fraction`, `intra_op_parallelism_threads`, "
        "`inter_op_parallelism_threads`; another field is refused",
        _session_config,
    ),
    "tensorflow_intra_op_parallelism": Flag(int, "`--intra_op_threads`", _positive("intra_op_threads")),
    "tensorflow_inter_op_parallelism": Flag(int, "`--inter_op_threads`", _positive("inter_op_threads")),
    "use_alts_credentials": Flag(bool, "refused: ALTS is not served; use `--ssl_config_file`", _refused),
    "ssl_config_file": Flag(
        str, "`--grpc_ssl_config_file`: gRPC speaks TLS, REST does not", _becomes_path("grpc_ssl_config_file")
    ),
    "platform_config_file": Flag(
        str, "refused: settings stand in flags, and the only platform is tensorflow", _refused
    ),
    "per_process_gpu_memory_fraction": Flag(float, "`--session_config`, unless it is 0", _gpu_fraction),
    "saved_model_tags": Flag(str, "only `serve`; any other is refused", _tags),
    "grpc_channel_arguments": Flag(str, "no effect: the gRPC server is not grpcio's; its limits are settings", _unused),
    "grpc_max_threads": Flag(int, "no effect: one event loop serves all calls; see `--workers`", _unused),
    "enable_model_warmup": Flag(
        bool,
        "no effect: a version is always warmed up, with the file of requests in its assets.extra if it has one",
        _unused,
    ),
    "num_request_iterations_for_warmup": Flag(
        int, "no effect: the warm-up has a budget, `--warmup_budget_ms`", _unused
    ),
    "version": Flag(bool, "prints the version, and that of TensorFlow", _unused),
    "monitoring_config_file": Flag(
        str, "`--metrics_path`; /metrics and /monitoring/prometheus/metrics are always there", _monitoring
    ),
    "remove_unused_fields_from_bundle_metagraph": Flag(
        bool, "no effect: the graph is freed once it is loaded", _unused
    ),
    "prefer_tflite_model": Flag(bool, "refused: TensorFlow Lite models are not served", _refused),
    "num_tflite_pools": Flag(int, "no effect: TensorFlow Lite models are not served", _unused),
    "num_tflite_interpreters_per_pool": Flag(int, "no effect: TensorFlow Lite models are not served", _unused),
    "enable_signature_method_name_check": Flag(
        bool, "no effect: signatures are judged by their inputs and outputs", _unused
    ),
    "xla_cpu_compilation_enabled": Flag(bool, "no effect: functions that ask for XLA are always compiled", _unused),
    "xla_gpu_compilation_enabled": Flag(bool, "no effect: functions that ask for XLA are always compiled", _unused),
    "enable_profiler": Flag(bool, "no effect: there is no profiler service; see the metrics", _unused),
    "thread_pool_factory_config_file": Flag(str, "refused: thread pools can't be replaced", _refused),
    "mixed_precision": Flag(
        str, "`bfloat16` becomes `--precision=bf16`, which is tested at the load; any other is refused", _precision
    ),
    "skip_initialize_tpu": Flag(bool, "no effect: TPUs are not served", _unused),
    "enable_grpc_healthcheck_service": Flag(
        bool, "no effect: `grpc.health.v1` is always there, for each model too", _unused
    ),
    "enable_serialization_as_tensor_content": Flag(
        bool, "`--grpc_tensor_content`: numbers of answers stand in tensor_content", _becomes("grpc_tensor_content")
    ),
}


def plan_of(flags: Mapping[str, str], environment: Mapping[str, str]) -> StartPlan:
    """What TensorFlow Serving's flags and the variables of its image become; `flags` are those that are given.

    Raises:
        BadSettingsError: a value is of the wrong kind, a flag is refused or no model is named; lists every problem.
    """
    plan = StartPlan()
    plan.settings |= {"port": "8501", "grpc_port": "8500", "model_name": environment.get("MODEL_NAME") or "default"}
    if f"{PREFIX}MODEL_VERSION_POLICY" not in environment:
        plan.settings["model_version_policy"] = "latest"
    for name, flag in FLAGS.items():
        if name in flags:
            _take(name, flag, flags[name], plan)
    if plan.settings.get("grpc_port") == plan.settings["port"]:
        plan.problems.append("--rest_api_port: must not be --port")
    if plan.session:
        plan.settings["session_config"] = json.dumps(plan.session)
    if "model_base_path" not in plan.settings and "model_config_file" not in plan.settings:
        _take_image_variables(environment, plan)
    if plan.problems:
        raise BadSettingsError(plan.problems)
    return plan


def _take(name: str, flag: Flag, text: str, plan: StartPlan) -> None:
    """Makes one flag happen."""
    before = dict(plan.settings)
    try:
        value = _BOOLS[text.lower()] if flag.kind is bool else flag.kind(text)
    except (KeyError, ValueError):
        plan.problems.append(f"--{name}: expected {_KINDS[flag.kind]} (given {text[:80]!r})")
    else:
        flag.act(name, value, plan)
    plan.origins |= dict.fromkeys((key for key, made in plan.settings.items() if before.get(key) != made), name)


def _take_image_variables(environment: Mapping[str, str], plan: StartPlan) -> None:
    """Names the model as the start script of TensorFlow Serving's image does."""
    if not environment.get("MODEL_NAME"):
        plan.problems.append(
            "no model is named: give --model_base_path, --model_config_file or the variable MODEL_NAME"
        )
        return
    folder = environment.get("MODEL_BASE_PATH") or "/models"
    plan.settings["model_base_path"] = f"{folder}/{plan.settings['model_name']}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves as `tensorflow_model_server` does. Returns the exit status: 0 success, 1 failure, 2 wrong flags."""
    parser = argparse.ArgumentParser(
        prog="tensorflow_model_server",
        usage="tensorflow_model_server [-h] [--FLAG=VALUE ...]",
        description=DESCRIPTION,
        allow_abbrev=False,
        conflict_handler="resolve",
    )
    add_flags(parser)
    for name, flag in FLAGS.items():
        switch: dict[str, Any] = {"nargs": "?", "const": "true"} if flag.kind is bool else {}
        parser.add_argument(
            f"--{name}", default=argparse.SUPPRESS, metavar="VALUE", help=flag.words.replace("%", "%%"), **switch
        )
    parser.add_argument("--worker", dest="handles", default=None, help=argparse.SUPPRESS)  # the supervisor sets it
    parsed, unknown = parser.parse_known_args(arguments)
    given = {name: value for name, value in vars(parsed).items() if name != "handles"}
    if given.get("version", "false") != "false":
        print(f"TensorFlow ModelServer: {version_line()}")
        print(f"TensorFlow Library: {version_of('tensorflow-cpu', 'tensorflow')}")
        return 0
    return run(lambda: _serve(given, unknown, parsed.handles))


def _serve(given: dict[str, str], unknown: Sequence[str], handles: str | None) -> int:
    problems = [no_flag(argument, [*FLAGS, *Settings.model_fields]) for argument in unknown]
    plan = StartPlan()
    try:
        plan = plan_of({name: value for name, value in given.items() if name in FLAGS}, os.environ)
    except BadSettingsError as err:
        problems += err.problems
    if problems:
        raise BadSettingsError(problems)
    own = {name: value for name, value in given.items() if name not in FLAGS}
    try:
        settings = read_settings(plan.settings | own, os.environ)
    except BadSettingsError as err:
        flags = [plan.origins.get(line.partition(":")[0]) for line in err.problems]
        told = [f"--{flag}: {line}" if flag else line for flag, line in zip(flags, err.problems, strict=True)]
        raise BadSettingsError(told) from err
    return serve(settings, handles, notes=plan.notes)


if __name__ == "__main__":
    sys.exit(main())
