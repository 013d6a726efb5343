"""Every setting of the server: one line each, with its unit, its default and the origin of the default."""

from __future__ import annotations

import argparse
import os
import re
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, model_validator

from darkroom.batching.limits import Limits
from darkroom.service.config.access_log import parse_access_log
from darkroom.service.config.model_config import (
    BadSettingsError,
    BasePath,
    JsonObject,
    Labels,
    Load,
    LogLevel,
    ModelEntry,
    Numbers,
    Outputs,
    Paths,
    Pictures,
    Traffic,
    VersionPolicy,
    explain,
    parse_json,
    read_model_config,
)
from darkroom.service.config.tls import grpc_context_of
from darkroom.service.config.tokens import read_tokens

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "DARKROOM_"
# Settings of earlier releases, and what became of each.
REMOVED = {
    "xla": "it made EfficientNet-Lite0 30 times slower, and the digits model no faster",
    "single_flight": "no measurement spoke for it; identical images are each computed",
    "allocator": "jemalloc is used where LD_PRELOAD names it, as the image and `make serve` do",
}
# What Kubernetes gives every pod for a Service called `darkroom` or `darkroom-…`: name, then value. Source: kubernetes.io,
# "Accessing the Service". A setting can't be meant by any of them: no setting has such a name, or takes such a port.
_KUBERNETES = tuple(
    (re.compile(rf"DARKROOM_(?:[A-Z0-9_]+_)?(?:{name})"), re.compile(value))
    for name, value in (
        (r"SERVICE_HOST|PORT_\d+_(?:TCP|UDP|SCTP)_ADDR", r"[\d.]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*"),
        (r"SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT_\d+_(?:TCP|UDP|SCTP)_PORT", r"\d+"),
        (r"PORT_\d+_(?:TCP|UDP|SCTP)_PROTO", r"tcp|udp|sctp"),
        (r"PORT(?:_\d+_(?:TCP|UDP|SCTP))?", r"(?:tcp|udp|sctp)://\S+:\d+"),
    )
)
MAX_WORKERS = 64  # guess
# Paths that --metrics_path can't have.
_TAKEN = frozenset(
    (
        "/",
        "/health",
        "/v1",
        "/v2",
        "/live",
        "/docs",
        "/openapi.json",
        "/image_inference",
        "/json_inference",
        "/generate_clients",
    )
)
LIMITS = Limits()  # the defaults of one batch and one queue, with their origins, stand in batching/limits.py


def _parse_workers(value: object) -> object:
    """Text as pydantic would read it; its own message for such a choice would have two lines.

    Raises:
        ValueError: it is neither.
    """
    if value == "auto":
        return value
    try:
        number = int(value) if isinstance(value, (int, str)) else 0
    except ValueError:
        number = 0
    if not 1 <= number <= MAX_WORKERS:
        raise ValueError(f"is a number from 1 to {MAX_WORKERS}, or auto")
    return number


Workers: TypeAlias = Annotated[int | Literal["auto"], BeforeValidator(_parse_workers)]


class Settings(BaseModel):
    """The settings of one server. They do not change after the start.

    Each field is a flag (`--name=value`) and an environment variable (`DARKROOM_NAME`); the flag wins. The flags of Simple
    TensorFlow Serving keep their names. Each description ends with the origin of the default: STS = the default of Simple
    TensorFlow Serving, precedent = what similar servers do, measured = a figure in docs/, guess = a number to argue with.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    # A table, one line per setting.
    # fmt: off
    host: str = Field("0.0.0.0", description="address to listen on (STS)")  # noqa: S104 - a server in a container; the operator restricts access
    port: int = Field(8500, ge=0, le=65535, description="port to listen on; 0 picks a free port (STS)")
    grpc_port: int | None = Field(None, ge=0, le=65535, description="port to listen on for gRPC, on the same address: TensorFlow Serving's and the Open Inference Protocol's services, health and reflection; 0 picks a free port. Default: no gRPC (precedent: TF Serving uses 8500)")
    workers: Workers = Field("auto", description="number of processes behind the address, 1 to 64; auto: one, and after the warm-up as many as the cores can use where the event loop would be the bound, not the engine, if memory allows. Each has its own event loop, queues and engines; limits of queues, connections and bodies apply to each process (measured)")
    worker_timeout_ms: float = Field(30_000.0, ge=0, description="a ready worker whose event loop does not run for this long is killed and replaced; 0: never (precedent: gunicorn)")
    model_name: str = Field("default", min_length=1, description="name of the model in --model_base_path (STS)")
    model_base_path: BasePath = Field(Path("model"), description="folder of numeric version folders, or its address in a store: s3://, gs://, az://, or https:// of a .tar.gz, see docs/models.md; `fake` serves a model without TensorFlow (STS)")
    model_platform: str = Field("tensorflow", description="kind of model; only tensorflow is served (STS)")
    model_config_file: Path | None = Field(None, description="file that names several models, in JSON or in TensorFlow Serving's protobuf text, see docs/models.md; takes precedence over --model_base_path (STS)")
    model_config_poll_ms: float = Field(0.0, ge=0, description="how often --model_config_file is read again; models come and go as it says. 0: only at the start (precedent: TF Serving)")
    model_repository: Path | None = Field(None, description="folder of models, each in a folder of its own: in Triton's layout (config.pbtxt, N/model.savedmodel) or TensorFlow Serving's (N/saved_model.pb). Models come and go while the server runs; takes precedence over --model_base_path (precedent: Triton)")
    custom_op_paths: Paths = Field((), description="comma-separated folders; every *.so in them is loaded before any model (STS)")
    session_config: JsonObject = Field({}, description="JSON: log_device_placement, allow_soft_placement, allow_growth, per_process_gpu_memory_fraction (STS)")
    model_version_policy: VersionPolicy = Field("all", description="which versions are served: all, latest, latest:N or specific:N,M (STS served all)")
    version_labels: Labels = Field({}, description='JSON: names for versions, for example {"stable": 1, "canary": 2} (precedent: TF Serving)')
    pictures: Annotated[dict[str, Pictures], BeforeValidator(parse_json)] = Field({}, description='JSON: how pictures become the input of models that take tensors, for example {"default": {"size": [224, 224], "preprocess": "torch"}}; see docs/models.md (precedent: none)')
    outputs: Annotated[dict[str, Outputs], BeforeValidator(parse_json)] = Field({}, description='JSON: what the outputs of models are, and the form in which they are answered, for example {"default": {"mask": {"kind": "mask", "as": "png"}}}; see docs/models.md (precedent: none)')
    traffic: Annotated[dict[str, Traffic], BeforeValidator(parse_json)] = Field({}, description='JSON: which versions of a model answer requests that name none, by weight, and which one runs beside them to be compared, for example {"default": {"split": {"1": 95, "2": 5}, "shadow": {"version": 3, "share": 0.5}}}; see docs/models.md. Default: the newest version answers (precedent: Seldon, Istio)')
    load: Load = Field("eager", description="when models are loaded: eager: at the start; lazy: each at its first request, which waits for it. Of one model also by the key `load` in --model_config_file (precedent: Triton, TF Serving load at the start; KServe's ModelMesh at the first request)")
    max_loaded_models: int = Field(0, ge=0, description="how many lazy models one process has in memory at most; for one more, the one that was unused for longest is unloaded. 0: no limit (guess)")
    unload_idle_ms: float = Field(0.0, ge=0, description="a lazy model that got no request for this long is unloaded; 0: never (guess)")
    cache_dir: Path | None = Field(None, description="folder for prepared models, and for the copies of models that are kept in a store; only this user may have access. Default: darkroom in $XDG_CACHE_HOME or ~/.cache (precedent)")
    store_cache_bytes: int = Field(20 << 30, gt=0, description="size limit of the copies of models that are kept in a store, in --cache_dir; what no model needs is deleted when there is no room (guess)")
    store_poll_ms: float = Field(30_000.0, gt=0, description="how often a store is asked for new versions, give or take a fifth (guess: S3 bills each listing)")
    max_cache_bytes: int = Field(4 << 30, ge=0, description="size limit of the prepared models in --cache_dir; the least recently used models are deleted first (guess)")
    load_timeout_ms: float = Field(600_000.0, gt=0, description="time limit for the process that prepares a version (guess)")
    device: str = Field("auto", pattern=r"^(auto|cpu(:[1-9][0-9]?)?|gpu(:[0-9]+(,[0-9]+)*)?)$", description="where models run: auto (every GPU, else the CPU), cpu, gpu, gpu:0,1. Each device gets an engine; cpu:N makes N logical devices, for tests (precedent)")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16: convolutions run in bfloat16 if the CPU has it. Lossy; tested at load and refused beyond --max_drift (measured: 0.1 in one model)")
    max_drift: float = Field(0.05, ge=0, description="how much --precision=bf16 may change any float in the answers to the warm-up rows (guess)")
    intra_op_threads: int = Field(0, ge=0, description="threads inside one TensorFlow op; 0: the cores that CPU affinity and container quota allow, divided by the number of --workers (precedent)")
    inter_op_threads: int = Field(-1, ge=-1, description="TensorFlow ops that run at the same time; -1 runs them in the calling thread, 0 lets TensorFlow choose (measured)")

    max_batch_images: int = Field(LIMITS.max_batch_images, ge=1, description="largest number of images in one engine call; lower if the warm-up finds that larger batches do worse. The scheduler looks for the best size up to this limit (guess)")
    max_batch_bytes: int = Field(LIMITS.max_batch_bytes, ge=1, description="largest number of encoded bytes in one engine call (guess)")
    max_batch_pixels: int = Field(LIMITS.max_batch_pixels, ge=1, description="largest number of decoded pixels in one engine call: about 600 MB of RGB bytes (guess)")
    allowed_batch_sizes: Numbers = Field((), description="comma-separated batch sizes; a batch is padded to the next one. Empty: no padding (precedent: TF Serving)")
    max_inflight_batches: int = Field(0, ge=0, le=64, description="engine calls in flight for one signature; 0: the warm-up measures which number is best (measured)")
    warmup_budget_ms: float = Field(5_000.0, ge=0, description="how long the warm-up of one signature may take. It measures one image, then larger batches while there is time; traffic measures the others (measured: 5 s are enough for all sizes of EfficientNet-Lite0)")
    batch_linger_ms: float = Field(0.0, ge=0, description="how long a batch may wait for more requests while the engine is idle (measured: 0)")
    max_queue_images: int = Field(LIMITS.max_queue_images, ge=1, description="images that may wait for one signature; further ones are refused with 429 (guess)")
    max_queue_bytes: int = Field(LIMITS.max_queue_bytes, ge=1, description="encoded bytes that may wait for one signature; further ones are refused with 429 (guess)")
    slo_ms: float = Field(0.0, ge=0, description="promised latency. Requests that would miss it are refused, and late ones are dropped; 0: nothing is promised (precedent)")
    isolation: bool = Field(True, description="bisect a batch that fails because of a client's row, so that only this row's request fails; turn off only to compare (measured)")
    request_timeout_ms: float = Field(30_000.0, gt=0, description="deadline of a request that sets none (guess)")
    engine_timeout_ms: float = Field(30_000.0, ge=0, description="an engine call that takes this long, and 20 times the tail of its size, is answered with 504, and the server is not ready until it returns; the first call of a shape may take 10 times as long. 0: engine calls are not watched (guess)")
    engine_kill_ms: float = Field(120_000.0, ge=0, description="a process whose engine call still has not returned after this long (in proportion to the limit of --engine_timeout_ms for this call), or whose event loop stands still for this long, ends with status 70; 0: never (guess)")
    drain_delay_ms: float = Field(0.0, ge=0, description="how long a stopping server still answers new requests, not ready and with Connection: close, so that load balancers notice before it refuses; longer than they take between two looks (precedent: 5 s in the image)")
    drain_timeout_ms: float = Field(20_000.0, ge=0, description="how long a stopping server may take to answer accepted requests (Kubernetes' 30 s, less a margin)")

    fast_lane: bool = Field(True, description="plain predict requests bypass Sanic's request path; turn off only to compare (measured)")
    max_connections: int = Field(8192, ge=1, description="connections at the same time. A further one replaces a connection that was idle for a second, or gets 503 (guess)")
    read_timeout_ms: float = Field(60_000.0, gt=0, description="time limit for receiving a complete request, even byte by byte; after it, 408 (precedent: nginx gives 60 s for the head)")
    max_receiving_bytes: int = Field(1 << 30, ge=1 << 20, description="memory limit for partly received requests, all connections together. Above it, requests larger than 64 KB are refused with 503 (guess)")
    max_sending_bytes: int = Field(256 << 20, ge=1 << 20, description="memory limit for answers that clients have not read, all connections together. Above it, the connection that has waited longest is closed (guess)")
    max_body_bytes: int = Field(64 << 20, ge=8192, description="largest request body, also after decompression (guess)")
    compress_answers: bool = Field(False, description="compress answers of 1 KB and more for clients that send Accept-Encoding: gzip or deflate (measured: off, in a fast network compression takes longer than it saves)")
    max_images: int = Field(1024, ge=1, description="largest number of images in one request (guess)")
    max_rows: int = Field(1 << 20, ge=1, description="largest number of rows in one request to a signature that takes numbers or texts; pictures as tensors count for --max_images (guess)")
    max_image_bytes: int = Field(20 << 20, ge=1, description="largest encoded image (guess)")
    max_image_pixels: int = Field(50_000_000, ge=1, description="width x height of the largest image, read from its header (precedent: 50 MP cameras)")
    max_image_scans: int = Field(20, ge=1, description="scans of a progressive JPEG; one with more counts as that many times more pixels (measured: libjpeg writes 10; 20 scans of 50 MP take 1 to 3 s)")
    max_image_segments: int = Field(2000, ge=100, description="parts of one image that are read before it is decoded: segments of a JPEG before its data, chunks of a PNG (and one more for each KB), a tenth of the blocks of a GIF (and 8 for each KB) and of the fields of a tf.Example (measured: of 8,413 real files the most are 922)")

    enable_auth: bool = Field(False, description="require HTTP basic auth for everything except health (STS)")
    auth_username: str = Field("admin", min_length=1, description="user name for --enable_auth (STS)")
    auth_password: SecretStr = Field(SecretStr(""), description="password for --enable_auth; there is no default (STS had one)")
    auth_tokens_file: Path | None = Field(None, description="file of hashed bearer tokens, made by `darkroom token`; credentials are then required for everything except health (precedent: none)")
    enable_ssl: bool = Field(False, description="serve HTTPS (STS)")
    secret_pem: Path = Field(Path("secret.pem"), description="certificate for --enable_ssl (STS)")
    secret_key: Path = Field(Path("secret.key"), description="private key for --enable_ssl (STS)")
    grpc_ssl_config_file: Path | None = Field(None, description="TLS for gRPC alone, whatever --enable_ssl says: TensorFlow Serving's SSLConfig as protobuf text, with the key and the certificates in it; client_verify asks clients for theirs (precedent: TF Serving)")
    grpc_tensor_content: bool = Field(False, description="the numbers in answers to TensorFlow Serving's gRPC clients stand in tensor_content, not in the field of their type (precedent: TF Serving)")
    enable_cors: bool = Field(False, description="send CORS headers, so that pages from other origins may call this server. Off by default, because any web page could then use a visitor's browser to send requests (STS: true)")
    reload_models: bool = Field(True, description="follow the version folders while the server runs (STS: true)")
    ready_when: Literal["all", "any"] = Field("all", description="when the server is ready: all: every model of the settings has been loaded or has failed; any: one model is served. Each model takes requests as soon as it is loaded, whatever this says (precedent: Triton waits for all)")
    reload_interval_ms: float = Field(1000.0, gt=0, description="how often the version folders are scanned. A version is loaded when its files have not changed for two intervals (precedent: TF Serving)")
    enable_b64_autoconvert: bool = Field(False, description='accepted for old start scripts; {"b64": ...} is always understood (STS)')
    download_inference_images: bool = Field(False, description="accepted for old start scripts; nothing that a client sends is ever written to disk (STS)")

    log_level: LogLevel = Field("info", description="least important level that is logged: debug, info, warning, error or critical (STS)")
    log_format: Literal["auto", "text", "json"] = Field("auto", description="auto: text on a terminal, JSON lines elsewhere (precedent)")
    metrics_path: str = Field("", pattern=r"^(/[A-Za-z0-9._~/-]+)?$", description="a third path of the metrics, beside /metrics and /monitoring/prometheus/metrics (precedent: TF Serving)")
    access_log: Annotated[str, BeforeValidator(lambda value: parse_access_log(value).text)] = Field("off", description="which answered requests are a line of the log, with their times, batch and outcome: off, errors (status 400 and more, and clients that left), slow:MS (that took at least so long), sample:SHARE (so many of all, at random), or several of them with commas; all: every request. Only all logs health checks and scrapes. true is all, false is off (measured: off, the metrics cost less)")
    debug: bool = Field(False, description="same as --log_level=debug (STS)")
    # fmt: on

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        """Checks the rules that need two fields, and reports all that are broken at once."""
        sizes = self.allowed_batch_sizes
        rules = [
            (
                self.model_platform != "tensorflow",
                f"model_platform: {self.model_platform!r} can't be served, only 'tensorflow'",
            ),
            (
                self.enable_auth and not self.auth_password.get_secret_value() and self.auth_tokens_file is None,
                "enable_auth: needs --auth_password (or DARKROOM_AUTH_PASSWORD), or --auth_tokens_file",
            ),
            (bool(sizes) and list(sizes) != sorted(set(sizes)), "allowed_batch_sizes: must rise, without repeats"),
            (
                0 < self.engine_kill_ms < self.engine_timeout_ms,
                "engine_kill_ms: must be at least --engine_timeout_ms, or 0",
            ),
            (bool(sizes) and min(sizes) < 1, "allowed_batch_sizes: sizes start at 1"),
            (
                bool(sizes) and max(sizes) != self.max_batch_images,
                "allowed_batch_sizes: the last must equal --max_batch_images",
            ),
            (
                self.grpc_port is not None
                and self.grpc_port in ({self.port} - {0} if self.workers in {1, "auto"} else {self.port, 0}),
                "grpc_port: must not be --port, nor 0 with several --workers",
            ),
            (
                self.metrics_path.lower().startswith(("/v1/", "/v2/", "/admin/", "/live/", "/web/"))
                or self.metrics_path in _TAKEN,
                "metrics_path: is a path of the server itself",
            ),
            (self.max_queue_images < self.max_batch_images, "max_queue_images: must be at least --max_batch_images"),
            (
                self.model_repository is not None and self.model_config_file is not None,
                "model_repository: give it or --model_config_file, not both",
            ),
            (self.enable_ssl and not self.secret_pem.is_file(), f"secret_pem: no such file: {self.secret_pem}"),
            (self.enable_ssl and not self.secret_key.is_file(), f"secret_key: no such file: {self.secret_key}"),
        ]
        problems = [text for is_broken, text in rules if is_broken]
        try:
            _ = self.auth_tokens_file and read_tokens(self.auth_tokens_file)
        except (OSError, ValueError) as err:
            problems.append(f"auth_tokens_file: {err}")
        try:
            _ = self.grpc_ssl_config_file and grpc_context_of(self.grpc_ssl_config_file)
        except (OSError, ValueError) as err:
            problems.append(f"grpc_ssl_config_file: {err}")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def first_workers(self) -> int:
        """The number of processes that are started first; with --workers=auto the first one finds out how many pay."""
        return 1 if self.workers == "auto" else self.workers

    @property
    def has_auth(self) -> bool:
        """Whether requests need credentials."""
        return self.enable_auth or self.auth_tokens_file is not None

    @property
    def effective_log_level(self) -> str:
        """`log_level`, or `debug` with --debug."""
        return "debug" if self.debug else self.log_level

    @cached_property
    def models(self) -> tuple[ModelEntry, ...]:
        """The models to serve: those of --model_config_file, which is read once, else the one of --model_base_path.

        None with --model_repository, whose models come and go.

        Raises:
            BadSettingsError: as `read_models`, or --pictures, --outputs or --traffic names another model.
        """
        entries = self.read_models()
        names = [entry.name for entry in entries]
        for flag, said in (("pictures", self.pictures), ("outputs", self.outputs), ("traffic", self.traffic)):
            if self.model_repository is None and (unknown := sorted(said.keys() - set(names))):
                there = ", ".join(map(repr, names))
                raise BadSettingsError([f"{flag}: no model is called {unknown[0]!r}, only {there}"])
        return entries

    def read_models(self) -> tuple[ModelEntry, ...]:
        """As `models`, with --model_config_file as it is now.

        Raises:
            BadSettingsError: the file can't be read, has the wrong form, or names a platform that can't be served.
        """
        if self.model_repository is not None:
            return ()
        if self.model_config_file is None:
            entry = ModelEntry(
                name=self.model_name,
                base_path=self.model_base_path,
                custom_op_paths=self.custom_op_paths,
                session_config=self.session_config,
                version_labels=self.version_labels,
            )
            found: tuple[ModelEntry, ...] = (entry,)
        else:
            found = read_model_config(self.model_config_file)
        return self.with_said(found)

    def with_said(self, entries: tuple[ModelEntry, ...]) -> tuple[ModelEntry, ...]:
        """The models with what --pictures, --outputs and --traffic say of them; these win over the config file."""
        return tuple(
            entry.model_copy(
                update={
                    "pictures": self.pictures.get(entry.name, entry.pictures),
                    "outputs": self.outputs.get(entry.name, entry.outputs),
                    "traffic": self.traffic.get(entry.name, entry.traffic),
                }
            )
            for entry in entries
        )

    def changed(self) -> dict[str, Any]:
        """The settings that were given, as JSON-ready values with secrets as stars. Printed at the start."""
        return self.model_dump(mode="json", exclude_unset=True)

    def redacted(self) -> dict[str, Any]:
        """All settings as JSON-ready values, with secrets as stars."""
        return self.model_dump(mode="json")


def read_settings(flags: Mapping[str, str], environment: Mapping[str, str]) -> Settings:
    """The settings from flags, DARKROOM_* variables and defaults, in this order of precedence.

    Raises:
        BadSettingsError: lists every problem: unknown DARKROOM_* names, values that can't be parsed, broken rules.
    """
    known = Settings.model_fields
    injected = kubernetes_names(environment)
    from_environment = {
        name.removeprefix(PREFIX).lower(): value
        for name, value in environment.items()
        if name.startswith(PREFIX) and name not in injected
    }
    problems = []
    for name in sorted(from_environment.keys() - known.keys()):
        near = get_close_matches(name, known, 1)
        meant = f"; is {PREFIX}{near[0].upper()} meant?" if near else ""
        what = f" was removed: {REMOVED[name]}" if name in REMOVED else f": there is no such setting{meant}"
        problems.append(f"{PREFIX}{name.upper()}{what}")
    problems += [f"--{name} was removed: {REMOVED[name]}" for name in sorted(flags.keys() & REMOVED.keys())]
    values = {name: value for name, value in from_environment.items() if name in known}
    values |= {name: value for name, value in flags.items() if name not in REMOVED}
    try:
        settings = Settings.model_validate(values)
    except ValidationError as err:
        problems += explain(err)
    if problems:
        raise BadSettingsError(problems)
    return settings


def kubernetes_names(environment: Mapping[str, str]) -> list[str]:
    """The variables that Kubernetes injects for a Service called `darkroom` or `darkroom-…`, by their form, sorted."""
    return sorted(
        name
        for name, value in environment.items()
        if any(of_name.fullmatch(name) and of_value.fullmatch(value) for of_name, of_value in _KUBERNETES)
    )


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds a `--flag` for every field. Values stay text, so that `read_settings` can report all problems at once."""
    for name, field in Settings.model_fields.items():
        is_switch = field.annotation is bool
        may_be_bare = is_switch or name == "access_log"  # which was a switch
        default = field.get_default(call_default_factory=True)
        shown = (
            ""
            if isinstance(default, SecretStr) or default in ((), {}, None)
            else f" [{str(default).lower() if is_switch else default}]"
        )
        parser.add_argument(
            f"--{name}",
            default=argparse.SUPPRESS,
            nargs="?" if may_be_bare else None,
            const="true" if may_be_bare else None,
            metavar="BOOL" if is_switch else "VALUE",
            help=f"{field.description}{shown}".replace("%", "%%"),
        )
    for name in REMOVED:
        parser.add_argument(f"--{name}", default=argparse.SUPPRESS, nargs="?", const="true", help=argparse.SUPPRESS)


def settings_from_flags(parsed: argparse.Namespace) -> Settings:
    """The settings from a parsed command line and the environment of this process."""
    flags = {name: value for name, value in vars(parsed).items() if name in Settings.model_fields or name in REMOVED}
    return read_settings(flags, os.environ)
