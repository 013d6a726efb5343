"""Triton's extensions: the configuration of a model, and its statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from darkroom.models.errors import UnknownVersion
from darkroom.models.versions.folder import MODEL_FOLDER
from darkroom.models.versions.policy import Policy
from darkroom.service.api.open_inference.request import find
from darkroom.service.config.repository import RepositoryEntry
from darkroom.service.serving.sources import policy_of, settings_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from darkroom.models.spec import TensorSpec
    from darkroom.service.parts import Darkroom
    from darkroom.service.serving.servable import Target


def describe_config(darkroom: Darkroom, name: str, version: str | None) -> Any:
    """The `ModelConfig` of a model: its config.pbtxt, completed by what the server found and decided.

    Raises:
        UnknownModel, UnknownVersion, NotReady: there is none; the message lists what exists.
    """
    from darkroom.service.config.triton import BACKEND, PLATFORM, ModelConfig, config_of  # noqa: PLC0415 - protobuf

    target = find(darkroom.registry, name, version)
    entry = darkroom.manager.entries.get(name)
    settings = darkroom.settings if entry is None else settings_of(entry, darkroom.settings)
    config = config_of(entry) if isinstance(entry, RepositoryEntry) else ModelConfig()
    config.name, config.platform, config.backend = name, PLATFORM, BACKEND
    config.default_model_filename = config.default_model_filename or MODEL_FOLDER
    if target.spec.batched and not (config.input or config.output or config.max_batch_size):
        config.max_batch_size = settings.max_batch_images
    if target.spec.batched and config.WhichOneof("scheduling_choice") is None:
        config.dynamic_batching.max_queue_delay_microseconds = round(settings.batch_linger_ms * 1000)
    if not config.HasField("version_policy"):
        policy = Policy.parse(settings.model_version_policy) if entry is None else policy_of(entry, settings)
        _fill_policy(config.version_policy, policy)
    is_batched = config.max_batch_size > 0
    _fill_tensors(config.input, target.spec.inputs, is_batched=is_batched)
    _fill_tensors(config.output, target.spec.outputs, is_batched=is_batched)
    if not config.instance_group:
        _fill_instances(config, darkroom, target)
    return config


def _fill_policy(described: Any, policy: Policy) -> None:
    if policy.specific is not None:
        described.specific.versions.extend(sorted(policy.specific))
    elif policy.latest is not None:
        described.latest.num_versions = policy.latest
    else:
        described.all.SetInParent()


def _fill_tensors(described: Any, tensors: Iterable[TensorSpec], *, is_batched: bool) -> None:
    """Describes the signature's tensors, unless config.pbtxt does; -1 is an unknown size. `dims` are without the batch."""
    from darkroom.service.serving.triton import DATA_TYPES  # noqa: PLC0415 - protobuf

    if described:
        return
    for tensor in tensors:
        shape = [-1 if size is None else size for size in tensor.shape or ()]
        described.add(
            name=tensor.name, data_type=f"TYPE_{DATA_TYPES[tensor.dtype]}", dims=shape[1:] if is_batched else shape
        )


def _fill_instances(config: Any, darkroom: Darkroom, target: Target) -> None:
    """Describes the engines of a signature: the kind of their devices, and the calls in flight on each."""
    devices = sorted(target.metrics.device_batches)
    gpus = [int(device.removeprefix("gpu:")) for device in devices if device.startswith("gpu:")]
    servable = darkroom.registry.record(target.model.name, target.model.version).servable
    count = servable.inflight.get(target.spec.name, 1) if servable is not None else 1
    config.instance_group.add(
        name=f"{target.model.name}_0", kind="KIND_GPU" if gpus else "KIND_CPU", count=count, gpus=gpus
    )


def as_json(message: Any) -> dict[str, Any]:
    """A message as Triton prints it: every field but what is not chosen, under its own name; 64-bit numbers as numbers."""
    described: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            inner = field.message_type.fields_by_name["value"]
            described[field.name] = {str(key): _plain(inner, each) for key, each in value.items()}
        elif field.is_repeated:
            described[field.name] = [_plain(field, each) for each in value]
        elif not field.has_presence or message.HasField(field.name):
            described[field.name] = _plain(field, value)
    return described


def _plain(field: Any, value: Any) -> Any:
    """One value of a field, ready for JSON; an enum by its name, or by its number if it has none."""
    if field.message_type is not None:
        return as_json(value)
    if field.enum_type is not None and value in field.enum_type.values_by_number:
        return field.enum_type.values_by_number[value].name
    return value


async def statistics_of(darkroom: Darkroom, name: str | None, version: str | None) -> list[dict[str, Any]]:
    """The statistics of one version, of all versions of one model, or of all models; of all workers together.

    Raises:
        UnknownModel, UnknownVersion: there is no such model, or the version was never loaded.
    """
    every = await darkroom.peers.statistics()
    if name is None:
        return every
    known = [record.version for record in darkroom.registry.records(name)]
    darkroom.registry.versions(name)  # of an unknown model it raises
    number = version
    if version is not None and not (version.isascii() and version.isdigit()):
        number = str(darkroom.registry.labelled(name, version))
    found = [each for each in every if each["name"] == name and number in {None, each["version"]}]
    if not found and version is not None:
        raise UnknownVersion(name, version, known)
    return found
