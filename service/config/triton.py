"""Triton's `config.pbtxt`: what each of its fields does here, and the model entry that it makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from darkroom.models.versions.folder import MODEL_FOLDER
from darkroom.service.config.model_config import BadSettingsError
from darkroom.service.config.protobuf import parse_text
from darkroom.service.config.repository import RepositoryEntry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILE = "config.pbtxt"
MAX_CONFIG_BYTES = 1 << 20  # guess: real ones have a few KB
MAX_INSTANCES = 64  # of `max_inflight_batches`
PLATFORM, BACKEND = "tensorflow_savedmodel", "tensorflow"
_TENSORRT = "refused: TensorRT's"
_COMPARED = "compared with the signature when the model is loaded; a difference refuses the version"
_WARM = "the rows run before the version is served, and stand for its traffic in the warm-up"

# What each field does. A message without a row of its own has a row for each of its fields.
FIELDS = {
    "name": "the name of the model's folder; another one is refused",
    "platform": f"`{PLATFORM}`; any other is refused",
    "backend": f"`{BACKEND}`; any other is refused",
    "runtime": "no effect: there are no backend libraries",
    "version_policy.latest.num_versions": "so many of the newest versions are served; 1 if the policy is left out, as in Triton",
    "version_policy.all": "every version is served",
    "version_policy.specific.versions": "these versions are served",
    "max_batch_size": "`--max_batch_images` of this model; 0: the server's",
    "input.name": _COMPARED,
    "input.data_type": _COMPARED,
    "input.format": "no effect: the signature says it",
    "input.dims": _COMPARED,
    "input.reshape": "refused, unless it has the shape of `dims`: send the shape that the signature has",
    "input.is_shape_tensor": _TENSORRT,
    "input.allow_ragged_batch": "refused: requests of different shapes never share a call",
    "input.optional": "no effect: an input may be left out if the signature has a default for it",
    "input.is_non_linear_format_io": _TENSORRT,
    "output.name": _COMPARED,
    "output.data_type": _COMPARED,
    "output.dims": _COMPARED,
    "output.reshape": "refused, unless it has the shape of `dims`: the answer has the shape of the signature",
    "output.label_filename": "the names of this output's classes, a line each, for classification and `top_k`",
    "output.is_shape_tensor": _TENSORRT,
    "output.is_non_linear_format_io": _TENSORRT,
    "batch_input": "refused: no inputs are made of the batch",
    "batch_output": "refused: no outputs are made of the batch",
    "optimization": "no effect: each graph is rewritten, and the rewrite is verified, in any case",
    "dynamic_batching.preferred_batch_size": "the largest is `--max_batch_images` of this model; which sizes below it are fastest is measured",
    "dynamic_batching.max_queue_delay_microseconds": "`--batch_linger_ms` of this model",
    "dynamic_batching.preserve_ordering": "no effect: each call gets its own answer",
    "dynamic_batching.priority_levels": "no effect: priority 1 goes to the interactive lane, 2 and more to the bulk lane",
    "dynamic_batching.default_priority_level": "no effect: a request that names no priority is interactive",
    "dynamic_batching.default_queue_policy": "no effect: `--max_queue_images` bounds the queue, `--request_timeout_ms` and the request's `timeout` the wait",
    "dynamic_batching.priority_queue_policy": "no effect: as the default queue policy",
    "sequence_batching": "refused: nothing is kept from one request to the next",
    "ensemble_scheduling": "refused: models are not connected to each other; export them as one",
    "instance_group.name": "no effect: groups have no names",
    "instance_group.kind": "`--device` of this model: `KIND_CPU` is `cpu`, `KIND_GPU` is `gpu`; `KIND_AUTO` and `KIND_MODEL` leave it to the server",
    "instance_group.count": f"`--max_inflight_batches` of this model, for each device; at most {MAX_INSTANCES}",
    "instance_group.rate_limiter": "no effect: calls of all models run as their threads are free",
    "instance_group.gpus": "the GPUs of `KIND_GPU`: `--device=gpu:0,1`",
    "instance_group.secondary_devices": "refused: there are none",
    "instance_group.profile": _TENSORRT,
    "instance_group.passive": "refused: every instance takes requests",
    "instance_group.host_policy": "no effect: set affinity from outside, for example with `taskset`",
    "default_model_filename": f"the folder in each version folder, `{MODEL_FOLDER}` if left out",
    "cc_model_filenames": "refused: there is one model for all GPUs",
    "metric_tags": "no effect: metrics have the labels `model` and `version`",
    "parameters": "`TF_SIGNATURE_DEF` must be `serving_default` and `TF_GRAPH_TAG` must be `serve`; `TF_INIT_OPS_FILE` is refused; any other has no effect",
    "model_warmup.name": "names the sample in messages",
    "model_warmup.batch_size": "how many rows like this the sample has",
    "model_warmup.inputs.data_type": _WARM,
    "model_warmup.inputs.dims": _WARM,
    "model_warmup.inputs.zero_data": _WARM,
    "model_warmup.inputs.random_data": _WARM,
    "model_warmup.inputs.input_data_file": "read from the folder `warmup` of the model; " + _WARM,
    "model_warmup.count": "how often the sample is run; 0: once",
    "model_operations": "refused: `--custom_op_paths` loads libraries, for all models",
    "model_transaction_policy.decoupled": "refused if true: each request has one answer",
    "model_repository_agents": "refused: nothing checks or changes the files before they are read",
    "response_cache": "no effect: answers are not cached",
    "model_metrics": "no effect: docs/metrics.md lists the metrics and their buckets",
}  # fmt: skip

ModelConfig: Any = type(parse_text("inference.ModelConfig", ""))


def config_of(entry: RepositoryEntry) -> Any:
    """The `ModelConfig` of an entry; an empty one if the model has no config.pbtxt."""
    return ModelConfig.FromString(entry.config or b"")


def read_entry(folder: Path) -> RepositoryEntry:
    """The entry of a model's folder, with or without a config.pbtxt.

    Raises:
        BadSettingsError: config.pbtxt can't be read, or says something that this server can't do; lists everything.
    """
    try:
        with (folder / FILE).open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except FileNotFoundError:
        return RepositoryEntry(name=folder.name, base_path=folder)
    except OSError as err:
        raise BadSettingsError([f"{FILE} can't be read: {err.strerror}"]) from err
    if len(data) > MAX_CONFIG_BYTES:
        raise BadSettingsError([f"{FILE} is over {MAX_CONFIG_BYTES} bytes"])
    return entry_of(folder, parse_config(data))


def parse_config(data: bytes) -> Any:
    """The `ModelConfig` of a text.

    Raises:
        BadSettingsError: the text is no such message; says the line.
    """
    try:
        return parse_text("inference.ModelConfig", data.decode("utf-8"))
    except ValueError as err:
        raise BadSettingsError([f"{FILE}: {err}"]) from err


def entry_of(folder: Path, config: Any) -> RepositoryEntry:
    """The entry of a model whose config.pbtxt says `config`.

    Raises:
        BadSettingsError: lists every field that this server can't follow.
    """
    used = list(used_fields(config))
    # Others than these have rules of their own, in `_problems`.
    problems = [
        f"{path} is {FIELDS[path]}" for path in used if FIELDS[path].startswith(("refused:", "refused if true:"))
    ]
    problems += _problems(folder.name, config)
    overrides: dict[str, Any] = {}
    try:
        overrides = _batching(config) | _instances(config.instance_group)
    except ValueError as err:
        problems.append(str(err))
    if problems:
        raise BadSettingsError([f"{FILE}: {problem}" for problem in problems])
    idle = [f"{path}: {FIELDS[path]}" for path in used if FIELDS[path].startswith("no effect")]
    return RepositoryEntry(
        name=folder.name,
        base_path=folder,
        model_version_policy=_policy(config.version_policy),
        overrides=overrides,
        model_folder=config.default_model_filename or MODEL_FOLDER,
        config=config.SerializeToString(deterministic=True),
        idle=tuple(idle + [f"parameters.{key}: no effect" for key in sorted(config.parameters) if key not in _MUST_BE]),
    )


_MUST_BE = {"TF_SIGNATURE_DEF": "serving_default", "TF_GRAPH_TAG": "serve", "TF_INIT_OPS_FILE": ""}


def used_fields(message: Any, prefix: str = "") -> Iterator[str]:
    """The paths of the fields that are set, once each: those of FIELDS, and of what stands in no row."""
    for field, value in message.ListFields():
        path = f"{prefix}{field.name}"
        if path in FIELDS or field.message_type is None:
            inner = [path]
        elif field.message_type.GetOptions().map_entry:
            inner = [each for one in value.values() for each in used_fields(one, f"{path}.")]
        else:
            every = value if field.is_repeated else [value]
            inner = [each for one in every for each in used_fields(one, f"{path}.")]
        yield from dict.fromkeys(inner)


def _problems(name: str, config: Any) -> list[str]:
    """What can't be followed of fields that can be in part."""
    rules = [
        (config.name not in {"", name}, f"name: is {config.name!r}, and the folder is {name!r}"),
        (
            config.platform not in {"", PLATFORM},
            f"platform: {config.platform!r} can't be served, only {PLATFORM!r}: no other framework is",
        ),
        (
            config.backend not in {"", BACKEND},
            f"backend: {config.backend!r} can't be served, only {BACKEND!r}: no other framework is",
        ),
        (config.max_batch_size < 0, f"max_batch_size: {config.max_batch_size} is below 0"),
        (
            any(sign in config.default_model_filename for sign in ("/", "\0")) or config.default_model_filename == "..",
            f"default_model_filename: {config.default_model_filename!r} is no name of a folder",
        ),
    ]
    for kind in ("input", "output"):
        for each in getattr(config, kind):
            is_reshaped = each.HasField("reshape") and list(each.reshape.shape) != list(each.dims)
            rules.append((is_reshaped, f"{kind} {each.name!r}: reshape: {FIELDS[f'{kind}.reshape']}"))
    for key, wanted in _MUST_BE.items():
        given = config.parameters[key].string_value if key in config.parameters else wanted
        rules.append((given != wanted, f"parameters: {key} is {given!r}; {FIELDS['parameters']}"))
    return [text for is_broken, text in rules if is_broken]


def _policy(policy: Any) -> str:
    """The version policy in the words of `--model_version_policy`."""
    kind = policy.WhichOneof("policy_choice")
    if kind == "specific":
        return f"specific:{','.join(map(str, policy.specific.versions)) or '0'}"
    return "all" if kind == "all" else f"latest:{policy.latest.num_versions or 1}"


def _batching(config: Any) -> dict[str, Any]:
    """The settings of batches. Without a limit of its own the model has the server's.

    Raises:
        ValueError: a size can't be meant.
    """
    dynamic = config.dynamic_batching
    sizes = list(dynamic.preferred_batch_size)
    most = config.max_batch_size
    if any(size < 1 or size > (most or size) for size in sizes):
        raise ValueError(
            f"dynamic_batching.preferred_batch_size: {sizes} must be at least 1 and at most max_batch_size, {most}"
        )
    overrides: dict[str, Any] = {}
    if largest := max(sizes, default=most):
        overrides["max_batch_images"] = largest
    if dynamic.max_queue_delay_microseconds:
        overrides["batch_linger_ms"] = dynamic.max_queue_delay_microseconds / 1000
    return overrides


def _instances(groups: Any) -> dict[str, Any]:
    """The settings of the engines: how many calls at once, and on which devices.

    Raises:
        ValueError: the groups can't be followed together.
    """
    if not groups:
        return {}
    kinds = {group.kind for group in groups}
    if len(kinds) > 1:
        raise ValueError("instance_group: groups of different kinds are not served together")
    counts = [group.count or 1 for group in groups]
    names = type(groups[0]).DESCRIPTOR.enum_types_by_name["Kind"].values_by_number
    kind = names[kinds.pop()].name
    gpus = [gpu for group in groups for gpu in group.gpus]
    if kind != "KIND_GPU" and gpus:
        raise ValueError(f"instance_group.gpus: {gpus} are for KIND_GPU, and the kind is {kind}")
    if kind == "KIND_GPU" and len(set(counts)) > 1:
        raise ValueError(f"instance_group.count: {counts} differ, and each GPU has as many calls at once")
    count = counts[0] if kind == "KIND_GPU" else sum(counts)
    if not 1 <= count <= MAX_INSTANCES:
        raise ValueError(f"instance_group.count: {count} must be 1 to {MAX_INSTANCES}")
    device = {"KIND_CPU": "cpu", "KIND_GPU": f"gpu:{','.join(map(str, sorted(set(gpus))))}" if gpus else "gpu"}
    # A group without a count is one instance in Triton; here it leaves the number to the measurement.
    is_counted = any(group.count for group in groups)
    return ({"max_inflight_batches": count} if is_counted else {}) | (
        {"device": device[kind]} if kind in device else {}
    )
