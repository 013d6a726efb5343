"""Every setting of the server, frozen and checked as a whole: one line each with its unit, its default and where that came from."""

from __future__ import annotations

import argparse
import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from darkroom.service.config.model_config import (
    BadSettingsError,
    JsonObject,
    Labels,
    LogLevel,
    ModelEntry,
    Numbers,
    Paths,
    VersionPolicy,
    explain,
    read_model_config,
)
from darkroom.service.config.tokens import read_tokens

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "DARKROOM_"


class Settings(BaseModel):
    """What the server does, decided before it starts and never changed after.

    Each field is a flag (`--name=value`) and an environment variable (`DARKROOM_NAME`); the flag wins. The flags of Simple
    TensorFlow Serving keep their names. Origins in the descriptions: STS = that server's default, precedent = what the
    servers people come from do, measured = a figure in docs/, guess = a number to argue with.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    # A table, one line a setting.
    # fmt: off
    host: str = Field("0.0.0.0", description="address to listen on (STS)")  # noqa: S104 - a server in a container; auth and ports are the operator's
    port: int = Field(8500, ge=0, le=65535, description="port to listen on; 0 picks a free one (STS)")
    workers: int = Field(1, ge=1, le=64, description="processes behind the address, each with an event loop, queues and engines of its own; limits of queues, connections and bodies are each one's own (measured: 1, unless the model is small)")
    worker_timeout_ms: float = Field(30_000.0, ge=0, description="a ready worker whose event loop stands still for so long is killed and replaced; 0: never (precedent: gunicorn)")
    model_name: str = Field("default", min_length=1, description="name of the model of --model_base_path (STS)")
    model_base_path: Path = Field(Path("model"), description="folder of numeric version folders; `fake` serves a model without TensorFlow (STS)")
    model_platform: str = Field("tensorflow", description="kind of model; only tensorflow is served (STS)")
    model_config_file: Path | None = Field(None, description="JSON file of several models, wins over --model_base_path (STS)")
    custom_op_paths: Paths = Field((), description="comma-separated folders; every *.so in them is loaded before any model (STS)")
    session_config: JsonObject = Field({}, description="JSON: log_device_placement, allow_soft_placement, allow_growth, per_process_gpu_memory_fraction (STS)")
    model_version_policy: VersionPolicy = Field("all", description="which versions are served: all, latest, latest:N or specific:N,M (STS served all)")
    version_labels: Labels = Field({}, description='JSON: names for versions, as {"stable": 1, "canary": 2} (precedent: TF Serving)')
    cache_dir: Path | None = Field(None, description="folder for prepared models, of this user alone; default: darkroom in $XDG_CACHE_HOME or ~/.cache (precedent)")
    max_cache_bytes: int = Field(4 << 30, ge=0, description="what --cache_dir may hold; the least used go first (guess)")
    load_timeout_ms: float = Field(600_000.0, gt=0, description="how long the process that prepares a version may take (guess)")
    device: str = Field("auto", pattern=r"^(auto|cpu(:[1-9][0-9]?)?|gpu(:[0-9]+(,[0-9]+)*)?)$", description="where models run: auto (every GPU, else the CPU), cpu, gpu, gpu:0,1; an engine on each; cpu:N makes N logical devices, for tests (precedent)")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16: convolutions in bfloat16 where the CPU has it; lossy, tried at load, refused past --max_drift (measured: 0.1 in one model)")
    max_drift: float = Field(0.05, ge=0, description="how far --precision=bf16 may move any float of an answer to the warm-up rows (guess)")
    xla: bool = Field(False, description="compile the layers with XLA; tried at load for each signature, kept only where faster. every batch size is compiled when it first comes, so set few --allowed_batch_sizes (measured: off)")
    intra_op_threads: int = Field(0, ge=0, description="threads inside one TensorFlow op; 0 takes the cores that affinity and the container allow, shared out among the workers (precedent)")
    inter_op_threads: int = Field(-1, ge=-1, description="TensorFlow ops that run at once; -1 runs them in the calling thread, 0 lets TensorFlow choose (measured)")

    max_batch_images: int = Field(32, ge=1, description="most images in one engine call, fewer where the warm-up sees larger ones do worse; the scheduler looks for the best size below it (guess)")
    max_batch_bytes: int = Field(64 << 20, ge=1, description="most encoded bytes in one engine call (guess)")
    max_batch_pixels: int = Field(200_000_000, ge=1, description="most decoded pixels in one engine call: about 600 MB of RGB bytes (guess)")
    allowed_batch_sizes: Numbers = Field((), description="comma-separated sizes to pad a batch up to; empty: no padding (precedent: TF Serving)")
    max_inflight_batches: int = Field(0, ge=0, le=64, description="engine calls at once for one signature; 0 measures at warm-up (measured)")
    batch_linger_ms: float = Field(0.0, ge=0, description="how long a batch may wait for company while the engine is idle (measured: 0)")
    max_queue_images: int = Field(2048, ge=1, description="images that may wait for one signature; more are refused with 429 (guess)")
    max_queue_bytes: int = Field(512 << 20, ge=1, description="encoded bytes that may wait for one signature (guess)")
    slo_ms: float = Field(0.0, ge=0, description="promised latency; late work is refused or dropped; 0 promises nothing (precedent)")
    isolation: bool = Field(True, description="bisect a batch that fails by a client's fault, so that only the guilty row fails; off only to compare (measured)")
    request_timeout_ms: float = Field(30_000.0, gt=0, description="deadline of a request that names none (guess)")
    drain_timeout_ms: float = Field(20_000.0, ge=0, description="how long a stopping server finishes what it accepted (Kubernetes' 30 s, less a margin)")

    allocator: Literal["auto", "jemalloc", "system"] = Field("auto", description="auto: memory by jemalloc where it is installed (Debian: libjemalloc2), else as system does: the C library and TensorFlow's pool; jemalloc: nothing else (measured)")
    fast_lane: bool = Field(True, description="plain predict requests go past Sanic's request path; off only to compare (measured)")
    max_connections: int = Field(8192, ge=1, description="most connections at once; one more takes the place of an idle one, or gets 503 (guess)")
    read_timeout_ms: float = Field(60_000.0, gt=0, description="time a client has to send a request whole, also byte by byte; then 408 (precedent: nginx gives 60 s for the head)")
    max_receiving_bytes: int = Field(1 << 30, ge=1 << 20, description="most bytes of all requests that are not whole yet; past it those over 64 KB get 503 (guess)")
    max_body_bytes: int = Field(64 << 20, ge=8192, description="largest request body, also once inflated (guess)")
    compress_answers: bool = Field(False, description="pack answers of 1 KB and more for clients that send Accept-Encoding: gzip or deflate (measured: off, in a fast network packing takes longer than it saves)")
    max_images: int = Field(1024, ge=1, description="most images in one request (guess)")
    max_image_bytes: int = Field(20 << 20, ge=1, description="largest encoded image (guess)")
    max_image_pixels: int = Field(50_000_000, ge=1, description="width x height of the largest image, read from its header (precedent: 50 MP cameras)")

    enable_auth: bool = Field(False, description="ask for HTTP basic auth on everything but health (STS)")
    auth_username: str = Field("admin", min_length=1, description="user of --enable_auth (STS)")
    auth_password: SecretStr = Field(SecretStr(""), description="password of --enable_auth; there is no default (STS had one)")
    auth_tokens_file: Path | None = Field(None, description="file of bearer tokens, hashed, made by `darkroom token`; asks for credentials on everything but health (precedent: none)")
    enable_ssl: bool = Field(False, description="serve HTTPS (STS)")
    secret_pem: Path = Field(Path("secret.pem"), description="certificate of --enable_ssl (STS)")
    secret_key: Path = Field(Path("secret.key"), description="private key of --enable_ssl (STS)")
    enable_cors: bool = Field(False, description="let pages of other origins call this server (STS: true; a browser can then be made to)")
    reload_models: bool = Field(True, description="follow the version folders while running (STS: true)")
    reload_interval_ms: float = Field(1000.0, gt=0, description="how often the folders are looked into; one is loaded when its files stood still for two such times (precedent: TF Serving)")
    enable_b64_autoconvert: bool = Field(False, description='accepted for old start scripts; {"b64": ...} is always understood (STS)')
    download_inference_images: bool = Field(False, description="accepted for old start scripts; nothing a client sends is ever written to disk (STS)")

    log_level: LogLevel = Field("info", description="least important line that is logged: debug, info, warning, error or critical (STS)")
    log_format: Literal["auto", "text", "json"] = Field("auto", description="auto: text on a terminal, JSON lines elsewhere (precedent)")
    access_log: bool = Field(False, description="a line a request (measured: off, the metrics tell it for less)")
    debug: bool = Field(False, description="log_level=debug (STS)")
    # fmt: on

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        """The rules that need two fields; all that are broken are told at once."""
        problems = [text for is_broken, text in self._rules() if is_broken]
        try:
            _ = self.auth_tokens_file and read_tokens(self.auth_tokens_file)
        except (OSError, ValueError) as err:
            problems.append(f"auth_tokens_file: {err}")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _rules(self) -> list[tuple[bool, str]]:
        """Each rule that spans fields: (is it broken, what to do about it)."""
        sizes = self.allowed_batch_sizes
        return [
            (
                self.model_platform != "tensorflow",
                f"model_platform: {self.model_platform!r} can't be served, only 'tensorflow'",
            ),
            (
                self.enable_auth and not self.auth_password.get_secret_value() and self.auth_tokens_file is None,
                "enable_auth: needs --auth_password (or DARKROOM_AUTH_PASSWORD), or --auth_tokens_file",
            ),
            (bool(sizes) and list(sizes) != sorted(set(sizes)), "allowed_batch_sizes: must rise, without repeats"),
            (bool(sizes) and min(sizes) < 1, "allowed_batch_sizes: sizes start at 1"),
            (
                bool(sizes) and max(sizes) != self.max_batch_images,
                "allowed_batch_sizes: the last must equal --max_batch_images",
            ),
            (self.max_queue_images < self.max_batch_images, "max_queue_images: must be at least --max_batch_images"),
            (self.enable_ssl and not self.secret_pem.is_file(), f"secret_pem: no such file: {self.secret_pem}"),
            (self.enable_ssl and not self.secret_key.is_file(), f"secret_key: no such file: {self.secret_key}"),
        ]

    @property
    def has_auth(self) -> bool:
        """Whether callers are asked who they are."""
        return self.enable_auth or self.auth_tokens_file is not None

    @property
    def effective_log_level(self) -> str:
        """`log_level`, or `debug` where --debug asks for it."""
        return "debug" if self.debug else self.log_level

    @cached_property
    def models(self) -> tuple[ModelEntry, ...]:
        """The models to serve, read once: those of --model_config_file, else the one of --model_base_path.

        Raises:
            BadSettingsError: the file can't be read, isn't the JSON that STS reads, or names a platform that isn't served.
        """
        if self.model_config_file is None:
            entry = ModelEntry(
                name=self.model_name,
                base_path=self.model_base_path,
                custom_op_paths=self.custom_op_paths,
                session_config=self.session_config,
                version_labels=self.version_labels,
            )
            return (entry,)
        return read_model_config(self.model_config_file)

    def changed(self) -> dict[str, Any]:
        """The settings that were given, as `redacted`: what is printed at the start."""
        return self.model_dump(mode="json", exclude_unset=True)

    def redacted(self) -> dict[str, Any]:
        """The settings as JSON-ready values, secrets as stars."""
        return self.model_dump(mode="json")


def read_settings(flags: Mapping[str, str], environment: Mapping[str, str]) -> Settings:
    """Settings from flags over DARKROOM_* variables over defaults.

    Raises:
        BadSettingsError: with every problem at once: unknown DARKROOM_* names, values that don't parse, rules that are broken.
    """
    known = Settings.model_fields
    from_environment = {
        name.removeprefix(PREFIX).lower(): value for name, value in environment.items() if name.startswith(PREFIX)
    }
    problems = [
        f"{PREFIX}{name.upper()}: there is no such setting" for name in sorted(from_environment) if name not in known
    ]
    values = {name: value for name, value in from_environment.items() if name in known} | dict(flags)
    try:
        settings = Settings.model_validate(values)
    except ValidationError as err:
        problems += explain(err)
    if problems:
        raise BadSettingsError(problems)
    return settings


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds a `--flag` for every field; values stay text for `read_settings` to judge, so that all problems are told at once."""
    for name, field in Settings.model_fields.items():
        is_switch = field.annotation is bool
        default = field.get_default(call_default_factory=True)
        shown = (
            ""
            if isinstance(default, SecretStr) or default in ((), {}, None)
            else f" [{str(default).lower() if is_switch else default}]"
        )
        parser.add_argument(
            f"--{name}",
            default=argparse.SUPPRESS,
            nargs="?" if is_switch else None,
            const="true" if is_switch else None,
            metavar="BOOL" if is_switch else "VALUE",
            help=f"{field.description}{shown}".replace("%", "%%"),
        )


def settings_from_flags(parsed: argparse.Namespace) -> Settings:
    """Settings from a parsed command line and this process's environment."""
    flags = {name: value for name, value in vars(parsed).items() if name in Settings.model_fields}
    return read_settings(flags, os.environ)
